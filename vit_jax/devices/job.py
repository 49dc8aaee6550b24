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
