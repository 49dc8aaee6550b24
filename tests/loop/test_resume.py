"""Runs that are killed or interrupted, or whose checkpoint is damaged, resume exactly."""

import signal

import numpy as np
import pytest
import tiny


def assert_same_run(workdir, reference, steps=30):
    assert tiny.rows(workdir) == tiny.rows(reference)
    ours, theirs = tiny.state(workdir, steps), tiny.state(reference, steps)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    tiny.finish(tiny.start(workdir, profile="(3, 5)"))
    return workdir


def test_sigkill_several_times_changes_nothing(uninterrupted):
    workdir = uninterrupted.parent / "killed"
    for line in ("30 steps of 32", "step 4/30 train", "step 10/30 eval", "step 16/30 train", "step 30/30 eval"):
        status, output = tiny.signal_at(tiny.start(workdir), line, signal.SIGKILL)
        assert status == -signal.SIGKILL, output
    tiny.finish(tiny.start(workdir))
    assert_same_run(workdir, uninterrupted)


@pytest.fixture(scope="module")
def interrupted(uninterrupted):
    """A run that was ended by SIGTERM, then by SIGINT, and whose newest checkpoint was damaged then."""
    workdir, ended = uninterrupted.parent / "interrupted", {}
    for line, signum in (("step 8/30 train", signal.SIGTERM), ("step 16/30 train", signal.SIGINT)):
        ended[signum] = tiny.signal_at(tiny.start(workdir), line, signum)
    checkpoints = workdir / "checkpoints"
    newest = max((p for p in checkpoints.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    for file in (newest / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (checkpoints / "21.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    return workdir, ended, newest.name, tiny.finish(tiny.start(workdir))


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_so_and_exits_conventionally(interrupted, signum, status):
    _, ended, _, _ = interrupted
    returned, output = ended[signum]
    assert returned == status, output
    assert "is saved; run the same command to continue" in output
    assert "Traceback" not in output


def test_an_interrupted_run_resumes(uninterrupted, interrupted):
    workdir, ended, _, resumed = interrupted
    assert "resuming after step" in ended[signal.SIGINT][1]
    assert "resuming after step" in resumed
    assert_same_run(workdir, uninterrupted)


def test_damaged_and_half_written_checkpoints_are_named_and_passed_over(interrupted):
    workdir, _, newest, output = interrupted
    assert f"checkpoints/{newest} is damaged" in output
    assert (workdir / "checkpoints" / f"damaged_{newest}").exists()
    assert "21.orbax-checkpoint-tmp is half-written" in output


def test_a_finished_run_is_not_run_again(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    assert "test accuracy" in tiny.finish(tiny.start(uninterrupted))
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_a_workdir_of_another_config_is_refused_with_the_difference(uninterrupted):
    process = tiny.start(uninterrupted, seed=7)
    output, _ = process.communicate()
    assert process.returncode == 2
    assert "seed: 0 -> 7" in output
    assert "Traceback" not in output


def test_a_trace_of_the_steps_asked_for_is_written(uninterrupted):
    assert list((uninterrupted / "profile").rglob("*.xplane.pb"))


def test_last_and_best_checkpoints_are_kept(uninterrupted):
    kept = {int(p.name) for p in (uninterrupted / "checkpoints").iterdir()}
    assert {28, 30} <= kept
    assert len(kept) <= 3
