"""Decoding JPEGs at reduced size, for photographs of megapixels: `reduced_decode|random_resized_crop|...`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from vit_jax.data.image.arguments import Transform, check, is_number
from vit_jax.data.image.geometry import RandomResize, RandomResizedCrop, Resize

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class ReducedDecode(Transform):
    """Decodes a JPEG at 1/2, 1/4 or 1/8 of its size if what is resized then has `gap` times the pixels of each side.

    It is the first step, and the next one a resize or a random resized crop with antialiasing. The decoder averages
    blocks of pixels before they are resized, so that the levels change: `docs/data.md` says by how much. Crops, random
    numbers, other formats and small images stay the same.

    Attributes:
      gap: As Pillow's `reducing_gap`: from 1, which is fastest, to 3, after which hardly a level changes.
    """

    gap: float = 2.0

    def __post_init__(self):
        check(is_number(self.gap) and 1 <= self.gap <= 8, "gap", self.gap, "from 1 to 8")

    def __call__(self, image: Any, rng: Any) -> Any:
        """Returns the image: the decoding happens in the next step."""
        return image

    def before(self, step: Transform) -> Callable:
        """Returns `step` as a function of a stored image, a generator, and the conversion of what is decoded."""

        def apply(image: Image.Image, rng: np.random.Generator | None, convert: Callable) -> Image.Image:
            if not (isinstance(image, JpegImagePlugin.JpegImageFile) and image.tile):  # decoded before, or no JPEG
                return step(convert(image), rng)
            result = step(Reducible(image, convert, self.gap), rng)
            return result.whole() if isinstance(result, Reducible) else result

        return apply

    @staticmethod
    def precedes(step: Transform) -> bool:
        """Returns whether a step may follow: it resizes, and averages the pixels that it leaves out."""
        return isinstance(step, (Resize, RandomResize, RandomResizedCrop)) and step.antialias


class Reducible:
    """A part of a JPEG that is not decoded yet. Crops and resizes use it as they use an image.

    Args:
      image: The JPEG.
      convert: Applied to what is decoded: conversion of the channels.
      gap: That of `ReducedDecode`.
      box: The part, in pixels of the JPEG; by default all of it.
    """

    def __init__(self, image: JpegImagePlugin.JpegImageFile, convert: Callable, gap: float, box: Box | None = None):
        self._image, self._convert, self._gap = image, convert, gap
        self._box = box or (0, 0, *image.size)

    @property
    def size(self) -> tuple[int, int]:
        left, top, right, bottom = self._box
        return int(right - left), int(bottom - top)

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    def crop(self, box: Box) -> "Reducible":
        """Returns a part of this part."""
        left, top = self._box[:2]
        return Reducible(
            self._image, self._convert, self._gap, (left + box[0], top + box[1], left + box[2], top + box[3])
        )

    def resize(self, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
        """Decodes what `reduced` says, and resizes it to (width, height)."""
        image, box = self.reduced(size)
        return image.resize(size, method, box)

    def reduced(self, size: tuple[int, int]) -> tuple[Image.Image, Box]:
        """Decodes at the smallest size that is at least `gap` times `size`, (width, height).

        Returns the image, and the box of this part in it.
        """
        most = min(self.width / size[0], self.height / size[1]) / self._gap
        factor = next((f for f in (8, 4, 2) if f <= most), 1)
        drafted, full_width = None, self._image.width
        if factor > 1:
            drafted = self._image.draft(None, (self._image.width // factor, self._image.height // factor))  # pyright: ignore[reportArgumentType]
        if drafted is None:
            return self.whole(), (0, 0, *self.size)
        decoded, (*_, reduced_width, _) = self._convert(self._image), drafted[1]
        scale = reduced_width / full_width  # not that of the sizes, which are rounded up to whole pixels
        left, top, right, bottom = (edge * scale for edge in self._box)
        return decoded, (left, top, min(right, decoded.width), min(bottom, decoded.height))

    def whole(self) -> Image.Image:
        """Returns this part, decoded at full size."""
        decoded = self._convert(self._image)
        return decoded if self._box == (0, 0, *decoded.size) else decoded.crop(self._box)
