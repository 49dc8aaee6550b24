"""Batches: the n-th is a function of the seed and n alone, whatever the threads, workers and processes.

Training reads an infinite stream of examples, one shuffled epoch after another, of which batch n is the n-th piece; so
resuming is slicing, and there is no state to save. Nothing is dropped, at the end of an epoch or of an evaluation. A
batch is a dict:

    image   float32 (batch, height, width, channels), or
    video   float32 (batch, frames, height, width, channels)
    label   int32 (batch,), or float32 (batch, classes) where an example has several labels
    mask    float32 (batch,): 1 for an example, 0 for padding
    id      int32 (batch,): the example's place in its split, -1 for padding

In evaluation a video may be given as several views, which are then as many rows of one id. Batches of text are those of
`token_batches`.
"""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

import numpy as np

from vit_jax.config import Config
from vit_jax.data.sources import Source
from vit_jax.errors import UserError

Batch = dict[str, np.ndarray]

_UINT64 = 2**64 - 1


class AnyPreprocessing(Protocol):
    """From a stored example to rows of a batch; travels with the checkpoint.

    Attributes:
      key: What it takes of an example and gives to a batch: `image` or `video`.
      views: Rows of an example in evaluation.
      transforms, random_transforms: The chain, and the names in it that need chance.
      model_fields: What a model has to be built with to take the rows.
    """

    key: ClassVar[str]

    @property
    def views(self) -> int: ...
    @property
    def transforms(self) -> str: ...
    @property
    def random_transforms(self) -> tuple[str, ...]: ...
    @property
    def is_random(self) -> bool: ...
    @property
    def model_fields(self) -> dict[str, Any]: ...
    def rows(self, stored: Any, rng: np.random.Generator | None, /) -> list[np.ndarray]: ...
    def to_dict(self) -> dict[str, Any]: ...


def train_batches(
    source: Source,
    preprocessing: AnyPreprocessing,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    repeats: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    num_threads: int = 2,
) -> "Batches":
    """Yields this process's part of the global batches `first_step` to `last_step - 1`.

    `batch_size` is global and divided evenly: process i has the i-th block of every batch. With `repeats` (repeated
    augmentation, Hoffer et al. 2020; 3 in DeiT) each image comes that many times in a row, changed anew each time, and
    an epoch, which keeps its length, sees one image in `repeats`: so does DeiT's sampler.

    `num_workers` processes prepare whole batches, each with `num_threads` threads; with 0 the threads are this
    process's. Neither changes a value. The order is numpy's, the same for one version of numpy. Closing the iterator,
    or dropping it, ends threads and workers.
    """
    load = LoadBatch(source, preprocessing, batch_size, process_index, process_count, seed=seed, repeats=repeats)
    return Batches(load, first_step, last_step, num_workers, num_threads)


