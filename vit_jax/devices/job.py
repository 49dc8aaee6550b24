"""The processes of one job: they agree on values, and if one of them fails, all end.

A process that fails stores its message in JAX's coordination service, where a thread of every other process looks for
one. Without this, the others would wait for the failed process in their next collective operation.
"""

import atexit
import contextlib
import logging
import os
import sys
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.devices import job_log
from vit_jax.errors import UserError

_KEY = "vit_jax/failed"
_POLL = 1.0  # seconds
_FAREWELL = 5_000  # milliseconds that process 0, which runs the service, waits for the others to learn of its failure
_SIGNS = ("Gloo", "NCCL", "Connection closed", "Connection reset", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")
_ends = threading.Lock()  # held by the thread that ends this process


def from_first(value: int) -> int:
    """Returns the value of process 0 in every process, so that all of them act on what the same process has seen."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else int(value)


def on_all(condition: bool) -> bool:
    """Returns whether a condition holds in every process."""
    return bool(np.all(multihost_utils.process_allgather(np.int32(condition))))


def is_shared() -> bool:
    """Returns whether this process belongs to a job of several processes."""
    return _state().client is not None and _state().num_processes > 1


def initialize_distributed(coordinator: str | None = None, processes: int | None = None, process: int | None = None):
    """Joins the other processes of the job, if there are any.

    `jax.distributed` detects Slurm, Open MPI, Kubernetes and Cloud TPU; the arguments override what it detects. Without
    a cluster, or with a single process, nothing is started. Call this before any computation: once JAX has initialised
    its devices, this function does nothing, or fails if arguments are given. Processes that are joined end together:
    see `watch`.

    Args:
      coordinator: `HOST:PORT` of process 0.
      processes: Number of processes; 1 makes this process run alone, whatever the cluster.
      process: Index of this process.

    Raises:
      UserError: Some arguments are missing and no cluster supplies them, or the processes cannot be joined.
    """
    given = [argument for argument in (coordinator, processes, process) if argument is not None]
    # If a launcher started one process only, joining would restrict that process to the first GPU of its host.
    counts = {os.environ.get(name, "") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")} - {""}
    if processes == 1 or jax.distributed.is_initialized() or (not given and counts == {"1"}):
        return
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except Exception as error:  # the type depends on the kind of cluster
        reason = " ".join(str(error).split())
        undetected = "should be defined" in reason or "must be defined" in reason
        if undetected or "must be called before" in reason:
            if not given:
                return
            if len(given) < 3:
                message = "Give all of --coordinator, --num_processes and --process_id: JAX does not detect a cluster."
                raise UserError(message) from error
        message = f"Cannot join the processes of this job: {reason}. Use --num_processes=1 to run a single process."
        raise UserError(message) from error
    watch()


def watch() -> None:
    """Starts the thread that ends this process, in one line and with status 1, when another one has failed."""
    if not is_shared():
        return
    job_log.shorten()
    stop = threading.Event()
    thread = threading.Thread(target=_end_with_others, args=(_state().client, stop), daemon=True)
    thread.start()
    atexit.register(thread.join)  # called last: a thread that calls JAX while Python exits would abort the process
    atexit.register(stop.set)


def _end_with_others(client: Any, stop: threading.Event) -> None:
    while not stop.wait(_POLL):
        try:
            message = client.key_value_try_get(_KEY)
        except Exception:  # nobody has failed
            continue
        if _ends.acquire(blocking=False):
            client.key_value_set(f"{_KEY}/seen/{_state().process_id}", "")
            os.write(2, f"vit_jax: {message}\n".encode())
            os._exit(1)


def end(message: str, status: int) -> None:
    """Ends this process at once, with `status`, after telling the other processes of the job. Alone, does nothing.

    JAX's own shutdown is left out, because it waits for the other processes.
    """
    if not is_shared():
        return
    client, this, count = _state().client, _state().process_id, _state().num_processes
    if not _ends.acquire(blocking=False):
        threading.Event().wait()  # the other thread is about to end this process
    try:
        with contextlib.suppress(Exception):  # another process has failed before
            client.key_value_set(_KEY, f"process {this} has failed: {message}")
        for other in range(1, count) if this == 0 else ():
            client.blocking_key_value_get(f"{_KEY}/seen/{other}", _FAREWELL // count)
    except Exception as error:  # another process has ended already
        logging.debug("%s", error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def lost(error: BaseException) -> str | None:
    """Returns a message if an error means that another process of the job is gone, else None."""
    reason = str(error)
    if not is_shared() or not any(word in reason for word in _SIGNS):
        return None
    try:
        return _state().client.blocking_key_value_get(_KEY, 1000)  # what the other process said before it ended
    except Exception:
        return (
            f"lost the connection to another process of the job ({reason.strip().splitlines()[0][:200]}). "
            "The same command resumes from the last checkpoint."
        )


def _state() -> Any:
    """Returns the coordination service's client and this process's place, for which JAX has no public function."""
    from jax._src import distributed

    return distributed.global_state
