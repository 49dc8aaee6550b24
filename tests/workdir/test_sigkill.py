"""One run that is killed a hundred times, at random moments, ends like one that was never killed.

Every tenth life of the run is a command of its own; the others are forked from a process that has imported everything,
which saves their time. One in four prepares its batches in worker processes. This test wrote `sigkill.log`, one line
per kill.
"""

import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny

KILLS = 100
STEPS = 400
FLAGS = {
    "duration": f"{STEPS} steps",
    "log_every": "1 steps",
    "eval_every": "10 steps",
    "checkpoint.every": "3 steps",
}
LOG = pathlib.Path(__file__).with_name("sigkill.log")
PRELOADED = ["vit_jax.train", "vit_jax.run", "vit_jax.commands.train", "tensorboardX", "rich.progress"]


def live(arguments, output):
    """Runs a command line in this process, with its output in a file."""
    with open(output, "wb", 0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    os.chdir(tiny.ROOT)
    from vit_jax.__main__ import main

    sys.exit(main(arguments))


class Lives:
    """Starts the same run again and again."""

    def __init__(self, folder):
        self._output, self._number = folder / "output.txt", 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def start(self, workdir, workers=0):
        self._number += 1
        command = tiny.command(workdir, **{name.replace(".", "__"): value for name, value in FLAGS.items()})
        command.append(f"--config.data.num_workers={workers}")
        if self._number % 10 == 1:
            with open(self._output, "wb") as file:
                return subprocess.Popen(command, cwd=tiny.ROOT, stdout=file, stderr=subprocess.STDOUT)
        self._output.write_bytes(b"")
        process = self._context.Process(target=live, args=(command[3:], str(self._output)))
        process.start()
        return process

    @property
    def lines(self):
        return [" ".join(line.split()) for line in self._output.read_text(errors="replace").splitlines()]


def status(process):
    if isinstance(process, subprocess.Popen):
        return process.wait()
    process.join()
    return process.exitcode


def killed(lives, workdir, rng, start_seconds):
    """Starts the run and kills it; returns the moment in words.

    One kill in three comes while the run starts. The others come after a random number of lines of output, which tells
    the phase better than a time on a busy machine, and a random fraction of a second.
    """
    workers = 2 if rng.random() < 1 / 4 else 0
    awaited = 0 if rng.random() < 1 / 3 else rng.randint(1, 14)
    delay = rng.uniform(0, 0.3 if awaited else start_seconds)
    process = lives.start(workdir, workers)
    while len(lives.lines) < awaited:
        time.sleep(0.005)
        assert process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive(), lives.lines
    time.sleep(delay)
    saving = any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))
    process.kill()
    assert status(process) == -signal.SIGKILL, lives.lines
    assert not any("Traceback" in line or "damaged" in line for line in lives.lines), lives.lines
    progress = [line for line in lives.lines if line.startswith(("step ", "resuming "))]
    last = " ".join(progress[-1].split()[:3]) if progress else "starting"
    return f"{last}, {delay:.2f} s later{', saving' if saving else ''}{', 2 workers' if workers else ''}"


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    reference, workdir, rng, lives = tmp_path / "whole", tmp_path / "killed", random.Random(0), Lives(tmp_path)
    assert status(lives.start(reference)) == 0, lives.lines
    started = time.monotonic()
    process = lives.start(tmp_path / "timed")
    while not lives.lines:
        time.sleep(0.005)
    start_seconds = time.monotonic() - started
    process.kill()
    status(process)

    with open(LOG, "w") as log:
        for number in range(1, KILLS + 1):
            print(f"{number}: {killed(lives, workdir, rng, start_seconds)}", file=log, flush=True)
    assert status(lives.start(workdir)) == 0, lives.lines

    order = lambda row: (row["step"], row["split"])  # noqa: E731
    assert sorted(tiny.rows(workdir), key=order) == sorted(tiny.rows(reference), key=order)
    ours, theirs = tiny.state(workdir, STEPS), tiny.state(reference, STEPS)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert not list((workdir / "checkpoints").glob("damaged_*"))
    assert not list(workdir.glob("lock.json*"))