def eval_batches(
    source: Source,
    preprocessing: AnyPreprocessing,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    num_workers: int = 0,
) -> "Batches":
    """Yields every example exactly once, in order; the last batch is filled up with zeros, mask 0 and id -1.

    Every process yields the same number of batches, of `batch_size / process_count` examples each, that is as many rows
    times the views of an example. Raises `UserError` for random transforms.
    """
    if preprocessing.is_random:
        names = ", ".join(preprocessing.random_transforms)
        raise UserError(f"evaluation wants transforms without chance, not {names} in {preprocessing.transforms!r}")
    load = LoadBatch(source, preprocessing, batch_size, process_index, process_count)
    return Batches(load, 0, -(-len(source) // batch_size), num_workers, num_threads)


def processes_and_workers(config: Config) -> dict[str, int]:
    """Returns the arguments that say which part of a batch is this process's, and what prepares it."""
    import jax

    return {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "num_workers": config.data.num_workers,
        "num_threads": config.data.num_threads,
    }


@dataclasses.dataclass(frozen=True)
class LoadBatch:
    """Loads one process's part of batch `step`: shuffled and endless with a seed, else in order and padded."""

    source: Source
    preprocessing: AnyPreprocessing
    batch_size: int
    process_index: int
    process_count: int
    seed: int | None = None
    repeats: int = 1

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise UserError(
                f"batch_size {self.batch_size} must be a positive multiple of {self.process_count} processes"
            )
        if self.repeats < 1:
            raise UserError(f"repeats must be 1 or more, not {self.repeats}")
        if not len(self.source):
            raise UserError(f"{self.source.name}: split {self.source.split!r} is empty")

    def __call__(self, step: int) -> Batch:
        rows = self.batch_size // self.process_count
        start = step * self.batch_size + self.process_index * rows
        if self.seed is not None:
            return self._load(range(start, start + rows))
        real = range(start, min(start + rows, len(self.source)))
        batch = self._load(real or range(1))  # a process without examples learns the shapes from the first
        views = self.preprocessing.views
        batch = {key: _padded(values[: len(real) * views], rows * views) for key, values in batch.items()}
        batch["id"][len(real) * views :] = -1
        return batch

    def _load(self, positions: range) -> Batch:
        examples = self.source.__getitems__([self._index(position) for position in positions])
        key, inputs, labels, ids = self.preprocessing.key, [], [], []
        for position, example in zip(positions, examples, strict=True):
            views = self.preprocessing.rows(example[key], self._rng(position))
            inputs += views
            labels += [example["label"]] * len(views)
            ids += [example["id"]] * len(views)
        label = np.array(labels)
        return {
            key: np.stack(inputs),
            "label": label.astype(np.int32 if label.ndim == 1 else np.float32),
            "mask": np.ones(len(inputs), np.float32),
            "id": np.array(ids, np.int32),
        }

    def _index(self, position: int) -> int:
        if self.seed is None:
            return position
        epoch, place = divmod(position, len(self.source))
        return int(epoch_order(len(self.source), self.seed, epoch)[place // self.repeats])

    def _rng(self, position: int) -> np.random.Generator | None:
        if self.seed is None:
            return None
        return np.random.Generator(np.random.Philox(key=[self.seed & _UINT64, position]))


@functools.lru_cache(maxsize=4)
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch's examples; seeded apart from the transforms, whose key is (seed, position)."""
    order = np.random.default_rng([seed & _UINT64, epoch]).permutation(length)
    order.flags.writeable = False
    return order


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    padding = [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, padding)


class Batches:
    """An iterator over batches, with `close`, which also happens when it ends, is dropped, or the program exits."""

    def __init__(self, load: Callable[[int], Batch], first: int, last: int, num_workers: int, num_threads: int):
        if num_workers < 0 or num_threads < 0:
            raise UserError(f"num_workers and num_threads must be 0 or more, not {num_workers} and {num_threads}")
        import grain

        self._length = max(last - first, 0)
        self._held: list[Any] = []
        # Grain's iterator must stop its workers and be gone while the interpreter is still whole.
        self.close = weakref.finalize(self, _close, self._held)
        if last <= first:
            return
        # Batches of video are of hundreds of MB, and Grain has up to four more of each worker on their way.
        ahead = num_threads if num_workers else 2 * num_threads
        reading = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
        dataset: Any = grain.MapDataset.range(first, last).map(load).to_iter_dataset(reading)
        if num_workers:
            _allow_workers()
            workers = min(num_workers, last - first)
            options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=1)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
        self._held.append(iter(dataset))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self._held:
            raise StopIteration
        try:
            return next(self._held[0])
        except StopIteration:
            self.close()
            raise


def _close(held: list[Any]) -> None:
    while held:
        held.pop().close()


def _allow_workers() -> None:
    """Lets Grain start processes outside `absl.app.run`: it reads flags, which must count as parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(index: int, count: int) -> None:
    """Leaves signals to the parent, which may want more batches before it stops, and ends with it, however it ends."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
