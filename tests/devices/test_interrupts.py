"""Signals: the first is recorded, the second ends the process, and several processes stop at the same step."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
from agreement import STEPS

from vit_jax.devices.interrupts import Interrupts

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
TWICE = """
import os, signal, sys
from vit_jax.devices.interrupts import Interrupts
for first, second in ((15, 15), (2, 2), (15, 2)):
    child = os.fork()
    if not child:
        with Interrupts() as interrupts:
            signal.raise_signal(first)
            assert interrupts.requested() and interrupts.requested(7)
            print("noted", flush=True)
            signal.raise_signal(second)
            print("survived", flush=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(first, second, status if status >= 0 else 128 - status, flush=True)
"""


def test_a_second_signal_ends_the_process_at_once():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["noted", "15 15 143", "noted", "2 2 130", "noted", "15 2 130"]
    assert "SIGTERM" in done.stderr
    assert "SIGINT" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_old_handlers_come_back(number):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with Interrupts() as interrupts:
        assert not interrupts.requested()
        assert not interrupts.requested(5)
        signal.raise_signal(number)
        assert interrupts.requested()
        assert interrupts.requested(3)
        assert interrupts.signum == number
    assert {each: signal.getsignal(each) for each in before} == before


IMPORTED = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    raise ImportError("initialization failed")
"""


def test_ctrl_c_during_an_import_is_one_line(tmp_path):
    """An extension module that is interrupted fails with an ImportError, which would be a traceback."""
    (tmp_path / "jax.py").write_text(IMPORTED)
    command = ["train", "--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = [sys.executable, "-c", "import sys; from vit_jax.__main__ import main; sys.exit(main())", *command]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vit_jax: interrupted\n")


def test_ctrl_c_elsewhere_is_one_line_and_the_old_handler_comes_back(monkeypatch, capfd):
    from vit_jax import __main__ as program

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(program, "_run", lambda argv: signal.raise_signal(signal.SIGINT))
    assert program.main([]) == 130
    assert capfd.readouterr().err == "vit_jax: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture(scope="module")
def stops(tmp_path_factory):
    """Returns where each of two processes stopped when one of them was sent a signal."""
    folder = tmp_path_factory.mktemp("stops")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "agreement.py"), f"{port}", f"{i}", str(folder / f"{i}.json")],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [json.loads((folder / f"{i}.json").read_text()) for i in range(2)]


def test_both_processes_stop_at_the_same_step_soon_after_the_signal(stops):
    """Only one of them is told, and the loop may have begun at any step."""
    mine, theirs = (found["steps"] for found in stops)
    assert mine == theirs
    for (_, at, _), (step, signum) in zip(STEPS, mine, strict=True):
        assert at <= step < at + 10
        assert signum == signal.SIGTERM


def test_both_processes_stop_in_the_same_batch_of_an_evaluation(stops):
    mine, theirs = (found["batches"] for found in stops)
    assert mine == theirs
    for at, (batch, signum) in zip((3, 4), mine, strict=True):
        assert at <= batch < at + 3
        assert signum == signal.SIGINT


def test_without_a_signal_nobody_stops(stops):
    assert [found["nobody"] for found in stops] == [[None, None]] * 2
