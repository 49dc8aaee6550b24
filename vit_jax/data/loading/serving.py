"""What a worker process does: it loads the parts that the threads of `workers.Workers` ask for.

A worker writes the rows of a part into an anonymous file, which both processes map. It has no name, so nothing of it is
left however the processes end.
"""

import contextlib
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection

import numpy as np

from vit_jax.data.loading.assembly import Batch, Load, arrays_of, with_arrays
from vit_jax.errors import UserError

_ALIGNED = 64  # bytes


def serve(connections: Sequence[Connection]) -> None:
    """Loads parts until the parent ends; the main function of a worker process.

    It ignores signals, because the parent may need more batches before it stops.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    loads = _Loads()
    threads = [threading.Thread(target=_answer, args=(each, loads), daemon=True) for each in connections]
    for thread in threads:
        thread.start()
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Loads:
    """The loads that a worker process has been sent. One of its threads receives each, and the others wait for it."""

    def __init__(self):
        self._found, self._arrived = {}, threading.Condition()

    def get(self, number: int, pickled: bytes | None) -> Load:
        if pickled is not None:
            try:
                load = pickle.loads(pickled)
            except Exception as error:
                load = _Raises(error)
            with self._arrived:
                self._found[number] = load
                self._arrived.notify_all()
        with self._arrived:
            self._arrived.wait_for(lambda: number in self._found)
            return self._found[number]


class _Raises:
    def __init__(self, error: Exception):
        self._error = error

    def __call__(self, part: range) -> Batch:
        raise self._error


def _answer(connection: Connection, loads: _Loads) -> None:
    """Loads the parts that a thread of the parent asks for; ends with the parent."""
    outbox = _Outbox()
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, pickled, part = connection.recv()
            try:
                loaded = loads.get(number, pickled)(part)
            except Exception as error:
                connection.send((_sendable(error), {}, 0))
                continue
            layout, descriptor = outbox.write([np.ascontiguousarray(array) for array in arrays_of(loaded)])
            connection.send((None, with_arrays(loaded, layout), outbox.size))
            if descriptor is not None:
                reduction.send_handle(connection, descriptor, os.getppid())
                os.close(descriptor)


class _Outbox:
    """Memory of a worker's thread in which the parent reads the parts. It grows to the size of the largest."""

    def __init__(self):
        self.size, self._memory = 0, mmap.mmap(-1, 1)

    def write(self, arrays: Sequence[np.ndarray]) -> tuple[list[tuple[str, tuple[int, ...], int]], int | None]:
        """Returns dtype, shape and place of each array, and the descriptor of the memory if it is another one now."""
        lengths = [-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays]
        places, descriptor = [sum(lengths[:index]) for index in range(len(arrays))], None
        if sum(lengths) > self.size:
            self.size = sum(lengths)
            descriptor = _anonymous_file(self.size)
            self._memory = mmap.mmap(descriptor, self.size)
        for place, array in zip(places, arrays, strict=True):
            np.frombuffer(self._memory, array.dtype, array.size, place)[:] = array.ravel()
        return [(array.dtype.str, array.shape, place) for array, place in zip(arrays, places, strict=True)], descriptor


def _anonymous_file(size: int) -> int:
    """Returns the descriptor of a file in memory (on Linux) that has no name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vit_jax")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _sendable(error: Exception) -> Exception:
    """Returns an error that can be sent to another process: with its message, and its class if that can be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return (
            UserError(str(error)) if isinstance(error, UserError) else RuntimeError(f"{type(error).__name__}: {error}")
        )
