"""The update does not depend on the number of devices, processes and micro-batches."""

import numpy as np
import pytest
import tiny
from simulated import free_port, results, start

CASES = ("pmap-float32-1", "pmap-float64-1", "pmap-float64-2", "fsdp-float64-2")  # strategy, dtype, micro-batches


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    """Returns 20 updates with every strategy on 1, 2 and 8 devices, and on 2 processes of 2."""
    folder = tmp_path_factory.mktemp("updates")
    done = {}
    for devices in (1, 2, 8):
        out = folder / f"{devices}.npz"
        done[str(devices)] = results(out, start("steps.py", out, devices))
    out, port = folder / "processes.npz", free_port()
    done["processes"] = results(out, *(start("steps.py", out, 2, port, i) for i in range(2)))
    return done


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("devices", ["1", "2", "8", "processes"])
def test_devices_processes_and_micro_batches_change_nothing(updates, devices, case):
    ours = {name.partition(":")[2]: value for name, value in updates[devices].items() if name.startswith(case)}
    tolerance = 1e-5 if "float32" in case else 1e-12
    reference = "pmap-float32-1:" if "float32" in case else "pmap-float64-1:"
    theirs = {n.partition(":")[2]: value for n, value in updates["1"].items() if n.startswith(reference)}

    names = [name for name in theirs if name.startswith("gradient")]
    gradient = np.concatenate([theirs[name].ravel() for name in names])
    difference = np.concatenate([(ours[name] - theirs[name]).ravel() for name in names])
    assert np.linalg.norm(gradient) > 0.1
    assert np.linalg.norm(difference) < tolerance * np.linalg.norm(gradient)
    np.testing.assert_allclose(ours["losses"][0], theirs["losses"][0], rtol=tolerance)
    if "float64" in case:
        np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-10)
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-8, atol=1e-10, err_msg=name)


def assert_same_losses(workdir, reference, rtol):
    ours, theirs = tiny.rows(workdir), tiny.rows(reference)
    assert [(row["step"], row["split"]) for row in ours] == [(row["step"], row["split"]) for row in theirs]
    assert len(ours) == 10
    np.testing.assert_allclose([row["loss"] for row in ours], [row["loss"] for row in theirs], rtol=rtol)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder whose runs share data and compiled programs."""
    return tmp_path_factory.mktemp("runs")


STILL = {"model__dropout_rate": 0.0, "model__drop_path_rate": 0.0}
ALIKE = {**STILL, "task__mixup_alpha": 0.0}  # whatever the number of devices


@pytest.fixture(scope="module")
def stayed(runs):
    tiny.finish(tiny.start(runs / "stayed", devices=1, **ALIKE))
    return runs / "stayed"


def test_two_processes_train_evaluate_and_save_as_one(runs):
    port = free_port()
    together = [
        tiny.start(runs / "two", f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={i}", **STILL)
        for i in range(2)
    ]
    for process in together:
        tiny.finish(process)
    tiny.finish(tiny.start(runs / "one", devices=2, **STILL))
    assert_same_losses(runs / "two", runs / "one", rtol=1e-5)


@pytest.mark.parametrize(("first", "then"), [(8, 1), (1, 8)])
def test_a_checkpoint_resumes_on_another_number_of_devices(runs, stayed, first, then):
    moved = runs / f"moved_{first}_{then}"
    tiny.signal_at(tiny.start(moved, devices=first, **ALIKE), "step 12/30 train", 15)
    output = tiny.finish(tiny.start(moved, devices=then, **ALIKE))
    assert "resuming after step" in output
    # float32, summed in another order for 30 updates
    assert_same_losses(moved, stayed, rtol=1e-3)
