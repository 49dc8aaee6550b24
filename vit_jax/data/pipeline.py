"""Batches: batch n is a function of the seed and n alone, whatever the number of threads, workers and processes.

Training reads an infinite stream of examples, one shuffled epoch after another; batch n is the n-th piece of it. So
resuming is slicing, and there is no state to save. No example is dropped at the end of an epoch or of an evaluation. A
batch is a dict:

    image   float32 (batch, height, width, channels), or
    video   float32 (batch, frames, height, width, channels)
    label   int32 (batch,), or float32 (batch, classes) if an example can have several labels
    mask    float32 (batch,): 1 for an example, 0 for padding
    id      int32 (batch,): position of the example in its split, -1 for padding

In evaluation, an encoder may produce several views of a video; they are consecutive rows with the same id. Batches of
text are described in `text.batches`.
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
from vit_jax.data.source import Source
from vit_jax.errors import UserError

Batch = dict[str, np.ndarray]


class Encoder(Protocol):
    """Turns a stored example into a model's input, and travels with the checkpoint.

    `Preprocessing` for images, `ClipPreprocessing` for clips, `Vocabulary` for text.

    Attributes:
      key: Name of the modality: "image", "video" or "text".
      model_fields: Fields that a model must have to take this input, for example `image_size`.
    """

    key: ClassVar[str]

    @property
    def model_fields(self) -> dict[str, Any]: ...
    def to_dict(self) -> dict[str, Any]: ...


class ExampleEncoder(Encoder, Protocol):
    """An encoder of images or clips, each of which becomes one row of a batch, or several in evaluation.

    Attributes:
      views: Number of rows per example in evaluation.
      transforms, random_transforms: The chain of transforms, and the names of those that are random.
    """

    @property
    def views(self) -> int: ...
    @property
    def transforms(self) -> str: ...
    @property
    def random_transforms(self) -> tuple[str, ...]: ...
    @property
    def is_random(self) -> bool: ...
    def rows(self, stored: Any, rng: np.random.Generator | None, /) -> list[np.ndarray]: ...


def train_batches(
    source: Source,
    encoder: ExampleEncoder,
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

    The order of examples comes from NumPy's generator, so it is reproducible for one version of NumPy. Closing or
    dropping the iterator ends its threads and workers.

    Args:
      batch_size: Global batch size, in examples; it is divided evenly, and process i has the i-th block of every batch.
      repeats: Repeated augmentation (Hoffer et al. 2020; 3 in DeiT): every example occurs this many times in a row,
        augmented differently each time. An epoch keeps its length and therefore contains one example in `repeats`, as
        with DeiT's sampler.
      num_workers: Processes that prepare whole batches, each with `num_threads` threads. With 0, the threads belong to
        this process. Neither number changes a value.
    """
    load = LoadBatch(source, encoder, batch_size, process_index, process_count, seed=seed, repeats=repeats)
    return Batches(load, first_step, last_step, num_workers, num_threads)


def eval_batches(
    source: Source,
    encoder: ExampleEncoder,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    num_workers: int = 0,
) -> "Batches":
    """Yields every example exactly once, in order; the last batch is padded with zeros, mask 0 and id -1.

    Every process yields the same number of batches, with `batch_size / process_count` examples and `encoder.views` rows
    per example.

    Raises:
      UserError: The encoder has random transforms.
    """
    check_deterministic(encoder)
    load = LoadBatch(source, encoder, batch_size, process_index, process_count)
    return Batches(load, 0, -(-len(source) // batch_size), num_workers, num_threads)


def check_deterministic(encoder: ExampleEncoder) -> None:
    """Raises UserError if an encoder for evaluation has random transforms."""
    if encoder.is_random:
        names = ", ".join(encoder.random_transforms)
        raise UserError(f"evaluation transforms must be deterministic: remove {names} from {encoder.transforms!r}")


def processes_and_workers(config: Config) -> dict[str, int]:
    """Returns the arguments of `train_batches` and `eval_batches` that depend on this process and `config.data`."""
    import jax

    return {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "num_workers": config.data.num_workers,
        "num_threads": config.data.num_threads,
    }


@dataclasses.dataclass(frozen=True)
class LoadBatch:
    """Loads one process's part of batch `step`: shuffled, without end, if there is a seed; else in order, padded."""

    source: Source
    encoder: ExampleEncoder
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
            raise UserError(f"config.data.repeats must be 1 or more, got {self.repeats}")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"config.seed must be 0 or more, got {self.seed}")
        if not len(self.source):
            raise UserError(f"{self.source.name}: split {self.source.split!r} is empty")

    def __call__(self, step: int) -> Batch:
        share = self.batch_size // self.process_count
        start = step * self.batch_size + self.process_index * share
        if self.seed is not None:
            return self._load(range(start, start + share))
        real = range(start, min(start + share, len(self.source)))
        batch = self._load(real or range(1))  # a process without examples takes the shapes from the first example
        views = self.encoder.views
        batch = {key: _padded(values[: len(real) * views], share * views) for key, values in batch.items()}
        batch["id"][len(real) * views :] = -1
        return batch

    def _load(self, positions: range) -> Batch:
        examples = self.source.__getitems__([self._index(position) for position in positions])
        key, inputs, labels, ids = self.encoder.key, [], [], []
        for position, example in zip(positions, examples, strict=True):
            rows = self.encoder.rows(example[key], self._rng(position))
            inputs += rows
            labels += [example["label"]] * len(rows)
            ids += [example["id"]] * len(rows)
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
        return np.random.Generator(np.random.Philox(key=[self.seed, position]))


@functools.lru_cache(maxsize=4)
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the examples in an epoch; transforms use another stream, of key (seed, position)."""
    order = np.random.default_rng([seed, epoch]).permutation(length)
    order.flags.writeable = False
    return order


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    padding = [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, padding)


class Batches:
    """An iterator over batches. It closes itself when it ends or is dropped, and when the program exits."""

    def __init__(self, load: Callable[[int], Batch], first: int, last: int, num_workers: int, num_threads: int):
        if num_workers < 0 or num_threads < 0:
            raise UserError(
                f"config.data.num_workers and num_threads must be 0 or more, got {num_workers} and {num_threads}"
            )
        import grain

        self._length = max(last - first, 0)
        self._held: list[Any] = []
        # Grain's iterator must stop its workers and be released before the interpreter shuts down.
        self.close = weakref.finalize(self, _close, self._held)
        if last <= first:
            return
        # A batch of video takes hundreds of MB, and Grain prefetches up to four more for each worker.
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
    """Allows Grain to start processes outside `absl.app.run`: it reads absl flags, which must be marked as parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(index: int, count: int) -> None:
    """Ignores signals, because the parent may need more batches before it stops; ends when the parent ends."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
