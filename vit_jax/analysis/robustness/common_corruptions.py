"""The fifteen common corruptions of images, at five severities (Hendrycks and Dietterich, arXiv:1903.12261, section 3).

`corrupt` takes an image of any size, at least 4 pixels high and wide. The constants of the formulas are lengths in
pixels and amounts of noise that the authors chose by eye for one size: `IMAGENET_C`, for 224 pixels, and `CIFAR_C`, for
32 pixels, whose corruptions are weaker. An image gets those of the nearer size (`constants_for`); they are not scaled.

The formulas are the authors' (ImageNet-C/create_c in their repository), with these deviations:

- Motion blur, of `motion_blur` and of the flakes of `snow`, is a sum of shifted images with half a Gaussian as weights,
  as in the package imagecorruptions. The authors call ImageMagick, which computes nearly the same.
- Grey images stay grey; the authors' images have three channels.
- Lengths of `elastic_transform` are fractions of the shorter side, as the authors' are of theirs; for ImageNet-C they
  are those of 244 pixels at 224, which the authors call a slip.
- Corrupted images are not compressed as JPEG again, with which the authors stored ImageNet-C.
- Random numbers come from a NumPy generator of the caller's.

No package is used for these: imagecorruptions needs OpenCV, numba and scikit-image, refuses images below 32 pixels, and
takes its random numbers from NumPy's global state, which threads share. Its photographs of frost are read if it is
installed (extra `corruptions`).
"""

import functools
import importlib.util
import io
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.analysis.robustness.plasma import plasma
from vit_jax.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)
FROST_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")  # the authors never draw the sixth
_ZOOMS = {(end, step): tuple(np.arange(1, end, step)) for end, step in (
    (1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03),
)}  # fmt: skip

# what each function below takes as `c`, by severity
IMAGENET_C: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": tuple(_ZOOMS[key] for key in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": tuple(
        tuple(244 / 224 * length for length in lengths)
        for lengths in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
}  # fmt: skip
CIFAR_C: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": tuple(_ZOOMS[end, 0.01] for end in (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
}  # fmt: skip
CORRUPTIONS = tuple(IMAGENET_C)


def constants_for(height: int, width: int) -> dict[str, tuple[Any, ...]]:
    """Returns `CIFAR_C` if the shorter side is below 85 pixels, the geometric mean of 32 and 224, else `IMAGENET_C`."""
    return CIFAR_C if min(height, width) < math.sqrt(32 * 224) else IMAGENET_C


def corrupt(image: Image.Image, name: str, severity: int, rng: Any) -> Image.Image:
    """Returns a corrupted copy of an 8-bit grey or RGB image.

    Args:
      name: One of `CORRUPTIONS`.
      severity: From 1 to 5.
      rng: A NumPy generator, from which all random numbers are drawn.

    Raises:
      UserError: The photographs of frost are not installed.
    """
    x = np.asarray(image, np.float64)
    x = (x[..., None] if x.ndim == 2 else x) / 255
    constants = constants_for(*x.shape[:2])[name][severity - 1]
    return _as_image(_FUNCTIONS[name](x, constants, rng))


def _as_image(x: np.ndarray) -> Image.Image:
    """Truncates to whole levels, as the authors do; the small number makes up for the rounding of levels / 255."""
    levels = np.floor(np.clip(x, 0, 1) * 255 + 1e-6).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


# ---- noise ----


def _gaussian_noise(x, c, rng):
    return x + rng.normal(size=x.shape, scale=c)


def _shot_noise(x, c, rng):
    return rng.poisson(x * c) / c


def _impulse_noise(x, c, rng):
    """Sets a share `c` of all values to 0 or 1."""
    is_hit = rng.uniform(size=x.shape) <= c
    return np.where(is_hit, rng.uniform(size=x.shape) <= 0.5, x)


# ---- blur ----


