"""Launching on this machine: every run is trained once, whatever is killed, and by however many launchers."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from refusals import refused

from vit_jax.launch import local
from vit_jax.launch.jobs import Job, jobs_of

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


def start(folder, *arguments, seconds=0.01):
    command = [sys.executable, str(HERE / "launcher.py"), "--config=configs/quickstart.py", str(folder)]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "STEP_SECONDS": str(seconds)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    return output


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def saved(folder):
    return {path.parent.name: int(path.read_text() or 0) for path in folder.glob("*/saved")}


def lives(folder):
    return {path.parent.name: len(path.read_text().splitlines()) for path in folder.glob("*/lives")}


def states(folder):
    return {job.point.name: job.state({})[0] for job in jobs_of(folder)}


def test_all_runs_are_trained_and_a_failure_is_named(tmp_path):
    output = finish(start(tmp_path / "s", "--sweep", "seed=1,13,2", "--at_once=2"), status=1)
    assert "3 runs: 0 finished, 3 to train" in output
    assert "finished seed=1  top1 0.75  loss 0.2" in output
    assert "failed seed=13: loss is nan at step 3." in output
    assert states(tmp_path / "s") == {"seed=1": "finished", "seed=13": "failed", "seed=2": "finished"}
    again = finish(start(tmp_path / "s", "--sweep", "seed=1,2"), status=1)  # the failed run is tried again
    assert "3 runs: 2 finished, 1 to train" in again
    assert lives(tmp_path / "s") == {"seed=1": 1, "seed=13": 2, "seed=2": 1}


def test_after_a_kill_at_any_point_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "s"
    for reached in (1, 4, 8):
        process = start(folder, "--seeds=2", "--at_once=2", seconds=0.15)
        until(lambda reached=reached: max(saved(folder).values(), default=0) >= reached)
        process.kill()
        process.wait()
        jobs = jobs_of(folder)
        until(lambda jobs=jobs: all(job.state({})[0] != "running" for job in jobs))  # the kernel ended them by SIGTERM
        process.stdout.close()
    before = saved(folder)
    assert max(before.values()) >= 8
    finish(start(folder, "--seeds=2", "--at_once=2"))
    assert states(folder) == {"seed=0": "finished", "seed=1": "finished"}
    for name in before:
        steps = [line.split()[1] for line in (folder / "launch" / name / "output.log").read_text().splitlines()
                 if line.startswith("step")]  # fmt: skip
        assert len(steps) == len(set(steps)) == 10  # no step is done twice


def test_two_launchers_share_the_runs(tmp_path):
    folder = tmp_path / "s"
    both = [start(folder, "--seeds=4", seconds=0.05) for _ in range(2)]
    outputs = [finish(process) for process in both]
    assert lives(folder) == {f"seed={seed}": 1 for seed in range(4)}
    assert all("started" in output for output in outputs)


def test_an_interruption_lets_the_runs_save(tmp_path):
    folder = tmp_path / "s"
    process = start(folder, "--seeds=2", seconds=0.2)
    until(lambda: saved(folder).get("seed=0", 0) >= 2)
    process.send_signal(signal.SIGINT)
    assert "vit_jax: stopped; the same command goes on" in finish(process, status=130)
    assert states(folder) == {"seed=0": "stopped", "seed=1": "waiting"}


def test_stop_and_status(tmp_path):
    folder = tmp_path / "s"
    process = start(folder, "--seeds=2", seconds=1.5)
    until(lambda: saved(folder).get("seed=0", 0) >= 2)
    call = [sys.executable, "-m", "vit_jax", "launch"]
    status = subprocess.run([*call, "status", folder, "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in status.stdout.splitlines()]
    assert [(row["run"], row["state"]) for row in rows] == [("seed=0", "running"), ("seed=1", "waiting")]
    assert rows[0]["step"] >= 2
    assert rows[0]["steps"] == 10
    stopped = subprocess.run([*call, "stop", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    assert stopped.stdout.splitlines()[0] == "stopping seed=0"
    finish(process, status=143)
    finish(start(folder, "--seeds=2"))
    status = subprocess.run([*call, "status", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    assert status.stdout.splitlines()[0] == "seed=0  finished  step 10 of 10  loss 0.2  top1 0.75"


def test_the_cores_are_divided(monkeypatch):
    monkeypatch.setattr(local, "_cores", lambda: [0, 1, 2, 3, 4])
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1", "2", "3"])
    assert [share["cores"] for share in local.shares(2, 0)] == [{0, 1}, {2, 3, 4}]
    assert [share["gpus"] for share in local.shares(2, 2)] == ["0,1", "2,3"]
    assert all(share["cores"] for share in local.shares(8, 0))


def test_a_process_that_a_signal_ended_is_named(tmp_path, in_root):
    from vit_jax.launch.sweep import Sweep

    (point,) = Sweep.parse("configs/quickstart.py", [], []).points
    job = Job(tmp_path, point)
    job.record(exit=-9)
    assert job.state({}) == ("failed", "ended by signal 9")


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_mistakes_in_one_line(tmp_path, in_root, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    config = "--config=configs/quickstart.py"
    for arguments, message in (
        (("statsu", tmp_path), "launch takes one folder, got statsu"),
        (("statsu", tmp_path), "did you mean 'status'?"),
        (("status", tmp_path), "holds no sweep"),
        (("status",), "launch status needs the folder of a sweep"),
        ((tmp_path,), "launch needs --config=FILE.py"),
        ((config, "--config.duration=2 epochs"), "launch needs a folder for the sweep"),
        ((tmp_path, config, "--sweep", "sede=1"), "unknown config key 'sede'; did you mean 'seed'?"),
        ((tmp_path, config, "--time=1:00"), "--time applies to Slurm"),
        ((tmp_path, config, "--seeds=2", "--at_once=2", "--gpus=1"), "needs 2 GPUs, but this machine shows 1"),
    ):
        assert message in refused("launch", *arguments)


def test_a_dry_run_prints_commands_and_starts_nothing(tmp_path, in_root, capsys):
    from vit_jax.__main__ import main

    words = ["--config=configs/quickstart.py", "--seeds=2", str(tmp_path / "s"), "--config.duration=2 epochs"]
    assert main(["launch", *words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    train = f"train --config=configs/quickstart.py --workdir={tmp_path}/s/seed=1"
    assert lines[1].endswith(f"{train} '--config.duration=2 epochs' --config.seed=1")
    assert lines[2].startswith("2 runs, 1 at a time, each with ")
    assert not (tmp_path / "s").exists()
