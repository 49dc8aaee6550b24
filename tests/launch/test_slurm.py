"""Slurm: what is asked for, what is said without a cluster, and a real cluster of two nodes on this machine."""

import importlib.util
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import tiny
from refusals import refused

from vit_jax.launch import slurm
from vit_jax.launch.jobs import Job
from vit_jax.launch.sweep import Point

HERE = pathlib.Path(__file__).parent
CONFIG = "--config=configs/quickstart.py"
submitit = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="the extra launch")


def test_resources_become_those_of_submitit_and_cost_what_they_are():
    resources = slurm.Resources(minutes=1440, nodes=2, gpus=8, partition="gpu", memory="64G")
    asked = resources.parameters()
    assert (asked["tasks_per_node"], asked["gpus_per_node"], asked["nodes"]) == (8, 8, 2)  # a process for each GPU
    assert (asked["slurm_mem"], asked["slurm_partition"]) == ("64G", "gpu")
    assert "slurm_account" not in asked
    assert resources.cost(4) == "4 runs x 16 GPUs x 24:00 h = 1,536 GPU-hours until the time limit"
    assert slurm.Resources(cpus=4).cost(1) == "1 run x 4 cores x 1:00 h = 4 core-hours until the time limit"


def test_a_job_in_the_queue_is_running_or_waits(tmp_path):
    job = Job(tmp_path, Point("run", {}))
    job.record(slurm="7")
    assert job.state({"7": "RUNNING"}) == ("running", "Slurm job 7: RUNNING")
    assert job.state({"7": "PENDING"}) == ("waiting", "Slurm job 7: PENDING")
    (job.own / "slurm").mkdir()
    (job.own / "slurm" / "7_0_log.out").write_text("slurmstepd: error: execve(): python: No such file\n")
    assert job.state({}) == ("failed", "slurmstepd: error: execve(): python: No such file")
    job.output.write_text("vit_jax: config.seed must be a whole number\n")
    assert job.state({}) == ("failed", "config.seed must be a whole number")


def test_without_a_cluster(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.ROOT)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    if importlib.util.find_spec("submitit"):
        line = refused("launch", CONFIG, "--slurm", tmp_path / "s")
        assert "--slurm: there is no Slurm here, because the command sbatch is not found" in line
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = refused("launch", CONFIG, "--slurm", tmp_path / "s")
    assert "--slurm needs the package submitit. Run pip install 'vit_jax[launch]'" in line
    assert not (tmp_path / "s").exists()


@submitit
def test_a_job_that_must_end_lets_its_run_save_and_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "0.3")
    command = [sys.executable, str(HERE / "fake_train.py"), f"--workdir={tmp_path / 'run'}"]
    train = slurm.Train(command, str(tmp_path / "output.log"))
    put_back, saved = [], tmp_path / "run" / "saved"

    def on_signal(*_):
        put_back.append(train.checkpoint())

    def signal_at_step_3():
        while not saved.exists() or int(saved.read_text() or 0) < 3:
            time.sleep(0.02)
        os.kill(train._process.pid, signal.SIGUSR2)  # Slurm sends it to all processes of the job
        time.sleep(0.2)
        signal.raise_signal(signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, on_signal)
    try:
        threading.Thread(target=signal_at_step_3).start()
        with pytest.raises(RuntimeError, match="exit status 143"):
            train()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert 3 <= int(saved.read_text()) < 10
    again = pickle.loads(pickle.dumps(put_back[0].function))
    monkeypatch.setenv("STEP_SECONDS", "0")
    again()
    steps = [line.split()[1] for line in (tmp_path / "output.log").read_text().splitlines() if line.startswith("step")]
    assert steps == [f"{step}/10" for step in range(1, 11)]


# ---- a real cluster ----


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if os.geteuid() or not shutil.which("slurmctld") or not shutil.which("munged"):
        pytest.skip("needs root, and Debian's packages slurm-wlm and munge")
    folder = tmp_path_factory.mktemp("slurm")
    script = ["bash", str(HERE / "slurm_cluster.sh")]
    subprocess.run([*script, "start", folder], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(tiny.ROOT))
        patch.chdir(tiny.ROOT)
        yield
        subprocess.run(["scancel", "--me"], check=True)
    subprocess.run([*script, "stop", folder], check=True)


def call(*arguments, status=0):
    """Runs `launch`; the runs are those of `fake_train`, which saves after each step, as a run does on SIGTERM."""
    command = [sys.executable, str(HERE / "launcher.py"), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == status, process.stdout + process.stderr
    return process.stdout if status == 0 else process.stderr


def rows(folder):
    found = [json.loads(line) for line in call("status", folder, "--json").splitlines()]
    return {row["run"]: row for row in found}


def until(condition, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1)


def saved(folder, run):
    path = folder / run / "saved"
    return int(path.read_text() or 0) if path.exists() else 0


def lives(folder, run):
    return len((folder / run / "lives").read_text().splitlines())


def steps_of(folder, run):
    lines = (folder / "launch" / run / "output.log").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("step")]


