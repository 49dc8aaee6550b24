"""Batches of tokens: pairs of sentences of similar length, as many as fit a number of tokens.

As in `pipeline`, training batch n is a function of the seed and n alone, so that resuming is slicing. All pairs of a
batch belong to one bucket, of `length` tokens. A batch is a dict:

    source  int32 (batch, length): tokens, end, padding
    target  int32 (batch, length + 1): beginning, tokens, end, padding; the model receives all but the last token
    mask    float32 (batch,): 1 for a pair, 0 for padding
    id      int32 (batch,): position of the pair in its split, -1 for padding

Padding rows contain the empty sentence, so that every row has a token to attend to.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax.data.loading.assembly import Batch
from vit_jax.data.loading.pipeline import Batches
from vit_jax.data.loading.workers import Workers
from vit_jax.data.text.source import TextSource
from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, Vocabulary
from vit_jax.errors import UserError

CHUNK = 100_000  # sentences encoded at once

Progress = Callable[[int, int], None]  # sentences done, and their total


@dataclasses.dataclass(frozen=True, eq=False)
class TokenPairs:
    """The pairs of a split as tokens, without the special tokens for beginning and end.

    Attributes:
      tokens: All source tokens, concatenated, and all target tokens.
      ends: For each side, (pairs + 1,): sentence i is `tokens[ends[i] : ends[i + 1]]`.
    """

    tokens: tuple[np.ndarray, np.ndarray]
    ends: tuple[np.ndarray, np.ndarray]

    def __len__(self) -> int:
        return len(self.ends[0]) - 1

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        source, target = (tokens[ends[i] : ends[i + 1]] for tokens, ends in zip(self.tokens, self.ends, strict=True))
        return source, target

    def lengths(self) -> np.ndarray:
        """Returns the smallest bucket length that each pair fits: its longer side in tokens, including the end."""
        return np.maximum(*(np.diff(ends) for ends in self.ends)) + 1


def encode_pairs(source: TextSource, vocabulary: Vocabulary, progress: Progress | None = None) -> TokenPairs:
    """Encodes every sentence of a split."""
    total, sides = 2 * len(source), []
    for before, texts in enumerate((source.sources, source.targets)):
        parts, ends = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
        for start in range(0, len(texts), CHUNK):
            encoded = vocabulary.encode_all(texts[start : start + CHUNK])
            parts.append(np.fromiter((token for tokens in encoded for token in tokens), np.int32))
            ends.append(ends[-1][-1] + np.cumsum([len(tokens) for tokens in encoded]))
            if progress:
                progress(before * len(source) + start + len(encoded), total)
        sides.append((np.concatenate(parts), np.concatenate(ends)))
    (sources, source_ends), (targets, target_ends) = sides
    return TokenPairs((sources, targets), (source_ends, target_ends))


@dataclasses.dataclass(frozen=True, eq=False)
class TokenBatches:
    """How the pairs of a split are divided into batches.

    Every epoch contains each pair that fits the longest bucket once, and has the same number of batches. The last batch
    of each bucket is padded.

    Attributes:
      lengths: Lengths of the buckets in tokens, increasing.
      rows: For each bucket, the pairs in one batch, over all processes.
      multiple: The number of rows of a batch is padded to a multiple of this.
      ids: For each bucket, the positions of its pairs in the split, in order.
      skipped: Number of pairs longer than the longest bucket.
    """

    pairs: TokenPairs
    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    multiple: int
    ids: tuple[np.ndarray, ...]
    skipped: int

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._places)

    @property
    def padding(self) -> float:
        """Fraction of the tokens in an epoch, source and target together, that are padding."""
        sizes = [self.lengths[bucket] * self.padded_rows(bucket) for bucket, _ in self._places]
        kept = np.concatenate(self.ids)
        real = sum(int(np.diff(ends)[kept].sum()) + len(kept) for ends in self.pairs.ends)
        return 1 - real / (2 * sum(sizes))

    def padded_rows(self, bucket: int) -> int:
        """Returns the rows of a batch of a bucket: its pairs, padded to a multiple of `multiple`."""
        return -(-self.rows[bucket] // self.multiple) * self.multiple

    @functools.cached_property
    def _places(self) -> list[tuple[int, int]]:
        """The batches of an epoch in order, each as (bucket, index among the batches of this bucket)."""
        return [
            (bucket, i)
            for bucket, (ids, rows) in enumerate(zip(self.ids, self.rows, strict=True))
            for i in range(-(-len(ids) // rows))
        ]

    def ids_at(self, step: int, seed: int | None) -> tuple[int, np.ndarray]:
        """Returns the bucket and the pairs of batch `step`.

        With a seed, batches and the pairs in each bucket are shuffled in every epoch, without end. Without, there is
        one epoch, in order.
        """
        epoch, place = divmod(step, len(self))
        if seed is None:
            bucket, i = self._places[place]
            order = self.ids[bucket]
        else:
            bucket, i = self._places[_order(len(self), seed, epoch, 0)[place]]
            order = self.ids[bucket][_order(len(self.ids[bucket]), seed, epoch, 1 + bucket)]
        return bucket, order[i * self.rows[bucket] : (i + 1) * self.rows[bucket]]


@functools.lru_cache(maxsize=64)
def _order(length: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """Returns the order of the batches of an epoch (stream 0), or of the pairs of bucket `stream - 1`."""
    order = np.random.default_rng([seed % 2**64, epoch, stream]).permutation(length)
    order.flags.writeable = False
    return order


def divide(pairs: TokenPairs, buckets: Sequence[int], batch_size: int, multiple: int = 1) -> TokenBatches:
    """Divides pairs into batches of at most `batch_size` tokens per side, including the padding of sentences.

    Args:
      buckets: Lengths in tokens. A pair goes into the shortest bucket that fits its longer side and the end token.
      multiple: Number of devices of all processes, times micro-batches. It affects neither the batches nor their order,
        only the number of padding rows.

    Raises:
      UserError: The buckets are not increasing lengths, a batch is smaller than the longest bucket, or no pair fits.
    """
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 2:
        raise UserError(f"config.data.buckets must be increasing lengths of 2 tokens or more, got {tuple(buckets)}")
    if batch_size < buckets[-1]:
        raise UserError(
            f"a batch of {batch_size} tokens per side has no room for a sentence of {buckets[-1]} tokens, the longest "
            "of config.data.buckets. Increase the batch size or shorten the buckets"
        )
    bucket_of = np.searchsorted(buckets, pairs.lengths())
    ids = [np.flatnonzero(bucket_of == bucket) for bucket in range(len(buckets))]
    skipped = int((bucket_of == len(buckets)).sum())
    if skipped == len(pairs):
        raise UserError(
            f"no sentences left: {skipped:,} of {len(pairs):,} pairs are longer than {buckets[-1]} tokens, the longest "
            "of config.data.buckets"
            if skipped
            else "there are no sentences"
        )
    return TokenBatches(
        pairs=pairs,
        lengths=tuple(map(int, buckets)),
        rows=tuple(batch_size // length for length in buckets),
        multiple=multiple,
        ids=tuple(ids),
        skipped=skipped,
    )


def shapes(batches: TokenBatches) -> list[dict[str, Any]]:
    """Returns the batches of each bucket that has pairs, as trees of `jax.ShapeDtypeStruct`."""
    import jax

    found = []
    for bucket, (length, ids) in enumerate(zip(batches.lengths, batches.ids, strict=True)):
        rows = batches.padded_rows(bucket)
        sides = {"source": ((rows, length), np.int32), "target": ((rows, length + 1), np.int32)}
        named = {**sides, "mask": ((rows,), np.float32), "id": ((rows,), np.int32)}
        if len(ids):
            found.append({name: jax.ShapeDtypeStruct(*shape_and_dtype) for name, shape_and_dtype in named.items()})
    return found


@dataclasses.dataclass(frozen=True)
class LoadTokens:
    """Loads one process's rows of a batch, in one part: process i has the i-th block of rows."""

    batches: TokenBatches
    seed: int | None
    process_index: int
    process_count: int

    def parts(self, step: int, at_once: int) -> list[range]:
        return [range(step, step + 1)]

    def __call__(self, part: range) -> Batch:
        bucket, ids = self.batches.ids_at(part.start, self.seed)
        length, each = self.batches.lengths[bucket], self.batches.padded_rows(bucket) // self.process_count
        ids = ids[self.process_index * each : (self.process_index + 1) * each]
        source, target = (np.full((each, width), PAD_ID, np.int32) for width in (length, length + 1))
        source[:, 0], target[:, 0], target[:, 1] = EOS_ID, BOS_ID, EOS_ID
        for row, i in enumerate(ids):
            sides = self.batches.pairs.pair(i)
            for array, first, tokens in zip((source, target), (0, 1), sides, strict=True):
                array[row, first : first + len(tokens)] = tokens
                array[row, first + len(tokens)] = EOS_ID
        padding = (0, each - len(ids))
        return {
            "source": source,
            "target": target,
            "mask": np.pad(np.ones(len(ids), np.float32), padding),
            "id": np.pad(ids.astype(np.int32), padding, constant_values=-1),
        }


def train_batches(
    batches: TokenBatches,
    *,
    seed: int,
    first_step: int,
    last_step: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: Workers | None = None,
) -> Batches:
    """Yields this process's rows of the batches `first_step` to `last_step - 1`, of one shuffled epoch after another.

    `workers` are those of `pipeline.train_batches`.
    """
    load = LoadTokens(batches, seed, process_index, process_count)
    return Batches(load, first_step, last_step, workers)


def eval_batches(
    batches: TokenBatches,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: Workers | None = None,
) -> Batches:
    """Yields every pair once, in order of the buckets. Every process has the same number of batches."""
    load = LoadTokens(batches, None, process_index, process_count)
    return Batches(load, 0, len(batches), workers)
