"""Split names and slices such as `train[:80%]`.

Images, clips and text all parse their splits here. TFDS sets use the same notation, which TFDS parses itself.
"""

import re
from typing import NamedTuple

import numpy as np

from vit_jax.errors import UserError

SHUFFLE_SEED = 0  # part of the meaning of `train[:80%]`: changing it would change every sliced split

_SLICE = re.compile(r"\s*(\w+)\s*(?:\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\])?\s*")


class Slice(NamedTuple):
    """A contiguous part of a split, as written: `train[10%:90%]` is `Slice("train", "10%", "90%")`.

    Bounds are positions or percentages, and count from the end if negative. Both are empty for the whole split.
    """

    base: str
    start: str = ""
    stop: str = ""

    @property
    def is_whole(self) -> bool:
        return not self.stop

    def positions(self, count: int) -> slice:
        """Returns the slice of a split of `count` examples."""
        return slice(_position(self.start or "0", count), _position(self.stop or "100%", count))


def parse_slice(split: str) -> Slice:
    """Parses one slice of a split, such as `train`, `train[:80%]` or `train[100:200]`.

    Raises:
      UserError: `split` has another form.
    """
    match = _SLICE.fullmatch(split)
    if match is None:
        raise UserError(f"split {split!r} is not of the form train, train[:80%] or train[100:200]")
    return Slice(match[1], match[2] or "0", match[3] or "100%") if "[" in split else Slice(match[1])


def parse_split(split: str) -> list[Slice]:
    """Parses slices of one split joined by `+`, such as `train[:10%]+train[90%:]`.

    Raises:
      UserError: A slice has another form, or the slices belong to different splits. An example is identified by its
        position in one split, so that ids of two splits would collide.
    """
    slices = [parse_slice(part) for part in split.split("+")]
    bases = sorted({part.base for part in slices})
    if len(bases) > 1:
        raise UserError(f"split {split!r}: ids count within one split, so read {' and '.join(bases)} separately")
    return slices


def overlap(ours: Slice, theirs: Slice, count: int | None = None) -> int | None:
    """Returns how many examples two slices of one split share.

    Args:
      count: Number of examples in the split. Without it, the result is positive if they share examples, or None if that
        depends on the number.
    """
    if count is None:
        bounds = [
            bound for part in (ours, theirs) for bound in (part.start or "0", part.stop or "100%") if bound != "0"
        ]
        if any(bound.startswith("-") for bound in bounds):
            return None
        if all(bound.endswith("%") for bound in bounds):
            count = 100
        elif any(bound.endswith("%") and bound != "100%" for bound in bounds):
            return None
        else:  # positions, and whole splits
            count = 1 + max(int(bound) for bound in bounds if not bound.endswith("%"))
    a, b = ours.positions(count), theirs.positions(count)
    return max(min(a.stop, b.stop) - max(a.start, b.start), 0)


def choose(count: int, slices: list[Slice]) -> list[int]:
    """Returns the ids of the examples in `slices` of a split of `count` examples.

    A whole split keeps its order. Slices are taken from a fixed shuffled order, because files are sorted by class.
    """
    if len(slices) == 1 and slices[0].is_whole:
        return list(range(count))
    order = np.random.Generator(np.random.PCG64(SHUFFLE_SEED)).permutation(count)
    return np.concatenate([order[part.positions(count)] for part in slices]).tolist()


def _position(bound: str, count: int) -> int:
    """Converts a bound to a position from 0 to `count`; percentages round to the nearest example, as in TFDS."""
    position = round(int(bound[:-1]) * count / 100) if bound.endswith("%") else int(bound)
    return max(0, min(count, position + count if position < 0 else position))
