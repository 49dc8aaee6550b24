"""Threads and worker processes that load the parts of batches, and live for as long as a run.

Each thread of a worker process is served by a thread of the parent. This takes the next part that is to be loaded,
sends it to the worker, waits, and copies the rows from the worker's memory into the batch.
"""

import contextlib
import mmap
import multiprocessing
import multiprocessing.util
import os
import pickle
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from vit_jax.data.loading.assembly import Batch, Load, arrays_of, with_arrays
from vit_jax.data.loading.serving import serve
from vit_jax.errors import RunError, UserError

MOST_WORKERS = 48  # chosen at most; more can be asked for
Put = Callable[[Batch], None]  # takes a part that is loaded; its arrays may change afterwards


class Workers:
    """Loads the parts of batches, in the order in which they are submitted. Starts when it is first used.

    After `close`, which ends all threads and processes, it can be used again. It is closed when it is dropped, and when
    the program exits.

    Args:
      num_workers: Number of processes. With 0, the threads belong to this process.
      num_threads: Number of threads in each process. With 0 and no processes, a part is loaded by the caller, when its
        result is asked for.

    Raises:
      UserError: A number is negative.
    """

    def __init__(self, num_workers: int, num_threads: int):
        if num_workers < 0 or num_threads < 0:
            raise UserError(
                f"config.data.num_workers and num_threads must be 0 or more, got {num_workers} and {num_threads}"
            )
        self.num_workers, self.num_threads = num_workers, max(num_threads, 1) if num_workers else num_threads
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._loads: dict[Load, tuple[int, bytes]] = {}
        self._stop: Callable[[], Any] | None = None

    @property
    def at_once(self) -> int:
        """Number of parts that are loaded at the same time; 0 if the caller loads them."""
        return max(self.num_workers, 1) * self.num_threads

    def submit(self, load: Load, part: range, put: Put) -> "Future | Deferred":
        """Calls `put(load(part))`, except that the loading may happen in a worker; returns a future of None."""
        if not self.at_once:
            return Deferred(lambda: put(load(part)))
        if self._stop is None:
            self._start()
        future: Future = Future()
        self._jobs.put((future, load, self._sent(load), part, put))
        return future

    def close(self) -> None:
        """Ends the threads and processes, and cancels the parts that nobody has begun."""
        if self._stop is not None:
            self._stop()
            self._stop, self._jobs, self._loads = None, queue.SimpleQueue(), {}

    def _sent(self, load: Load) -> tuple[int, bytes]:
        """Returns the number of a load, and what is sent to a worker that does not know it."""
        if not self.num_workers:
            return 0, b""
        if load not in self._loads:
            self._loads[load] = len(self._loads), pickle.dumps(load)
        return self._loads[load]

    def _start(self) -> None:
        processes = [_Process(self.num_threads) for _ in range(self.num_workers)]
        lanes = [lane for process in processes for lane in process.lanes] or [_load_here] * self.num_threads
        threads = [threading.Thread(target=_work, args=(self._jobs, lane), daemon=True) for lane in lanes]
        for thread in threads:
            thread.start()
        # Unlike weakref.finalize, this runs before multiprocessing waits for its processes, which ignore signals.
        self._stop = multiprocessing.util.Finalize(
            self, _stop, (self._jobs, threads, processes), exitpriority=10
        )  # fmt: skip


def choose_workers(num_workers: int | None, num_threads: int | None, *, in_memory: bool = False) -> Workers:
    """Returns workers of the numbers in a config. None is a number that is chosen by what the machine has.

    Where accelerators compute, there is a process for each core but one that this process of the job may use, each with
    one thread. Where the cores compute, or reading is quick (`in_memory`), there are two threads and no processes.
    """
    if num_workers is None:
        import jax

        is_idle = jax.default_backend() != "cpu" and not in_memory
        num_workers = min(cores_of_this_process() - 1, MOST_WORKERS) if is_idle else 0
    if num_threads is None:
        num_threads = 1 if num_workers else 2
    return Workers(num_workers, num_threads)


def cores_of_this_process() -> int:
    """Returns the number of cores that this process may use, shared evenly by the processes of the job on its host.

    Slurm, Open MPI and torchrun tell their number. Where they bind a process to cores of its own, all of these count.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bound = allowed < (os.cpu_count() or 1)
    names = ("OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE", "LOCAL_WORLD_SIZE")
    told = [os.environ[name] for name in names if os.environ.get(name, "").isdecimal()]
    return max(allowed // (1 if bound or not told else max(int(told[0]), 1)), 1)


class Deferred:
    """What looks like a future and does its work when the result is asked for."""

    def __init__(self, work: Callable[[], None]):
        self.result = work

    def cancel(self) -> None:
        """Does nothing: nothing has begun."""


def _work(jobs: queue.SimpleQueue, lane: Callable) -> None:
    """Does jobs until there is a None; runs in a thread."""
    while job := jobs.get():
        future, load, sent, part, put = job
        if future.set_running_or_notify_cancel():
            try:
                lane(load, sent, part, put)
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)
        del job, future, load, sent, part, put  # not while waiting for the next job


def _load_here(load: Load, sent: Any, part: range, put: Put) -> None:
    put(load(part))


def _stop(jobs: queue.SimpleQueue, threads: Sequence[threading.Thread], processes: "Sequence[_Process]") -> None:
    with contextlib.suppress(queue.Empty):
        while job := jobs.get_nowait():
            job[0].cancel()
    for _ in threads:
        jobs.put(None)
    for process in processes:
        process.process.kill()  # it has nothing to lose, and may be in the middle of a long clip
    for process in processes:
        process.process.join()
    for thread in threads:
        thread.join()


class _Process:
    """A worker process, and the parent's end of the connections to its threads."""

    def __init__(self, num_threads: int):
        context = multiprocessing.get_context("spawn")
        ours, theirs = zip(*(context.Pipe() for _ in range(num_threads)), strict=True)
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        for connection in theirs:
            connection.close()  # so that ours reports the end of the process
        self.lanes = [_Lane(self, connection) for connection in ours]
        self._known: set[int] = set()
        self._lock = threading.Lock()

    def learns(self, number: int) -> bool:
        """Returns whether the process does not know a load yet; from now on, it does."""
        with self._lock:
            is_new = number not in self._known
            self._known.add(number)
            return is_new


class _Lane:
    """The parent's end of the connection to one thread of a worker process."""

    def __init__(self, process: _Process, connection: Connection):
        self._process, self._connection = process, connection
        self._size, self._memory = 0, mmap.mmap(-1, 1)

    def __call__(self, load: Load, sent: tuple[int, bytes], part: range, put: Put) -> None:
        number, pickled = sent
        try:
            self._connection.send((number, pickled if self._process.learns(number) else None, part))
            error, described, size = self._connection.recv()
            if size > self._size:
                descriptor = reduction.recv_handle(self._connection)
                self._size, self._memory = size, mmap.mmap(descriptor, size)
                os.close(descriptor)
        except (EOFError, OSError):
            self._process.process.join(1)
            raise RunError(
                f"a worker process that prepares batches has ended (status {self._process.process.exitcode}). If the "
                "machine ran out of memory, set --config.data.num_workers to fewer"
            ) from None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or its traceback would keep itself alive, with all that it refers to
        arrays = [
            np.frombuffer(self._memory, dtype, int(np.prod(shape)), offset).reshape(shape)
            for dtype, shape, offset in arrays_of(described)
        ]
        put(with_arrays(described, arrays))