@pytest.mark.slow
def test_a_sweep_on_slurm_whose_job_is_killed_and_requeued_resumes(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "3")
    folder, first, second = tmp_path / "sweep", "peak=1e-3", "peak=3e-3"
    arguments = (CONFIG, "--slurm", "--time=0:30", "--sweep", "optimizer.schedule.peak=1e-3,3e-3", folder)
    assert call(*arguments).count("submitted as Slurm job") == 2
    until(lambda: saved(folder, first) >= 2)
    assert f"{first}: running" in call(*arguments)  # the same command submits nothing twice
    number = json.loads((folder / "launch" / first / "job.json").read_text())["slurm"]
    subprocess.run(["scontrol", "requeue", number], check=True)  # kills the job, and puts it back
    until(lambda: all(row["state"] == "finished" for row in rows(folder).values()))
    assert (lives(folder, first), lives(folder, second)) == (2, 1)
    assert steps_of(folder, first) == [f"{step}/10" for step in range(1, 11)]
    assert "finished" in call(*arguments)


@pytest.mark.slow
def test_a_job_that_is_killed_is_submitted_again_by_the_same_command(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "3")
    folder = tmp_path / "sweep"
    call(CONFIG, "--slurm", folder)
    until(lambda: saved(folder, "run") >= 2)
    number = json.loads((folder / "launch" / "run" / "job.json").read_text())["slurm"]
    subprocess.run(["scancel", "--signal=KILL", "--full", number], check=True)
    until(lambda: rows(folder)["run"]["state"] not in ("running", "waiting"))
    assert "submitted as Slurm job" in call(CONFIG, "--slurm", folder)
    until(lambda: rows(folder)["run"]["state"] == "finished")
    assert lives(folder, "run") == 2


@pytest.mark.slow
def test_what_slurm_refuses_is_said_in_one_line(cluster, tmp_path):
    lines = call(CONFIG, "--slurm", "--partition=nowhere", tmp_path / "s", status=1).splitlines()
    assert len(lines) == 1
    assert "Slurm refuses the job: sbatch: error: " in lines[0]
    assert "invalid partition" in lines[0]


@pytest.mark.slow
def test_stop_ends_jobs_that_go_on_later(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "3")
    folder = tmp_path / "sweep"
    call(CONFIG, "--slurm", folder)
    until(lambda: saved(folder, "run") >= 2)
    assert "stopping run" in call("stop", folder)
    until(lambda: rows(folder)["run"]["state"] not in ("running", "waiting"))
    assert rows(folder)["run"]["state"] == "stopped"
    call(CONFIG, "--slurm", folder)
    until(lambda: rows(folder)["run"]["state"] == "finished")
    assert steps_of(folder, "run") == [f"{step}/10" for step in range(1, 11)]


@pytest.mark.slow
def test_a_row_of_a_table_waits_for_what_it_needs(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "t.py").write_text(TABLE)
    folder = tmp_path / "runs" / "small" / "mine" / "t"
    arguments = (f"--table={tmp_path / 'mine' / 't.py'}", "--seeds=1", "--slurm", "--time=0:30", tmp_path / "runs")
    assert call(*arguments).count("submitted as Slurm job") == 2
    first, second = json.loads((folder / "sweep.json").read_text())["points"]
    until(lambda: all(row["state"] == "finished" for row in rows(folder).values()))
    began = [float((folder / point["name"] / "lives").read_text()) for point in (first, second)]
    assert began[1] - began[0] > 10  # seconds


TABLE = """
from vit_jax.reproduce.comparison import Comparison, Recipe, Trial
START = Trial("start", Recipe("configs/quickstart.py"))
ROWS = [Trial("a b", Recipe("configs/quickstart.py", {"init_from": "{start}"}))]
COMPARISON = Comparison("Tiny", "Why?", ROWS, preparation=[START])
"""


@pytest.mark.slow
def test_jax_joins_the_processes_of_two_nodes_and_resumes_after_preemption_and_a_kill(cluster, tmp_path):
    folder = tmp_path / "sweep"
    often = [f"--config.{key}=2 epochs" for key in ("checkpoint.every", "log_every", "eval_every")]
    words = [CONFIG, "--config.duration=60 epochs", *often, "--slurm", "--nodes=2", "--time=1:00", str(folder)]
    program = [sys.executable, "-m", "vit_jax", "launch"]
    subprocess.run([*program, *words], check=True)
    number = json.loads((folder / "launch" / "run" / "job.json").read_text())["slurm"]
    metrics, starts = folder / "run" / "metrics.jsonl", folder / "run" / "runs.jsonl"

    def step():
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    until(lambda: step() >= 100)
    subprocess.run(["scancel", "--signal=USR2", number], check=True)  # what Slurm sends before it preempts a job
    until(lambda: starts.exists())
    stopped = step()
    until(lambda: step() > stopped + 100)
    subprocess.run(["scontrol", "requeue", number], check=True)  # kills the job, and puts it back
    until(lambda: "finished" in starts.read_text(), seconds=900)
    lines = [json.loads(line) for line in starts.read_text().splitlines()]
    assert lines[0]["status"].startswith("Interrupted: stopped after step")
    assert [line["status"] for line in lines].index("finished") == len(lines) - 1
    assert lines[-1]["resumed_from"] > stopped
    assert lines[-1]["hardware"].startswith("2 x cpu")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"train"' in line]
    assert steps == sorted(set(steps))
    assert step() == round(60 * 1442 / 128)
    log = (folder / "launch" / "run" / "output.log").read_text()
    assert log.count("on 2 processes") == 3
