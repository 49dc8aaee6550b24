"""Transforms of pixel values: colour jitter, normalization (which makes the array) and random erasing (after it)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageEnhance

from vit_jax.data.image.arguments import Transform, check, check_probability, check_range, is_number
from vit_jax.errors import UserError


@dataclass(frozen=True)
class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue at random, in random order, as torchvision does.

    The first three are scaled by a factor uniform in [max(0, 1 - x), 1 + x], where x is the argument (timm's default is
    0.4); the hue is shifted by a fraction of the colour circle uniform in [-hue, hue].
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.0
    random: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            check(is_number(value) and value >= 0, name, value, "0 or more")
        check(is_number(self.hue) and 0 <= self.hue <= 0.5, "hue", self.hue, "from 0 to 0.5")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        enhancers = [
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ]
        for index in rng.permutation(4):
            if index == 3:
                image = _shift_hue(image, rng.uniform(-self.hue, self.hue))
            elif enhancers[index][1]:
                enhancer, strength = enhancers[index]
                image = enhancer(image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
        return image


@dataclass(frozen=True)
class Normalize(Transform):
    """Makes a float32 array of (x / 255 - mean) / std; `mean` and `std` are numbers, or tuples with one per channel."""

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]

    def __post_init__(self):
        for name, values in (("mean", self.mean), ("std", self.std)):
            each = values if isinstance(values, tuple) else (values,)
            check(bool(each) and all(is_number(value) for value in each), name, values, "a number or one per channel")
        check(bool(np.all(np.greater(self.std, 0))), "std", self.std, "above 0")

    def __call__(self, image: Image.Image, rng: Any) -> np.ndarray:
        values = levels_of(image).astype(np.float32)
        scale, offset = self.scale_and_offset(values.shape[-1])
        values *= scale
        values -= offset
        return values

    def scale_and_offset(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns 1 / (255 std) and mean / std, each float32 (channels,): the result is levels * scale - offset."""
        mean, std = (np.broadcast_to(np.asarray(x, np.float32), channels) for x in (self.mean, self.std))
        return 1 / (255 * std), mean / std


@dataclass(frozen=True)
class RandomErasing(Transform):
    """Fills one rectangle with probability `p` (Zhong et al. 2017), as timm does. It follows `normalize`.

    The rectangle's area is a fraction of the image uniform in `area`, and its height / width is log-uniform in `ratio`.
    After ten rectangles that do not fit, none is drawn.

    Attributes:
      mode: "pixel" (standard normal noise, as in DeiT), "rand" (one standard normal colour) or "const" (zero).
    """

    p: float = 0.25
    mode: str = "pixel"
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    random: ClassVar[bool] = True
    on_array: ClassVar[bool] = True

    def __post_init__(self):
        check_probability("p", self.p)
        check(self.mode in ("pixel", "rand", "const"), "mode", self.mode, "pixel, rand or const")
        check_range("area", self.area, largest=1.0)
        check_range("ratio", self.ratio)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.p:
            return image
        height, width, channels = image.shape
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = rng.integers(0, height - h, endpoint=True), rng.integers(0, width - w, endpoint=True)
                shape = {"pixel": (h, w, channels), "rand": (1, 1, channels), "const": (1, 1, 0)}[self.mode]
                image[top : top + h, left : left + w] = rng.standard_normal(shape) if shape[2] else 0.0
                break
        return image


def levels_of(image: Image.Image) -> np.ndarray:
    """Returns the levels of an 8-bit grey or RGB image: uint8 (height, width, channels), read-only.

    Raises:
      UserError: The image, which a transform of the user's own may have returned, has other levels.
    """
    levels = np.asarray(image)
    if levels.dtype != np.uint8:
        raise UserError(f"a transform before 'normalize' returned an image of mode {image.mode!r} instead of L or RGB")
    return levels[..., None] if levels.ndim == 2 else levels


def _shift_hue(image: Image.Image, fraction: float) -> Image.Image:
    if image.mode == "L" or fraction == 0:
        return image
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + round(fraction * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
