"""Batches: batch n is a function of the seed and n alone, whatever the number of threads, workers and processes.

Training reads an infinite stream of examples, one shuffled epoch after another; batch n is the n-th piece of it. So
resuming is slicing, and there is no state to save. No example is dropped at the end of an epoch or of an evaluation. A
batch is a dict:

    image   (batch, height, width, channels), or
    video   (batch, frames, height, width, channels): `Levels`, which the devices turn into float32, or float32 if the
            chain of transforms goes on after `normalize`
    label   int32 (batch,), or float32 (batch, classes) if an example can have several labels
    mask    float32 (batch,): 1 for an example, 0 for padding
    id      int32 (batch,): position of the example in its split, -1 for padding

In evaluation, an encoder may produce several views of a video; they are consecutive rows with the same id. Batches of
text are described in `text.batches`.

A batch is loaded in parts of a few examples, by the threads and worker processes of `workers.Workers`.
"""

import collections
import dataclasses
import functools
import math
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import numpy as np

from vit_jax.data.loading.assembly import Batch, Load, Pending, arrays_of, with_arrays
from vit_jax.data.loading.workers import Workers
from vit_jax.data.source import Source
from vit_jax.errors import UserError

PART_BYTES = 2**21  # of rows that a worker prepares at a time: 13 images of 224 x 224 pixels


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

    `rows` computes the model's inputs. A batch is made in two steps instead: `batch_rows` computes rows of `row_shape`
    and `row_dtype`, and `finish` turns many of them, stacked, into the entry of the batch.

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
    @property
    def row_shape(self) -> tuple[int, ...]: ...
    @property
    def row_dtype(self) -> type: ...
    def rows(self, stored: Any, rng: np.random.Generator | None, /) -> list[np.ndarray]: ...
    def batch_rows(self, stored: Any, rng: np.random.Generator | None, /) -> list[np.ndarray]: ...
    def finish(self, rows: np.ndarray, /) -> Any: ...


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
    workers: Workers | None = None,
) -> "Batches":
    """Yields this process's part of the global batches `first_step` to `last_step - 1`.

    The order of examples comes from NumPy's generator, so it is reproducible for one version of NumPy. Closing or
    dropping the iterator ends its threads and workers, unless they were given.

    Args:
      batch_size: Global batch size, in examples; it is divided evenly, and process i has the i-th block of every batch.
      repeats: Repeated augmentation (Hoffer et al. 2020; 3 in DeiT): every example occurs this many times in a row,
        augmented differently each time. An epoch keeps its length and therefore contains one example in `repeats`, as
        with DeiT's sampler.
      workers: What loads the parts; by default two threads. Their number does not change a value.
    """
    load = LoadBatch(source, encoder, batch_size, process_index, process_count, seed=seed, repeats=repeats)
    return Batches(load, first_step, last_step, workers)


def eval_batches(
    source: Source,
    encoder: ExampleEncoder,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: Workers | None = None,
) -> "Batches":
    """Yields every example exactly once, in order; the last batch is padded with zeros, mask 0 and id -1.

    Every process yields the same number of batches, with `batch_size / process_count` examples and `encoder.views` rows
    per example.

    Raises:
      UserError: The encoder has random transforms.
    """
    check_deterministic(encoder)
    load = LoadBatch(source, encoder, batch_size, process_index, process_count)
    return Batches(load, 0, -(-len(source) // batch_size), workers)


def check_deterministic(encoder: ExampleEncoder) -> None:
    """Raises UserError if an encoder for evaluation has random transforms."""
    if encoder.is_random:
        names = ", ".join(encoder.random_transforms)
        raise UserError(f"evaluation transforms must be deterministic: remove {names} from {encoder.transforms!r}")


def this_process() -> dict[str, int]:
    """Returns the arguments of `train_batches` and `eval_batches` that say which of the job's processes this is."""
    import jax

    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


@dataclasses.dataclass(frozen=True, eq=False)
class LoadBatch:
    """Loads parts of one process's slice of a batch: shuffled, without end, if there is a seed; else in order, padded.

    Two are equal if they have the same source, not a copy of it, and equal values otherwise.
    """

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

    def _values(self) -> tuple:
        others = [getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "source"]
        return (id(self.source), *others)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoadBatch) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    @property
    def share(self) -> int:
        """Number of examples of a batch that this process loads."""
        return self.batch_size // self.process_count

    def parts(self, step: int, at_once: int) -> list[range]:
        """Returns the positions of the examples of batch `step`, in parts for `at_once` threads or processes.

        A part has rows of up to `PART_BYTES`, so that a worker needs megabytes whatever the size of a batch.
        """
        row_bytes = math.prod(self.encoder.row_shape) * np.dtype(self.encoder.row_dtype).itemsize
        views = 1 if self.seed is not None else self.encoder.views
        each = max(min(PART_BYTES // (row_bytes * views), -(-self.share // max(at_once, 1))), 1)
        start = step * self.batch_size + self.process_index * self.share
        stop = start + self.share
        return [range(first, min(first + each, stop)) for first in range(start, stop, each)]

    def __call__(self, positions: range) -> Batch:
        if self.seed is not None:
            return self._load(positions)
        real = range(positions.start, max(min(positions.stop, len(self.source)), positions.start))
        batch = self._load(real or range(1))  # a part without examples takes the shapes from the first example
        views = self.encoder.views
        kept, rows = len(real) * views, len(positions) * views
        batch = with_arrays(batch, [_padded(array[:kept], rows) for array in arrays_of(batch)])
        batch["id"][kept:] = -1
        return batch

    def _load(self, positions: range) -> Batch:
        examples = self.source.__getitems__([self._index(position) for position in positions])
        key, inputs, labels, ids = self.encoder.key, [], [], []
        for position, example in zip(positions, examples, strict=True):
            rows = self.encoder.batch_rows(example[key], self._rng(position))
            inputs += rows
            labels += [example["label"]] * len(rows)
            ids += [example["id"]] * len(rows)
        label = np.array(labels)
        return {
            key: self.encoder.finish(np.stack(inputs)),
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
    """An iterator over batches, which are prepared before they are asked for.

    It closes itself when it ends or is dropped, and when the program exits. What it was given to load with lives on.
    """

    def __init__(self, load: Load, first: int, last: int, workers: Workers | None = None):
        self._load, self._length = load, max(last - first, 0)
        self._steps = iter(range(first, last))
        self._workers = workers or Workers(num_workers=0, num_threads=2)
        self._pending: collections.deque[Pending] = collections.deque()
        self.close = weakref.finalize(self, _close, self._pending, None if workers else self._workers)
        self._ask()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self.close.alive or not self._pending:
            self.close()
            raise StopIteration
        batch = self._pending[0].result()
        self._pending.popleft()
        self._ask()
        return batch

    def _ask(self) -> None:
        """Asks for batches until each thread and worker has a part to do while the caller uses the batch before."""
        while sum(len(batch) for batch in self._pending) < max(2 * self._workers.at_once, 1) or len(self._pending) < 2:
            step = next(self._steps, None)
            if step is None:
                return
            parts = self._load.parts(step, self._workers.at_once)
            self._pending.append(Pending(self._load, parts, self._workers))


def _close(pending: collections.deque[Pending], workers: Workers | None) -> None:
    while pending:
        pending.popleft().cancel()
    if workers:
        workers.close()