def _defocus_blur(x, c, rng):
    """Convolves with a disk of this radius, whose edge is smoothed."""
    from scipy import ndimage

    radius, alias_blur = c
    reach, taps = (8, 3) if radius <= 8 else (radius, 5)
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.float64)
    weights = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * alias_blur**2))
    disk /= disk.sum()
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, weights / weights.sum(), axis, mode="mirror")
    return ndimage.correlate(x, disk[..., None], mode="mirror")


def _glass_blur(x, c, rng):
    """Blurs, copies to each pixel a neighbour at most `reach` pixels away, in order, and blurs again.

    The authors mean to swap the two pixels, but their assignment copies one of them over the other.
    """
    sigma, reach, repeats = c
    levels = np.floor(_gaussian(x, sigma) * 255 + 1e-6)
    height, width = x.shape[:2]
    place = list(range(height * width))
    for _ in range(repeats):
        rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
        moves = np.floor(rng.uniform(-reach, reach, size=(len(rows), len(columns), 2))).astype(int)
        moves = (moves[..., 0] + width * moves[..., 1]).tolist()
        for row, line in zip(rows, moves, strict=True):
            for column, move in zip(columns, line, strict=True):
                place[row * width + column] = place[row * width + column + move]
    moved = levels.reshape(height * width, -1)[place].reshape(x.shape)
    return _gaussian(moved / 255, sigma)


def _motion_blur(x, c, rng):
    radius, sigma = c
    return _moved(x, radius, sigma, rng.uniform(-45, 45))


def _zoom_blur(x, c, rng):
    """Averages the image and its centre, magnified by each of the factors `c`."""
    return (x + sum(_zoomed(x, factor) for factor in c)) / (len(c) + 1)


def _gaussian(x, sigma):
    from scipy import ndimage

    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def _moved(x, radius, sigma, degrees):
    """Averages the image shifted by 0 to 2 `radius` pixels in one direction; its border continues outwards."""
    width, angle = 2 * radius + 1, math.radians(degrees)
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    total = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        down, right = (-math.ceil(i * part - 0.5) for part in (math.sin(angle), math.cos(angle)))
        rows, columns = (
            np.clip(np.arange(size) - shift, 0, size - 1)
            for size, shift in zip(x.shape[:2], (down, right), strict=True)
        )
        total += weight * x[rows[:, None], columns]
    return total


