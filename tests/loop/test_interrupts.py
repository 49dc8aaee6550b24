"""Signals: the first is noted, the second ends the process; several processes stop at the same step."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from vit_jax.interrupts import Interrupts

ROOT = pathlib.Path(__file__).parent.parent.parent
TWICE = """
import os, signal, sys
from vit_jax.interrupts import Interrupts
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


@pytest.fixture
def two_processes(monkeypatch):
    """Runs a function in two threads that take each other for processes of one job."""
    barrier, exchanged, me = threading.Barrier(2, timeout=10), {}, threading.local()

    def allgather(value, **_):
        exchanged[me.index] = np.asarray(value)
        barrier.wait()
        gathered = np.stack([exchanged[0], exchanged[1]])
        barrier.wait()
        return gathered

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: me.index)
    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)

    def run(function):
        results = {}

        def one(index):
            me.index = index
            results[index] = function(index)

        threads = [threading.Thread(target=one, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results.get(index) for index in (0, 1)]

    return run


@pytest.mark.parametrize("first", [0, 3, 7])
@pytest.mark.parametrize(("told", "at"), [(0, 4), (1, 4), (1, 5), (0, 11)])
def test_both_processes_stop_at_the_same_step(two_processes, first, told, at):
    """Only one of them is given the signal, while the other may be at any point of the same step."""

    def loop(index):
        interrupts = Interrupts()
        for step in range(first + 1, 40):
            if index == told and step == max(at, first + 1):
                interrupts.signum = 15  # what a handler notes
            if interrupts.requested(step):
                return step, interrupts.signum
        return None

    mine, theirs = two_processes(loop)
    assert mine == theirs
    assert mine is not None
    step, signum = mine
    assert max(at, first + 1) <= step < max(at, first + 1) + 10
    assert signum == 15


def test_both_processes_stop_in_the_same_batch_of_an_evaluation(two_processes):
    def evaluation(index):
        interrupts = Interrupts()
        for batch in range(6):
            if (index, batch) == (1, 3):
                interrupts.signum = 15
            if interrupts.requested():
                return batch
        return None

    assert two_processes(evaluation) == [3, 3]


def test_without_a_signal_nobody_stops(two_processes):
    assert two_processes(lambda index: any(Interrupts().requested(step) for step in range(12))) == [False, False]
