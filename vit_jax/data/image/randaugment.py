"""RandAugment (Cubuk et al. 2019), in the variants of the published runs, which differ.

`RandAugment` is timm's, configured by timm's own string; `RandAug` is google-research's for AugReg (big_vision's
`randaug`), and `RandAugNoisyStudent` is the same code with Noisy Student's magnitude. They differ in which operations
become stronger with the magnitude, in the probability of each operation, in resampling, in the fill colour, in the
definition of "contrast" and in how much "SolarizeAdd" may add.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageOps

from vit_jax.data.image.arguments import METHODS, Transform, check

Colour = int | tuple[int, ...]
# The strength of each operation at a level of 0 to 10 (or more, in some variants), before a random sign.
_STRENGTH: dict[str, Callable[[float], float]] = {
    "AutoContrast": lambda level: 0,
    "Equalize": lambda level: 0,
    "Invert": lambda level: 0,
    "Rotate": lambda level: 3.0 * level,
    "Posterize": lambda level: int(0.4 * level),
    "PosterizeIncreasing": lambda level: 4 - int(0.4 * level),
    "Solarize": lambda level: min(256, int(25.6 * level)),
    "SolarizeIncreasing": lambda level: 256 - min(256, int(25.6 * level)),
    "SolarizeAdd": lambda level: int(11 * level),
    "Color": lambda level: 0.18 * level + 0.1,
    "Contrast": lambda level: 0.18 * level + 0.1,
    "Brightness": lambda level: 0.18 * level + 0.1,
    "Sharpness": lambda level: 0.18 * level + 0.1,
    "ShearX": lambda level: 0.03 * level,
    "ShearY": lambda level: 0.03 * level,
}
_SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
_ENHANCERS = {
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Brightness": ImageEnhance.Brightness,
    "Sharpness": ImageEnhance.Sharpness,
}
_COMMON = ("AutoContrast", "Equalize", "Invert", "Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")

TIMM = (*_COMMON, "Posterize", "Solarize", "SolarizeAdd", *_ENHANCERS)
TIMM_INCREASING = (
    *_COMMON,
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    *(f"{name}Increasing" for name in _ENHANCERS),
)
GOOGLE = (*_COMMON, "Posterize", "Solarize", "SolarizeAdd", *_ENHANCERS, "Cutout")


@dataclass(frozen=True)
class RandAugment(Transform):
    """timm's RandAugment, configured by its string: DeiT and TnT use `randaugment('rand-m9-mstd0.5-inc1')`.

    The string contains, with defaults in brackets:

    - `m`: magnitude (10)
    - `n`: operations per image (2)
    - `p`: probability of each operation (0.5, so that with two operations, one image in four is unchanged)
    - `mstd`: standard deviation of normal noise added to the magnitude (0); above 100, the magnitude is uniform from 0
    - `mmax`: upper bound of the magnitude (10)
    - `inc1`: use operations that all become stronger with the magnitude

    `SolarizeAdd` adds at most 128 to the dark pixels, also at levels above 11, which `mmax` allows.

    Deviations from timm: `t`, the choice of a set of operations, is not supported; and `inc0` does not mean increasing.

    Attributes:
      method: Resampling of the affine operations.
      fill: Colour outside of the image, a grey or RGB; by default the mean of `normalize`, as in timm.
    """

    config: str = "rand-m9-mstd0.5-inc1"
    method: str = "bicubic"
    fill: Colour | None = None
    random: ClassVar[bool] = True

    def __post_init__(self):
        _parsed(self.config)
        check(self.method in ("nearest", "bilinear", "bicubic"), "method", self.method, "nearest, bilinear or bicubic")
        _check_fill(self.fill)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for name, level in self.sample(rng):
            image = _apply(name, image, _timm_strength(name, level, image, rng), self.method, self.fill or 0)
        return image

    def sample(self, rng: np.random.Generator) -> list[tuple[str, float]]:
        """Draws the (operation, level) pairs for one image."""
        config = _parsed(self.config)
        names = TIMM_INCREASING if config["inc"] else TIMM
        chosen = [names[index] for index in rng.integers(len(names), size=int(config["n"]))]
        return [(name, _timm_level(config, rng)) for name in chosen if rng.random() < config["p"]]


@dataclass(frozen=True)
class RandAug(Transform):
    """AugReg's RandAugment (Steiner et al. 2021), big_vision's `randaug(layers, magnitude)`.

    Each of `layers` operations per image is always applied. They are drawn from timm's fifteen, with translations by
    10 pixels per level in either direction, and cutout of a square whose side is 8 pixels per level. The levels are
    AutoAugment's, so that not every operation becomes stronger with the magnitude: `Solarize` and `Posterize` fade
    out, and the enhancers are neutral at 5. Resampling is by nearest neighbour, with grey 128 outside of the image.

    "Contrast" reproduces the original code, which blends with the grey level height * width / 256 (at most 255) instead
    of the mean, because it sums the counts of the histogram. `SolarizeAdd` adds 11 per level without timm's limit of
    128: at magnitude 15 it adds 165 to all values below 128, and from magnitude 24 on, it makes them white.

    Above magnitude 10, the threshold of `Solarize` stays at 256 and `Posterize` at 8 bits, so that both change nothing;
    what TensorFlow did with thresholds above 255 depended on its version.
    """

    layers: int = 2
    magnitude: float = 10
    random: ClassVar[bool] = True

    def __post_init__(self):
        check(isinstance(self.layers, int) and self.layers >= 0, "layers", self.layers, "a count, 0 or more")
        check(
            isinstance(self.magnitude, (int, float)) and 0 <= self.magnitude <= 30,
            "magnitude",
            self.magnitude,
            "0 to 30",
        )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for name in self.sample(rng):
            image = _google(name, image, self.magnitude, rng)
        return image

    def sample(self, rng: np.random.Generator) -> list[str]:
        """Draws the operations for one image."""
        return [GOOGLE[index] for index in rng.integers(len(GOOGLE), size=self.layers)]


@dataclass(frozen=True)
class RandAugNoisyStudent(RandAug):
    """Noisy Student's RandAugment (Xie et al. 2020): `randaug` with the magnitude of the authors' code, 27."""

    magnitude: float = 27


def _parsed(config: Any) -> dict[str, float]:
    check(
        isinstance(config, str) and config.split("-")[0] == "rand", "config", config, "such as 'rand-m9-mstd0.5-inc1'"
    )
    values = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": 10.0, "inc": 0.0}
    for part in config.split("-")[1:]:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        known = f"made of rand and {', '.join(values)} with numbers (not {part!r})"
        if match is None or match[1] not in values:
            raise ValueError(f"config must be {known}, not {config!r}")
        values[match[1]] = float(match[2])
    check(values["p"] <= 1, "p in config", values["p"], "a probability")
    return values


def _timm_level(config: dict[str, float], rng: np.random.Generator) -> float:
    level = config["m"]
    if config["mstd"] > 100:
        level = rng.uniform(0, level)
    elif config["mstd"] > 0:
        level = rng.normal(level, config["mstd"])
    return min(max(level, 0.0), config["mmax"])


def _timm_strength(name: str, level: float, image: Image.Image, rng: np.random.Generator) -> float:
    if name.startswith("Translate"):
        strength = 0.045 * level * (image.width if name.endswith("X") else image.height)
    elif name.removesuffix("Increasing") in _ENHANCERS and name.endswith("Increasing"):
        return max(0.1, 1 + 0.09 * level * _sign(rng))
    else:
        strength = _STRENGTH[name](level)
    if name == "SolarizeAdd":
        strength = min(128, strength)
    return strength * _sign(rng) if name in _SIGNED else strength


def _google(name: str, image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    if name == "Cutout":
        return _cutout(image, int(4 * level), rng)
    strength = 10 * level if name.startswith("Translate") else _STRENGTH[name](level)
    if name == "Posterize":
        strength = max(1, strength)  # TensorFlow shifts 8-bit values by at most 7, so that one bit is always kept
    if name == "Contrast":
        grey = min(255, image.width * image.height // 256)
        return Image.blend(Image.new(image.mode, image.size, _colour(image, grey)), image, strength)
    return _apply(name, image, strength * _sign(rng) if name in _SIGNED else strength, "nearest", 128)


def _apply(name: str, image: Image.Image, strength: float, method: str, fill: Colour) -> Image.Image:
    operation = name.removesuffix("Increasing")
    if operation in _ENHANCERS:
        return _ENHANCERS[operation](image).enhance(strength)
    if operation in _VALUES:
        return _VALUES[operation](image, int(strength))
    colour = _colour(image, fill)
    if operation == "Rotate":
        return image.rotate(strength, METHODS[method], fillcolor=colour)
    matrix = {
        "ShearX": (1, strength, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, strength, 1, 0),
        "TranslateX": (1, 0, strength, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, strength),
    }[operation]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, METHODS[method], fillcolor=colour)


def _solarize_add(image: Image.Image, addition: int) -> Image.Image:
    table = [min(255, level + addition) if level < 128 else level for level in range(256)]
    return image.point(table * len(image.getbands()))


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    mask = 0 if bits <= 0 else 256 - (1 << max(0, 8 - bits))
    return image.point([level & mask for level in range(256)] * len(image.getbands()))


_VALUES: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageChops.invert(image),
    "Posterize": _posterize,
    "Solarize": lambda image, threshold: ImageOps.solarize(image, threshold),
    "SolarizeAdd": _solarize_add,
}


def _cutout(image: Image.Image, half: int, rng: np.random.Generator) -> Image.Image:
    x, y = int(rng.integers(image.width)), int(rng.integers(image.height))
    image = image.copy()
    image.paste(_colour(image, 128), (max(0, x - half), max(0, y - half), x + half, y + half))
    return image


def _colour(image: Image.Image, fill: Colour) -> Any:
    each = fill if isinstance(fill, tuple) else (fill,)
    bands = len(image.getbands())
    return each[0] if bands == 1 else tuple(each * bands)[:bands]


def _sign(rng: np.random.Generator) -> float:
    return math.copysign(1.0, rng.random() - 0.5)


def _check_fill(fill: Any) -> None:
    each = fill if isinstance(fill, tuple) else (fill,)
    whole = all(isinstance(value, int) and 0 <= value <= 255 for value in each) and len(each) in (1, 3)
    check(fill is None or whole, "fill", fill, "a grey or an RGB triple, 0 to 255")
