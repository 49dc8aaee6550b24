"""Two processes, joined by JAX in the environment of a launcher, agree on when to stop and what to restore."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import pytest

from vit_jax.devices.job import initialize_distributed
from vit_jax.errors import UserError

HERE = pathlib.Path(__file__).parent
CLUSTERS = ("SLURM_", "OMPI_", "JAX_COORDINATOR", "KUBERNETES_", "TPU_")


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def open_mpi(process, count=2):
    return {
        "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
    }


def slurm(process, count=2):
    return {
        "SLURM_JOB_ID": "4096",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
    }


def together(case, folder, launcher=open_mpi, count=2, statuses=(0, 0)):
    """Runs a case of `two_processes.py` in `count` processes; returns their results and messages.

    Args:
      statuses: The exit statuses expected; a process with another one than 0 has no result.
    """
    port, outside = str(free_port()), {k: v for k, v in os.environ.items() if not k.startswith(CLUSTERS)}
    base = outside | {"PYTHONPATH": str(HERE.parent.parent), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, str(HERE / "two_processes.py"), case, str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(command, env=base | {"JAX_COORDINATOR_PORT": port} | launcher(i, count), **pipes)
        for i in range(count)
    ]
    done = [process.communicate() for process in started]
    assert tuple(process.returncode for process in started) == statuses, "\n".join(errors for _, errors in done)
    outputs = [output for (output, _), status in zip(done, statuses, strict=True) if not status]
    return [json.loads(output.splitlines()[-1]) for output in outputs], [errors for _, errors in done]


@pytest.mark.parametrize("launcher", [open_mpi, slurm])
def test_the_processes_of_a_launcher_are_joined(tmp_path, launcher):
    results, _ = together("joined", tmp_path, launcher)
    assert [one["process"] for one in results] == [0, 1]
    assert {one["processes"] for one in results} == {2}
    assert {one["sum"] for one in results} == {4.0}


def test_both_stop_at_the_same_step_if_one_gets_a_signal(tmp_path):
    results, errors = together("train", tmp_path)
    first, second = results
    assert first["step"] == second["step"]
    assert 7 <= first["step"] <= 7 + 4  # long before the last
    for one in results:
        assert one["signum"] == signal.SIGTERM
        assert one["saved"] == one["step"]
        assert one["values"] == [4.0 * one["step"]]  # each of the two processes adds two to every element
    assert "SIGTERM: saving the state" in errors[1]
    assert "SIGTERM" not in errors[0]


def test_both_go_back_if_one_cannot_read_the_newest_checkpoint(tmp_path):
    results, errors = together("damaged", tmp_path)
    for one in results:
        assert one["asked"] == [3, 2]
        assert one["meta"]["step"] == 2
        assert one["values"] == [2.0]
        assert one["kept"] == [1, 2]
    assert "checkpoints/3 is damaged (another process cannot read it). It is renamed to damaged_3." in errors[0]
    assert "checkpoints/3 is damaged (input/output error). Resuming from step 2." in errors[1]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "damaged_3"]


def lines_of_ours(errors):
    """Returns the lines of standard error except for those in which Gloo says that it is connected."""
    return [line for line in errors.splitlines() if "[Gloo]" not in line]


def test_whatever_fails_in_one_process_ends_all_in_one_line(tmp_path):
    _, errors = together("fails", tmp_path, statuses=(1, 2))
    assert lines_of_ours(errors[0]) == ["vit_jax: process 1 has failed: b.png is not an image"]
    assert lines_of_ours(errors[1]) == ["vit_jax: b.png is not an image"]


@pytest.mark.parametrize(("killed", "statuses"), [(0, (-signal.SIGKILL, -signal.SIGABRT)), (1, (1, -signal.SIGKILL))])
def test_if_one_process_is_killed_the_other_ends_in_one_line(tmp_path, killed, statuses):
    """Process 0 has JAX's coordination service: if it is killed, jaxlib itself aborts the other process."""
    _, errors = together(f"killed {killed}", tmp_path, statuses=statuses)
    (line,) = lines_of_ours(errors[1 - killed])
    assert line.startswith("vit_jax: lost the connection to ")
    assert "The same command resumes from the last checkpoint." in line


@pytest.fixture
def calls(monkeypatch):
    """Records calls of `jax.distributed.initialize`, which finds no cluster, in a process that is not joined."""
    for name in list(os.environ):
        if name.startswith(CLUSTERS):
            monkeypatch.delenv(name)
    calls = []

    def initialize(*arguments):
        calls.append(arguments)
        if None in arguments:
            raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    return calls


def test_without_a_cluster_a_process_runs_alone(calls):
    initialize_distributed()
    assert calls == [(None, None, None)]


@pytest.mark.parametrize("launcher", [open_mpi, slurm])
def test_a_single_process_of_a_launcher_starts_no_service(calls, monkeypatch, launcher):
    for name, value in launcher(0, count=1).items():
        monkeypatch.setenv(name, value)
    initialize_distributed()
    assert calls == []


def test_flags_override_what_a_launcher_says(calls, monkeypatch):
    for name, value in slurm(1, count=4).items():
        monkeypatch.setenv(name, value)
    initialize_distributed(None, 1, None)
    assert calls == []
    initialize_distributed("host:1", 2, 0)
    assert calls == [("host:1", 2, 0)]


def test_what_goes_wrong_in_joining_is_one_line(calls, monkeypatch):
    with pytest.raises(UserError, match="Give all of --coordinator, --num_processes and --process_id"):
        initialize_distributed("host:1")

    def broken(*_):
        raise RuntimeError("Kubernetes API Error: 403\nnot permitted")

    monkeypatch.setattr(jax.distributed, "initialize", broken)
    with pytest.raises(UserError) as caught:
        initialize_distributed()
    assert str(caught.value) == (
        "Cannot join the processes of this job: Kubernetes API Error: 403 not permitted. "
        "Use --num_processes=1 to run a single process."
    )
