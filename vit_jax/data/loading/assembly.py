"""How a batch is put together from its parts, which several threads or processes load at the same time."""

import functools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vit_jax.data.loading.levels import Levels

if TYPE_CHECKING:
    from vit_jax.data.loading.workers import Workers

Batch = dict[str, Any]  # arrays and `Levels`, whose arrays all have the rows of the batch as their first axis


class Load(Protocol):
    """Loads batches in parts. Workers receive it once, by pickling; two that are equal load the same."""

    def parts(self, step: int, at_once: int) -> Sequence[range]:
        """Divides batch `step` into parts of equal length (but for the last), one after the other.

        Args:
          at_once: Number of parts that are loaded at the same time.
        """
        ...

    def __call__(self, part: range, /) -> Batch:
        """Loads a part, with the same number of rows for each element of the range."""
        ...


class Pending:
    """A batch that `workers` are loading. Each part is copied to its place in the batch as soon as it is loaded."""

    def __init__(self, load: Load, parts: Sequence[range], workers: "Workers"):
        self._parts, self._lock = parts, threading.Lock()
        self._batch: Batch | None = None
        self._futures = [workers.submit(load, part, functools.partial(self._put, part)) for part in parts]

    def __len__(self) -> int:
        return len(self._parts)

    def result(self) -> Batch:
        """Waits for all parts; raises what the first that failed raised. Call it once."""
        while self._futures:  # emptied, because an exception must not keep alive what its traceback refers to
            self._futures.pop(0).result()
        assert self._batch is not None
        return self._batch

    def cancel(self) -> None:
        """Gives up the parts that nobody has begun."""
        for future in self._futures:
            future.cancel()

    def _put(self, part: range, loaded: Batch) -> None:
        arrays = arrays_of(loaded)
        first, total = part.start - self._parts[0].start, self._parts[-1].stop - self._parts[0].start
        with self._lock:
            if self._batch is None:
                shapes = [(len(array) // len(part) * total, *array.shape[1:]) for array in arrays]
                empty = [np.empty(shape, array.dtype) for shape, array in zip(shapes, arrays, strict=True)]
                self._batch = with_arrays(loaded, empty)
        for whole, array in zip(arrays_of(self._batch), arrays, strict=True):
            rows = len(array) // len(part)
            whole[first * rows :][: len(array)] = array


def arrays_of(batch: Batch) -> list[Any]:
    """Returns the arrays of a batch, in order."""
    return [array for value in batch.values() for array in (value if isinstance(value, Levels) else (value,))]


def with_arrays(batch: Batch, arrays: Sequence[Any]) -> Batch:
    """Returns a batch of the same entries with other arrays: the inverse of `arrays_of`."""
    left = iter(arrays)
    return {
        key: Levels(next(left), next(left), next(left)) if isinstance(value, Levels) else next(left)
        for key, value in batch.items()
    }
