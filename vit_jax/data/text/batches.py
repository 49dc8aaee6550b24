"""Batches of text: pairs of sentences of about the same length together, as many as fill a number of tokens.

As in `pipeline`, batch n of training is a function of the seed and n alone, so that resuming is slicing. A batch is a
dict, of one bucket of `length` tokens:

    source  int32 (batch, length): tokens, end, padding
    target  int32 (batch, length + 1): beginning, tokens, end, padding; the model is given all but the last
    mask    float32 (batch,): 1 for a pair, 0 for padding
    id      int32 (batch,): the pair's place in its split, -1 for padding

Rows of padding hold the empty sentence, so that no row is without a token to attend to.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from vit_jax.data.pipeline import Batch, Batches
from vit_jax.data.text.source import TextSource
from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, Vocabulary
from vit_jax.errors import UserError

CHUNK = 100_000  # sentences encoded at once

Progress = Callable[[int, int], None]  # sentences done, of how many


@dataclasses.dataclass(frozen=True, eq=False)
class TokenPairs:
    """The sentences of a split as tokens, without beginning and end.

    Attributes:
      tokens: Those of all sources, and of all targets, one after the other.
      ends: Where sentence i ends among them, and i + 1 begins; the first is 0.
    """

    tokens: tuple[np.ndarray, np.ndarray]
    ends: tuple[np.ndarray, np.ndarray]

    def __len__(self) -> int:
        return len(self.ends[0]) - 1

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        source, target = (tokens[ends[i] : ends[i + 1]] for tokens, ends in zip(self.tokens, self.ends, strict=True))
        return source, target

    def lengths(self) -> np.ndarray:
        """Tokens of the longer side of each pair, with its end: the least length of a bucket that holds it."""
        return np.maximum(*(np.diff(ends) for ends in self.ends)) + 1


def encode_pairs(source: TextSource, vocabulary: Vocabulary, progress: Progress | None = None) -> TokenPairs:
    """Makes every sentence into tokens."""
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

    An epoch has every pair that fits the longest bucket once, and always as many batches: the last of each bucket is
    padded.

    Attributes:
      lengths: Of the buckets, increasing.
      rows: Pairs of a batch of each bucket, over all processes.
      multiple: Of which the rows of a batch are one; those beyond its pairs are padding.
      ids: The pairs of each bucket, in order.
      skipped: Pairs longer than the longest bucket.
    """

    pairs: TokenPairs
    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    multiple: int
    ids: tuple[np.ndarray, ...]
    skipped: int

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._places)

    @property
    def padding(self) -> float:
        """Share of the tokens of an epoch, source and target together, that are padding."""
        sizes = [self.lengths[bucket] * self.padded_rows(bucket) for bucket, _ in self._places]
        kept = np.concatenate(self.ids)
        real = sum(int(np.diff(ends)[kept].sum()) + len(kept) for ends in self.pairs.ends)
        return 1 - real / (2 * sum(sizes))

    def padded_rows(self, bucket: int) -> int:
        """Rows of a batch of a bucket: those of its pairs, filled up to `multiple`."""
        return -(-self.rows[bucket] // self.multiple) * self.multiple

    @functools.cached_property
    def _places(self) -> list[tuple[int, int]]:
        """The batches of an epoch in order: (bucket, how many there are of it before)."""
        return [
            (bucket, i)
            for bucket, (ids, rows) in enumerate(zip(self.ids, self.rows, strict=True))
            for i in range(-(-len(ids) // rows))
        ]

    def ids_at(self, step: int, seed: int | None) -> tuple[int, np.ndarray]:
        """Returns the bucket of batch `step`, and its pairs: shuffled and endless with a seed, else in order."""
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
    """The order of an epoch's batches (stream 0), or of a bucket's pairs."""
    order = np.random.default_rng([seed % 2**64, epoch, stream]).permutation(length)
    order.flags.writeable = False
    return order


def divide(pairs: TokenPairs, buckets: Sequence[int], batch_size: int, multiple: int = 1) -> TokenBatches:
    """Divides pairs into batches of at most `batch_size` tokens a side, the padding of sentences included.

    Args:
      buckets: Lengths in tokens; a pair goes into the shortest that holds its longer side and the end.
      multiple: Devices of all processes, times micro-batches. It changes neither the batches nor their order, only how
        many rows of padding they have.

    Raises:
      UserError: The buckets are no lengths, a batch has no room for one of the longest, or no pair fits.
    """
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 2:
        raise UserError(f"config.data.buckets={tuple(buckets)}: increasing lengths are wanted, of 2 tokens or more")
    if batch_size < buckets[-1]:
        raise UserError(
            f"a batch of {batch_size} tokens a side has no room for a sentence of {buckets[-1]} tokens, the longest of "
            "config.data.buckets"
        )
    bucket_of = np.searchsorted(buckets, pairs.lengths())
    ids = [np.flatnonzero(bucket_of == bucket) for bucket in range(len(buckets))]
    skipped = int((bucket_of == len(buckets)).sum())
    if skipped == len(pairs):
        raise UserError(
            f"no sentence left: {skipped} are longer than {buckets[-1]} tokens, the longest of config.data.buckets"
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


@dataclasses.dataclass(frozen=True, eq=False)
class LoadTokens:
    """Makes one process's rows of batch `step`: its block of them."""

    batches: TokenBatches
    seed: int | None
    process_index: int
    process_count: int

    def __call__(self, step: int) -> Batch:
        bucket, ids = self.batches.ids_at(step, self.seed)
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
    num_workers: int = 0,
    num_threads: int = 2,
) -> Batches:
    """Yields this process's rows of the batches `first_step` to `last_step - 1`: one shuffled epoch after another.

    `num_workers` and `num_threads` as in `pipeline.train_batches`.
    """
    load = LoadTokens(batches, seed, process_index, process_count)
    return Batches(load, first_step, last_step, num_workers, num_threads)


def eval_batches(
    batches: TokenBatches,
    *,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    num_threads: int = 2,
) -> Batches:
    """Yields every pair once, in a fixed order, the shorter ones first; every process as many batches."""
    load = LoadTokens(batches, None, process_index, process_count)
    return Batches(load, 0, len(batches), num_workers, num_threads)
