"""Strategies on four devices: which arrays are sharded, and the same update and metrics as on one device."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from on_devices import DEVICES, SHAPES, example_batch, example_kernel

from vit_jax.devices.parallel import check_batch_size, make_parallel
from vit_jax.errors import UserError

HERE = pathlib.Path(__file__).parent
# the largest axis that four divides, of arrays of 2**14 elements or more
SHARDED = {
    "wide kernel": (128, 64),
    "tall kernel": (128, 64),
    "three axes": (8, 64, 16),
    "odd width": (32, 257),
    "odd height": (257, 32),
    "square kernel": (32, 128),
    "long vector": (2**13,),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("devices") / "found.npz"
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)]),
    }
    done = subprocess.run([sys.executable, str(HERE / "on_devices.py"), str(out)], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return dict(np.load(out))


@pytest.mark.parametrize("when", ["promised", "put", "returned", "saved"])
@pytest.mark.parametrize("name", SHAPES)
def test_large_arrays_are_sharded_under_fsdp_and_small_ones_are_not(found, name, when):
    pieces = tuple(found[f"fsdp/placement/{when}/{name}"])
    if name == "square kernel":  # either of two equal axes may be taken
        pieces = tuple(sorted(pieces))
    assert pieces == SHARDED.get(name, SHAPES[name])


@pytest.mark.parametrize("when", ["promised", "put", "returned", "saved"])
@pytest.mark.parametrize("name", SHAPES)
def test_everything_is_replicated_under_pmap(found, name, when):
    assert tuple(found[f"pmap/placement/{when}/{name}"]) == SHAPES[name]


@pytest.mark.parametrize("strategy", ["pmap", "fsdp"])
def test_a_step_sees_the_whole_batch_and_takes_the_state_with_it(found, strategy):
    assert found[f"{strategy}/placement/sum of the batch"] == 28
    assert found[f"{strategy}/placement/donated"].all()


@pytest.mark.parametrize("strategy", ["pmap", "fsdp"])
def test_rows_come_back_in_the_order_of_the_batch(found, strategy):
    rows = np.arange(24).reshape(8, 3)
    np.testing.assert_array_equal(found[f"{strategy}/prediction/predicted"], 10 * rows)
    np.testing.assert_array_equal(found[f"{strategy}/prediction/gathered batch"], rows)


@pytest.mark.parametrize("accum_steps", [1, 2])
@pytest.mark.parametrize("strategy", ["pmap", "fsdp"])
def test_an_update_and_all_of_its_metrics_are_those_of_the_whole_batch(found, strategy, accum_steps):
    ours = {
        name.split("/", 2)[2]: x for name, x in found.items() if name.startswith(f"{strategy}/update {accum_steps}/")
    }
    batch, kernel = example_batch(), example_kernel().astype(np.float64)
    inputs, mask = batch["inputs"].astype(np.float64), batch["mask"]
    error = (inputs @ kernel - batch["target"]) * mask
    gradient = error @ inputs / 5
    new = kernel - 0.5 * gradient
    expected = {
        "kernel": new,
        "ema": (1 - 0.9) * new,
        "step": 1,
        "loss/value": (0.5 * error**2).sum(),
        "loss/weight": 5,
        "absolute/value": np.abs(error).sum(),
        "absolute/weight": 5,
        "double/value": 10,
        "double/weight": 15,
        "gradient_norm/value": np.linalg.norm(gradient),
        "gradient_norm/weight": 1,
        "parameter_norm/value": np.linalg.norm(new),
        "parameter_norm/weight": 1,
    }
    assert np.linalg.norm(0.5 * gradient) > 0.1 * np.linalg.norm(kernel)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert not {name.split("/")[0] for name in ours} - {name.split("/")[0] for name in expected} - {
        "dropout_number", "mix_number",
    }  # fmt: skip


@pytest.mark.parametrize(("strategy", "accum_steps", "different"), [("pmap", 1, 4), ("pmap", 2, 8), ("fsdp", 2, 2)])
def test_every_device_and_micro_batch_draws_its_own_numbers(found, strategy, accum_steps, different):
    dropout, mix = (found[f"{strategy}/update {accum_steps}/{name}_number/value"][:8] for name in ("dropout", "mix"))
    assert len(np.unique(dropout)) == different  # fsdp is one program, in which a micro-batch draws for all devices
    assert len(np.unique(mix)) == 1


@pytest.mark.parametrize(("devices", "batch_size", "accum_steps", "way_out"), [
    (1, 8, 3, "6"), (4, 6, 1, "4"), (4, 12, 2, "8"), (4, 2, 1, "4"), (8, 100, 3, "96"),
])  # fmt: skip
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(
    monkeypatch, devices, batch_size, accum_steps, way_out
):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    with pytest.raises(UserError, match=rf"batch_size.*{batch_size}.*\b{way_out}\b"):
        check_batch_size(batch_size, accum_steps)
    check_batch_size(int(way_out), accum_steps)


@pytest.mark.parametrize(("batch_size", "accum_steps"), [(0, 1), (-4, 1), (4, 0)])
def test_a_batch_has_an_example_and_a_micro_batch(batch_size, accum_steps):
    with pytest.raises(UserError, match="batch_size"):
        check_batch_size(batch_size, accum_steps)


def test_an_unknown_strategy_is_named():
    with pytest.raises(UserError, match="fdsp"):
        make_parallel("fdsp")
