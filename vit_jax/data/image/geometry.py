"""Geometric transforms: resizing, crops, flips and affine maps.

Each is a frozen dataclass that checks its arguments on construction, and is called with an 8-bit grey or RGB Pillow
image and a generator. Lengths are in pixels. Pillow's resampling is antialiased, as in timm (torchvision on Pillow
images); `antialias=False` gives TensorFlow's default instead, and `exact=False` is faster: see `resizing.resized`.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from vit_jax.data.image.arguments import (
    LARGEST_SIDE,
    METHODS,
    Size,
    Transform,
    check,
    check_probability,
    check_range,
    check_size,
    is_number,
    is_side,
)
from vit_jax.data.image.resizing import check_resizing, resized
from vit_jax.errors import UserError


@dataclass(frozen=True)
class Resize(Transform):
    """Resizes the shorter side to `size` (int), or the image to exactly `size` (height, width).

    With an int, the longer side is truncated to whole pixels, as in torchvision and timm; big_vision's `resize_small`
    rounds. `resize(method="bilinear", antialias=False)` is how google-research's ViT resizes images for evaluation.

    With `cover`, the image keeps its shape, and `size` (height, width) is the part of the plane that it just covers:
    one side becomes as long as that of `size`, the other one longer or equal, rounded, as by timm's `ResizeKeepRatio`.
    """

    size: Size = None
    method: str = "bicubic"
    antialias: bool = True
    cover: bool = False
    exact: bool = True

    def __post_init__(self):
        check_size(self.size)
        check_resizing(self.method, self.antialias, self.exact)
        check(isinstance(self.cover, bool), "cover", self.cover, "True or False")
        check(not (self.cover and isinstance(self.size, int)), "size", self.size, "(height, width) with cover=True")

    def __call__(self, image: Image.Image, rng: Any) -> Image.Image:
        size = self.size
        if isinstance(size, int):
            shorter = min(image.size)
            size = (int(size * image.height / shorter), int(size * image.width / shorter))
        assert size is not None
        if self.cover:
            ratio = min(image.height / size[0], image.width / size[1])
            size = (round(image.height / ratio), round(image.width / ratio))
        if size == (image.height, image.width):
            return image
        return resized(image, size, self.method, self.antialias, self.exact)


@dataclass(frozen=True)
class RandomResize(Transform):
    """Resizes the shorter side to a random number of pixels from `low` to `high` (scale jitter).

    The side is uniform, or if `inverse`, its inverse is uniform; it is then rounded. The defaults, bilinear without
    antialiasing, are those of the published runs of SlowFast and TimeSformer. Deviation: these resize normalized
    values, not 8-bit levels.
    """

    low: int
    high: int
    inverse: bool = False
    method: str = "bilinear"
    antialias: bool = False
    exact: bool = True
    random: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("low", "high"):
            side = getattr(self, name)
            check(is_side(side), name, side, f"pixels, above 0 and at most {LARGEST_SIDE:,}")
        check(self.low <= self.high, "high", self.high, f"at least low ({self.low})")
        check(isinstance(self.inverse, bool), "inverse", self.inverse, "True or False")
        check_resizing(self.method, self.antialias, self.exact)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        side = 1 / rng.uniform(1 / self.high, 1 / self.low) if self.inverse else rng.uniform(self.low, self.high)
        return Resize(round(side), self.method, self.antialias, exact=self.exact)(image, None)


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Crops the centre.

    Attributes:
      rounding: Half of an odd margin is rounded to `even`, as in torchvision and timm, or `down`, as in transformers
        and big_vision.
    """

    size: Size = None
    rounding: str = "even"

    def __post_init__(self):
        check_size(self.size)
        check(self.rounding in ("even", "down"), "rounding", self.rounding, "'even' or 'down'")

    def __call__(self, image: Image.Image, rng: Any) -> Image.Image:
        height, width = _pair(self.size)
        _check_fits(image, height, width, "center_crop")
        rounded = round if self.rounding == "even" else math.floor
        return _cut(image, rounded((image.height - height) / 2), rounded((image.width - width) / 2), height, width)


