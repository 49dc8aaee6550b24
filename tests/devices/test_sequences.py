"""Tokens divided among devices: the same update as that of data parallel training, and less memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
from sequences import CASES
from test_devices import free_port

from vit_jax.devices.parallel import check_batch_size, make_parallel
from vit_jax.errors import UserError


def started(out, devices, *distributed):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        "PYTHONPATH": str(tiny.ROOT),
    }
    arguments = [str(tiny.ROOT / "tests" / "devices" / "sequences.py"), str(out), *map(str, distributed)]
    return subprocess.Popen([sys.executable, *arguments], env=environment, text=True, stderr=subprocess.PIPE)


@pytest.fixture(scope="module", params=["4 devices", "2 processes"])
def updates(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("updates") / "found.npz"
    if request.param == "4 devices":
        processes = [started(out, 4)]
    else:
        port = free_port()
        processes = [started(out, 2, port, i) for i in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return dict(np.load(out))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["-".join(map(str, case)) for case in CASES if case[1] != "pmap"])
def test_the_update_is_that_of_data_parallel_training(updates, case):
    scheme = case.partition("-")[0]
    ours, expected = (
        {name.partition(":")[2]: value for name, value in updates.items() if name.startswith(f"{prefix}:")}
        for prefix in (case, f"{scheme}-pmap-1")
    )
    assert ours.keys() == expected.keys()
    assert max(np.abs(value).max() for value in expected.values()) > 0.1
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(
    ("strategy", "number", "message"),
    [("pmap", 2, "config.sequence_devices=2 needs config.parallel='fsdp', got 'pmap'"),
     ("fsdp", 7, "config.sequence_devices=7 does not divide the 1 device of a process")],
)  # fmt: skip
def test_devices_that_cannot_share_an_example_are_refused(strategy, number, message):
    with pytest.raises(UserError, match=message):
        make_parallel(strategy, number)


def test_a_group_of_devices_counts_as_one_for_the_batch(monkeypatch):
    monkeypatch.setattr("jax.device_count", lambda: 8)
    check_batch_size(2, 1, sequence_devices=4)
    with pytest.raises(UserError, match=r"batch_size=3 does not divide over 2 groups of 4 devices; try 2"):
        check_batch_size(3, 1, sequence_devices=4)
