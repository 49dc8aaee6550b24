"""Mixing gives the same update on any number of devices; no device ever holds a whole sharded state."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.devices.parallel import check_batch_size, micro_batches, sum_over
from vit_jax.errors import UserError

HERE = pathlib.Path(__file__).parent
CASES = [(mix, strategy, accum) for mix in ("mixup", "cutmix") for strategy in ("pmap", "fsdp") for accum in (1, 2, 4)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Returns what `mixing_devices.py` computes on 1, 2 and 8 devices."""
    folder, done = tmp_path_factory.mktemp("mixing"), {}
    for devices in (1, 2, 8):
        out = folder / f"{devices}.npz"
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(HERE.parent.parent)}
        command = [sys.executable, str(HERE / "mixing_devices.py"), str(out)]
        process = subprocess.run(command, env=environment, text=True, stderr=subprocess.PIPE)
        assert process.returncode == 0, process.stderr
        done[devices] = dict(np.load(out))
    return done


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize(("mix", "strategy", "accum_steps"), CASES)
def test_a_mixed_batch_does_not_depend_on_devices_or_micro_batches(results, devices, mix, strategy, accum_steps):
    name, reference = f"{mix} {strategy} {accum_steps}", f"{mix} pmap 1"
    ours, theirs = results[devices], results[1]
    gradient = theirs[f"{reference} gradient"]
    assert np.linalg.norm(gradient) > 0.1
    assert np.linalg.norm(ours[f"{name} gradient"] - gradient) < 1e-6 * np.linalg.norm(gradient)
    np.testing.assert_allclose(ours[f"{name} loss"], theirs[f"{reference} loss"], rtol=1e-6)


@pytest.mark.parametrize(("mix", "strategy", "accum_steps"), CASES)
def test_a_step_traces_the_model_once(results, mix, strategy, accum_steps):
    assert results[2][f"{mix} {strategy} {accum_steps} traces"] == 1


@pytest.mark.parametrize("strategy", ["pmap", "fsdp"])
def test_a_state_is_initialised_in_its_placement_with_the_same_bits(results, strategy):
    assert results[8][f"sharded {strategy} equal"]
    assert results[8][f"sharded {strategy} placement"]


@pytest.mark.parametrize("when", ["initialised", "stepped", "evaluated", "restored"])
def test_no_device_holds_more_than_its_share_under_fsdp(results, when):
    assert results[8][f"sharded {when}"] < 0.15  # an eighth, and what is too small to be sharded


def test_the_program_of_initialisation_needs_no_whole_array(results):
    assert results[8]["sharded program"] < 0.3  # outputs and temporary arrays


def test_a_sharded_state_is_evaluated_and_restored(results):
    assert results[8]["sharded examples"] == results[8]["sharded rows"] == 50
    assert results[8]["sharded restored equal"]


@pytest.mark.parametrize(("group", "accum_steps"), [(1, 1), (1, 4), (2, 1), (2, 3), (8, 2)])
@pytest.mark.parametrize("shares", [1, 2, 4])
def test_micro_batches_keep_groups_together_and_take_as_much_of_every_share(group, accum_steps, shares):
    rows = 2 * group * accum_steps * shares
    batch = {"id": np.arange(rows), "image": np.arange(rows)[:, None] * np.ones((1, 3))}
    split = micro_batches(batch, accum_steps, group)
    assert split["image"].shape == (accum_steps, rows // accum_steps, 3)
    np.testing.assert_array_equal(split["image"][..., 0], split["id"])
    assert sorted(split["id"].ravel().tolist()) == list(range(rows))
    for micro_batch in split["id"]:
        groups = micro_batch.reshape(-1, group)
        assert (groups == groups[:, :1] + np.arange(group)).all()
        assert (groups[:, 0] % group == 0).all()
        counts = np.bincount(micro_batch * shares // rows, minlength=shares)
        assert (counts == len(micro_batch) // shares).all()


@pytest.mark.parametrize("elements", [1, 5])
def test_a_sum_is_traced_once_and_keeps_structure_and_types(elements):
    calls = []

    def function(x):
        calls.append(x)
        return {"square": x["a"] ** 2 * scale, "count": x["b"].sum()}

    @jax.jit
    def total(xs):
        nonlocal scale
        scale = scale * jnp.float32(1)  # a closure over what is itself traced
        return sum_over(function, xs)

    scale = jnp.float32(3)
    xs = {"a": jnp.arange(1.0, elements + 1), "b": jnp.ones((elements, 2), jnp.int32)}
    result = total(xs)
    assert len(calls) == 1
    assert result["square"] == 3 * sum(i**2 for i in range(1, elements + 1))
    assert (result["count"], result["count"].dtype) == (2 * elements, jnp.int32)


def test_a_share_without_pairs_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    check_batch_size(24, 3, group=2)
    check_batch_size(12, 3)
    with pytest.raises(UserError) as caught:
        check_batch_size(12, 3, group=2)
    assert str(caught.value) == (
        "config.batch_size=12 over 4 devices x 3 accum_steps leaves 1 example per share, but mixup and CutMix need a "
        "multiple of 2 to form pairs; try 24, or set the mixing alphas to 0"
    )