@dataclass(frozen=True)
class PlacedCrop(Transform):
    """Crop number `index` of `count` crops spread evenly along the longer side, such as left, centre and right.

    Half pixels are rounded up, also along the shorter side, as in the published runs of SlowFast and TimeSformer.
    """

    size: Size = None
    index: int = 0
    count: int = 1

    def __post_init__(self):
        check_size(self.size)

    def __call__(self, image: Image.Image, rng: Any) -> Image.Image:
        height, width = _pair(self.size)
        _check_fits(image, height, width, "center_crop")
        rests = (image.height - height, image.width - width)
        top, left = (math.ceil(rest / 2) for rest in rests)
        if self.count > 1 and image.height > image.width:
            top = math.ceil(rests[0] * self.index / (self.count - 1))
        elif self.count > 1:
            left = math.ceil(rests[1] * self.index / (self.count - 1))
        return _cut(image, top, left, height, width)


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Crops `size` at a random position, after padding each side by `padding` black pixels (He et al. 2016, CIFAR)."""

    size: Size = None
    padding: int = 0
    random: ClassVar[bool] = True

    def __post_init__(self):
        check_size(self.size)
        check(self.padding == 0 or is_side(self.padding), "padding", self.padding, f"from 0 to {LARGEST_SIDE:,} pixels")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        height, width = _pair(self.size)
        pad = self.padding
        _check_fits(image, height - 2 * pad, width - 2 * pad, "random_crop")
        top = int(rng.integers(-pad, image.height + pad - height, endpoint=True))
        left = int(rng.integers(-pad, image.width + pad - width, endpoint=True))
        return _cut(image, top, left, height, width)  # Pillow fills the area outside of the image with black


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """A crop of random area and aspect ratio, resized to `size` (Szegedy et al. 2015), sampled as in timm.

    The area is a fraction of the image uniform in `area`, and width / height is log-uniform in `ratio`. After ten crops
    that do not fit, the largest centre crop within `ratio` is used. Google's code samples differently: see
    `inception_crop`.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    method: str = "bicubic"
    antialias: bool = True
    size: Size = None
    exact: bool = True
    random: ClassVar[bool] = True

    def __post_init__(self):
        _check_crop(self)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        crop = _cut(image, *self.sample(image.height, image.width, rng))
        return resized(crop, _pair(self.size), self.method, self.antialias, self.exact)

    def sample(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws (top, left, height, width) of the crop."""
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = int(rng.integers(0, height - crop_height, endpoint=True))
                left = int(rng.integers(0, width - crop_width, endpoint=True))
                return top, left, crop_height, crop_width
        crop_width = min(width, round(height * self.ratio[1]))
        crop_height = min(height, round(width / self.ratio[0]))
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


@dataclass(frozen=True)
class InceptionCrop(RandomResizedCrop):
    """The random resized crop of big_vision, which uses TensorFlow's `sample_distorted_bounding_box`.

    Width / height is uniform in `ratio`, and then the *height* is uniform among those whose area is in `area`, so that
    small crops are more frequent than in `random_resized_crop`. After a hundred crops that do not fit, the whole image
    is used. The defaults, bilinear without antialiasing, are those of the published runs. Deviation: TensorFlow never
    draws the last row and column of positions.
    """

    area: tuple[float, float] = (0.05, 1.0)
    ratio: tuple[float, float] = (0.75, 1.33)
    method: str = "bilinear"
    antialias: bool = False

    def sample(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        smallest, largest = self.area[0] * height * width, self.area[1] * height * width
        for _ in range(100):
            aspect = rng.uniform(*self.ratio)
            high = min(round(math.sqrt(largest / aspect)), int((width + 0.5) / aspect), height)
            low = min(round(math.sqrt(smallest / aspect)), high)
            crop_height = int(rng.integers(low, high, endpoint=True))
            crop_width = round(crop_height * aspect)
            if 0 < crop_width <= width and smallest <= crop_height * crop_width <= largest:
                top = int(rng.integers(0, height - crop_height, endpoint=True))
                left = int(rng.integers(0, width - crop_width, endpoint=True))
                return top, left, crop_height, crop_width
        return 0, 0, height, width


@dataclass(frozen=True)
class Flip(Transform):
    """Flips left and right with probability `p`."""

    p: float = 0.5
    random: ClassVar[bool] = True

    def __post_init__(self):
        check_probability("p", self.p)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.p else image


@dataclass(frozen=True)
class Rot90(Transform):
    """Rotates a square image by 0, 90, 180 or 270 degrees with equal probability."""

    random: ClassVar[bool] = True
    _quarters: ClassVar = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if image.width != image.height:
            raise UserError(f"rot90: the image is not square ({image.height}x{image.width}): put a crop before it")
        turn = rng.integers(4)
        return image.transpose(self._quarters[turn - 1]) if turn else image


@dataclass(frozen=True)
class RandomAffine(Transform):
    """Rotates, shifts and scales at random, about the centre. The defaults are mild, for digits.

    Attributes:
      degrees: The angle is uniform in [-degrees, degrees].
      shift: Fraction of width and height; the shift along each is uniform in [-shift, shift].
      scale: Range of the factor, uniform.
      fill: Grey level outside of the image, 0 to 255.
    """

    degrees: float = 10.0
    shift: float = 0.1
    scale: tuple[float, float] = (0.9, 1.1)
    method: str = "bilinear"
    fill: int = 0
    random: ClassVar[bool] = True

    def __post_init__(self):
        check(is_number(self.degrees) and 0 <= self.degrees <= 180, "degrees", self.degrees, "from 0 to 180")
        check(is_number(self.shift) and 0 <= self.shift <= 1, "shift", self.shift, "a fraction from 0 to 1")
        check_range("scale", self.scale)
        check(self.method in ("nearest", "bilinear", "bicubic"), "method", self.method, "nearest, bilinear or bicubic")
        check(isinstance(self.fill, int) and 0 <= self.fill <= 255, "fill", self.fill, "a grey from 0 to 255")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        shift_x, shift_y = rng.uniform(-self.shift, self.shift, size=2) * image.size
        scale = rng.uniform(*self.scale)
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        centre_x, centre_y = image.width / 2, image.height / 2
        # Pillow takes the inverse map: from a pixel of the new image to its position in the old one.
        old_x = centre_x - cos * (centre_x + shift_x) - sin * (centre_y + shift_y)
        old_y = centre_y + sin * (centre_x + shift_x) - cos * (centre_y + shift_y)
        matrix = (cos, sin, old_x, -sin, cos, old_y)
        fill = self.fill if image.mode == "L" else (self.fill,) * 3
        return image.transform(image.size, Image.Transform.AFFINE, matrix, METHODS[self.method], fillcolor=fill)


def _cut(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    return image.crop((left, top, left + width, top + height))


def _pair(size: Size) -> tuple[int, int]:
    assert size is not None
    return (size, size) if isinstance(size, int) else size


def _check_crop(crop: RandomResizedCrop) -> None:
    check_range("area", crop.area, largest=1.0)
    check_range("ratio", crop.ratio)
    check_resizing(crop.method, crop.antialias, crop.exact)
    check_size(crop.size)


def _check_fits(image: Image.Image, height: int, width: int, name: str) -> None:
    if image.height < height or image.width < width:
        raise UserError(
            f"{name}: the image ({image.height}x{image.width}) is smaller than {height}x{width}: put 'resize' before it"
        )
