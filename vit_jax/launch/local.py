"""Running the jobs of a sweep on this machine, some of them at a time.

A run is claimed by the launcher's lock in its folder, so that several launchers can work on one sweep: each run is
trained by one of them. If the launcher is killed, its runs receive SIGTERM from the kernel, save their state and end.
"""

import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from vit_jax.errors import Interrupted, UserError, counted
from vit_jax.launch.jobs import FINISHED, Job, jobs_of
from vit_jax.launch.sweep import Sweep
from vit_jax.workdir.lock import Lock, holder_of, identity

STOP = "stop"  # file that asks the launchers of a sweep to stop
_POLL = 0.2  # seconds between looks at the processes
_REPORT_EVERY = 60.0  # seconds between lines about the progress
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, from prctl.h


def shares(at_once: int, gpus_each: int) -> list[dict[str, str | set[int]]]:
    """Divides cores and GPUs among the runs that train at a time.

    Returns:
      For each of them, the `cores` it may use, and as `gpus` its value of CUDA_VISIBLE_DEVICES if it has GPUs.

    Raises:
      UserError: There are not enough GPUs.
    """
    cores, gpus = _cores(), visible_gpus()
    if at_once * gpus_each > len(gpus):
        raise UserError(
            f"--at_once={at_once} with --gpus={gpus_each} each needs {counted(at_once * gpus_each, 'GPUs')}, but this "
            f"machine shows {len(gpus)}"
        )
    each = []
    for i in range(at_once):
        own = cores[len(cores) * i // at_once : len(cores) * (i + 1) // at_once]
        share: dict[str, str | set[int]] = {"cores": set(own or cores)}
        if gpus_each:
            share["gpus"] = ",".join(gpus[i * gpus_each : (i + 1) * gpus_each])
        each.append(share)
    return each


def visible_gpus() -> list[str]:
    """Returns the GPUs of this machine, by number, or those that CUDA_VISIBLE_DEVICES names."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in named.split(",") if gpu.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class Launcher:
    """Trains the runs of a sweep that are not finished, `at_once` at a time.

    Args:
      folder: Folder of the sweep.
      at_once: Number of runs at a time.
      gpus_each: GPUs of each run; 0 leaves the choice to JAX.
      say: Prints a line.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        sweep: Sweep,
        *,
        at_once: int,
        gpus_each: int = 0,
        say: Callable[[str], None] = print,
    ):
        self._folder, self._sweep, self._say = folder, sweep, say
        self._jobs = jobs_of(folder, sweep)
        self._shares = shares(at_once, gpus_each)
        self._running: dict[int, tuple[Job, subprocess.Popen, Lock]] = {}  # by share
        self._waiting: list[Job] = []
        self._failed: list[Job] = []
        self._signal = 0
        self._libc = ctypes.CDLL(None)  # loaded before a fork, after which little is allowed

    def run(self) -> int:
        """Returns 0, or 1 if a run has failed, when all runs have ended; goes on where an earlier launch has stopped.

        Raises:
          Interrupted: On SIGTERM, Ctrl-C or `launch stop`, once the runs have saved their state.
        """
        (self._folder / "launch" / STOP).unlink(missing_ok=True)
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._train_all()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        for job in self._failed:
            see = f"; see {job.output}" if job.output.exists() else ""
            self._say(f"failed {job.point.name}: {job.reason()}{see}")
        return 1 if self._failed else 0

    def _note(self, signum: int, _frame: object) -> None:
        self._signal = signum

    def _train_all(self) -> None:
        self._waiting = [job for job in self._jobs if not job.is_finished()]
        number, left = len(self._jobs), len(self._waiting)
        self._say(f"{counted(number, 'runs')}: {number - left} finished, {left} to train")
        started, reported, done = time.monotonic(), time.monotonic(), self._done()
        said: set[str] = set()
        while self._waiting or self._running:
            if self._signal or (self._folder / "launch" / STOP).exists():
                self._end_all()
            for share in [share for share, (_, process, _) in self._running.items() if process.poll() is not None]:
                self._reap(share)
            self._waiting = [job for job in self._waiting if not self._start(job, said)]
            if self._running and time.monotonic() - reported > _REPORT_EVERY:
                reported = time.monotonic()
                self._say(self._progress(reported - started, done))
            time.sleep(_POLL)

    def _start(self, job: Job, said: set[str]) -> bool:
        """Starts a run if there is a free share; returns whether the run needs no further attention."""
        free = [share for share in range(len(self._shares)) if share not in self._running]
        if not free:
            return False
        if lacking := job.lacking():
            failed = [need for need in lacking if need.own in [other.own for other in self._failed]]
            self._failed += [job] if failed else []
            return bool(failed)
        try:
            if holder := holder_of(job.workdir):
                raise UserError(f"{job.workdir} is in use by {holder}.")
            lock = Lock(job.own)
        except UserError as error:  # another launcher trains it, or its process is about to end
            if job.point.name not in said:
                self._say(f"waiting for {job.point.name}: {str(error).partition('. ')[0].rstrip('.')}")
            said.add(job.point.name)
            return False
        if job.is_finished():  # by another launcher, in the meantime
            lock.close()
            return True
        process = self._process(job, self._shares[free[0]])
        job.record(**identity(process.pid))
        self._running[free[0]] = (job, process, lock)
        self._say(f"started {job.point.name} (process {process.pid})")
        return True

    def _process(self, job: Job, share: dict[str, str | set[int]]) -> subprocess.Popen:
        cores, libc = share["cores"], self._libc
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if "gpus" in share:
            environment["CUDA_VISIBLE_DEVICES"] = str(share["gpus"])

        def prepare() -> None:  # in the new process
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, cores)  # pyright: ignore[reportArgumentType]
                libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM)

        job.make_folders()
        with job.output.open("ab") as output:
            return subprocess.Popen(
                self._sweep.command(job.point, self._folder, sys.executable),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the launcher only, which passes it on once
                preexec_fn=prepare,
            )

    def _reap(self, share: int) -> None:
        job, process, lock = self._running.pop(share)
        job.record(exit=process.returncode)
        lock.close()
        if process.returncode == 0:
            scores = {name: value for name, value in job.scores().items() if isinstance(value, float)}
            shown = "  ".join(f"{name} {scores[name]:.4g}" for name in ("top1", "bleu", "f1", "loss") if name in scores)
            self._say(f"{FINISHED} {job.point.name}  {shown}".rstrip())
        elif holder := holder_of(job.workdir):  # `train` or `reproduce` was faster
            self._say(f"waiting for {job.point.name}: {job.workdir} is in use by {holder}")
            self._waiting.append(job)
        else:
            self._failed.append(job)
            self._say(f"failed {job.point.name}: {job.reason()}")

    def _end_all(self) -> None:
        """Lets all running runs save their state and end; raises Interrupted."""
        for _, process, _ in self._running.values():
            process.send_signal(signal.SIGTERM)
        for share in list(self._running):
            job, process, lock = self._running.pop(share)
            job.record(exit=process.wait())
            lock.close()
            self._say(f"stopped {job.point.name}")
        raise Interrupted(self._signal or signal.SIGTERM, "stopped; the same command goes on")

    def _done(self) -> float:
        """Returns the number of finished runs, counting a part of a run as its share of the steps."""
        return sum(self._part(job) for job in self._jobs)

    def _part(self, job: Job) -> float:
        step, total = job.progress()
        return 1.0 if job.is_finished() else min(step / total, 1.0) if total else 0.0

    def _progress(self, seconds: float, before: float) -> str:
        done = self._done()
        running = [job for job, *_ in self._running.values()]
        parts = [f"{job.point.name} {self._part(job):.0%}" for job in running]
        left = ""
        if done > before:
            remaining = int(seconds * (len(self._jobs) - len(self._failed) - done) / (done - before))
            left = f"; {remaining // 3600}:{remaining // 60 % 60:02}:{remaining % 60:02} left"
        finished = sum(job.is_finished() for job in self._jobs)
        return f"{finished} of {len(self._jobs)} finished; {', '.join(parts)}{left}"


def stop(folder: pathlib.Path, jobs: Sequence[Job]) -> list[Job]:
    """Asks the launchers of a sweep on this machine to stop; returns the runs that are running."""
    running = [job for job in jobs if "pid" in job.recorded() and job.state({})[0] == "running"]
    if running:
        (folder / "launch" / STOP).touch()
    return running
