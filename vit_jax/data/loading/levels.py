"""Images and clips as 8-bit levels until they are on the devices, which normalize them.

A batch of levels takes a quarter of the memory of its floats, in workers, in queues and on the way to the devices.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Levels(NamedTuple):
    """The rows of a batch as 8-bit levels, and the numbers that `normalize` makes floats of them with.

        floats = values * scale - offset        in float32, with scale = 1 / (255 std) and offset = mean / std

    It is a tuple of arrays that each have one entry per row. So it is divided into micro-batches, padded (by zeros,
    which remain zeros as floats) and placed on devices as every other entry of a batch is. NumPy and JAX compute
    `floats` alike, within the rounding of float32: a compiler may fuse the product and the difference.

    Attributes:
      values: uint8 (rows, ..., channels).
      scale, offset: float32 (rows, channels).
    """

    values: Any
    scale: Any
    offset: Any

    def floats(self) -> Any:
        """Returns float32 (rows, ..., channels), of the library that the fields belong to."""
        between = (1,) * (self.values.ndim - 2)
        scale, offset = (x.reshape(len(x), *between, x.shape[-1]) for x in (self.scale, self.offset))
        return self.values.astype(np.float32) * scale - offset

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns the floats, so that NumPy reads an entry of a batch alike whether or not it is made of levels."""
        floats = self.floats()
        return floats if dtype is None else floats.astype(dtype)


def as_floats(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch in which every entry that is made of levels is replaced by its floats."""
    return {key: value.floats() if isinstance(value, Levels) else value for key, value in batch.items()}