def _zoomed(x, factor) -> Any:
    """Magnifies the centre of an image so that it keeps its size."""
    from scipy import ndimage

    kept = [math.ceil(size / factor) for size in x.shape[:2]]
    top, left = ((size - part) // 2 for size, part in zip(x.shape[:2], kept, strict=True))
    large = ndimage.zoom(x[top : top + kept[0], left : left + kept[1]], (factor, factor, 1), order=1)
    top, left = ((big - size) // 2 for big, size in zip(large.shape[:2], x.shape[:2], strict=True))
    return large[top : top + x.shape[0], left : left + x.shape[1]]


def _snow(x, c, rng):
    mean, spread, zoom, threshold, radius, sigma, share = c
    flakes = _zoomed(rng.normal(size=x.shape[:2], loc=mean, scale=spread)[..., None], zoom)
    flakes = np.floor(np.where(flakes < threshold, 0, np.clip(flakes, 0, 1)) * 255)
    flakes = np.round(_moved(flakes, radius, sigma, rng.uniform(-135, -45))) / 255
    whitened = share * x + (1 - share) * np.maximum(x, 1.5 * _luma(x) + 0.5)
    return whitened + flakes + flakes[::-1, ::-1]


def _frost(x, c, rng):
    """Adds a random part of one of five photographs of frost, reduced by `scale`."""
    keep, add, scale = c
    photographs = frost_photographs(scale, x.shape[:2])
    photograph = photographs[int(rng.uniform(0, len(photographs)))]
    top, left = (
        int(rng.uniform(0, max(whole - size, 1))) for whole, size in zip(photograph.shape[:2], x.shape[:2], strict=True)
    )
    part = photograph[top : top + x.shape[0], left : left + x.shape[1]]
    return keep * x + add * (part if x.shape[-1] == 3 else _luma(part))


@functools.lru_cache(maxsize=4)
def frost_photographs(scale: float, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Returns the photographs, `(height, width, 3)` from 0 to 1, reduced by `scale` but not below `size`.

    Raises:
      UserError: The package that contains them is not installed.
    """
    found = importlib.util.find_spec("imagecorruptions")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "frost needs the photographs of ImageNet-C: pip install 'vit_jax[corruptions]'. Or leave it out: "
            "--corruptions=" + ",".join(name for name in CORRUPTIONS if name != "frost")
        )
    folder, photographs = pathlib.Path(found.submodule_search_locations[0]) / "frost", []
    for name in FROST_FILES:
        with Image.open(folder / name) as stored:
            image = stored.convert("RGB")
        factor = max(scale, size[0] / image.height, size[1] / image.width)
        shape = (math.ceil(image.width * factor), math.ceil(image.height * factor))
        image = image if factor == 1 else image.resize(shape, Image.Resampling.BILINEAR, reducing_gap=None)
        photographs.append(np.asarray(image, np.float32) / 255)
    return tuple(photographs)


def _fog(x, c, rng):
    amount, decay = c
    side = 2 ** max(x.shape[0] - 1, x.shape[1] - 1, 1).bit_length()
    fog = plasma(side, decay, rng)[: x.shape[0], : x.shape[1], None]
    brightest = x.max()
    return (x + amount * fog) * brightest / (brightest + amount)


def _luma(x):
    """Returns the brightness of each pixel, `(height, width, 1)` (ITU-R 601)."""
    return x if x.shape[-1] == 1 else (x @ np.array([0.299, 0.587, 0.114]))[..., None]


# ---- digital ----


def _brightness(x, c, rng):
    """Adds `c` to the value of hue, saturation and value: colours are scaled by the change of their largest part."""
    value = x.max(-1, keepdims=True)
    brighter = np.clip(value + c, 0, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


def _contrast(x, c, rng):
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * c + mean


def _elastic_transform(x, c, rng):
    """Moves three points of the image at random, affinely, and then each pixel, smoothly."""
    from scipy import ndimage

    amount, sigma, affine = (length * min(x.shape[:2]) for length in c)
    centre, reach = np.array(x.shape[:2]) // 2, max(min(x.shape[:2]) // 3, 1)
    old = np.array([centre + reach, [centre[0] + reach, centre[1] - reach], centre - reach], np.float64)
    new = old + rng.uniform(-affine, affine, size=old.shape)
    # The authors' points are (x, y), although they are made from (height, width)
    to_old = np.linalg.solve(np.c_[new, np.ones(3)], old)
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    places = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ to_old
    x = _sampled(x, places[..., 1], places[..., 0], "mirror")
    right, down = (
        amount * ndimage.gaussian_filter(rng.uniform(-1, 1, size=x.shape[:2]), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    )
    return _sampled(x, rows + down, columns + right, "reflect")


def _sampled(x, rows, columns, mode):
    """Interpolates each channel at these places."""
    from scipy import ndimage

    channels = [ndimage.map_coordinates(x[..., i], (rows, columns), order=1, mode=mode) for i in range(x.shape[-1])]
    return np.stack(channels, axis=-1)


def _pixelate(x, c, rng):
    image = _as_image(x)
    small = image.resize((max(int(image.width * c), 1), max(int(image.height * c), 1)), Image.Resampling.BOX)
    return _as_array(small.resize(image.size, Image.Resampling.BOX))


def _jpeg_compression(x, c, rng):
    content = io.BytesIO()
    _as_image(x).save(content, "JPEG", quality=c)
    return _as_array(Image.open(content))


def _as_array(image: Image.Image) -> np.ndarray:
    x = np.asarray(image, np.float64) / 255
    return x[..., None] if x.ndim == 2 else x


_FUNCTIONS: dict[str, Callable[[np.ndarray, Any, Any], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
