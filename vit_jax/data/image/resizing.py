"""Resizing: by Pillow, or with antialiasing by vector instructions, several times as fast (`exact=False`)."""

import importlib.util
from typing import Any

from PIL import Image

from vit_jax.data.image.arguments import METHODS, check

_FILTERS = {"bilinear": "bilinear", "bicubic": "catmull_rom", "lanczos": "lanczos3"}  # their names in cykooz-resizer


def check_resizing(method: Any, antialias: Any, exact: Any) -> None:
    """Raises `ValueError` unless `resized` can take these arguments."""
    check(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    check(isinstance(antialias, bool), "antialias", antialias, "True or False")
    check(isinstance(exact, bool), "exact", exact, "True or False")
    if not antialias:
        wanted = "nearest, bilinear or bicubic if antialias is False"
        check(method in ("nearest", "bilinear", "bicubic"), "method", method, wanted)
    if not exact:
        check(antialias, "antialias", antialias, "True if exact is False")
        check(method in _FILTERS, "method", method, f"one of {', '.join(_FILTERS)} if exact is False")
        if importlib.util.find_spec("cykooz_resizer") is None:
            raise ValueError("exact=False needs the package cykooz-resizer: pip install 'vit_jax[resize]'")


def resized(image: Any, size: tuple[int, int], method: str, antialias: bool, exact: bool = True) -> Image.Image:
    """Resizes to (height, width), with pixel centres at half-integers.

    Without `antialias`, it interpolates between the nearest pixels, as `tf.image.resize` does by default. Deviation:
    TensorFlow truncates to 8 bits and Pillow rounds, a difference of at most one level.

    With `exact`, the levels are Pillow's. Without it, the weights of neighbouring pixels are rounded to 16 bits instead
    of 22. Fewer than one level in a hundred then differs from Pillow's, by one, or rarely by two. The levels depend
    neither on the processor nor on the version of Pillow, because rows are always resized before columns. Pillow itself
    resizes columns first since version 13 where the height shrinks clearly more than the width.

    Args:
      image: A Pillow image, 8-bit grey or RGB, or a `Reducible`.
    """
    height, width = size
    if not exact:
        return _resized_fast(image, (width, height), method)
    if antialias:
        return image.resize((width, height), METHODS[method])
    scale = (image.width / width, 0, 0, 0, image.height / height, 0)
    return image.transform((width, height), Image.Transform.AFFINE, scale, METHODS[method])


def _resized_fast(image: Any, size: tuple[int, int], method: str) -> Image.Image:
    import cykooz_resizer

    box = (0, 0, *image.size)
    if not isinstance(image, Image.Image):
        image, box = image.reduced(size)
    left, top, right, bottom = box
    weights = cykooz_resizer.ResizeAlg.convolution(getattr(cykooz_resizer.FilterType, _FILTERS[method]))
    rows = (size[0], image.height), cykooz_resizer.CropBox(left, 0, right - left, image.height)
    columns = size, cykooz_resizer.CropBox(0, top, size[0], bottom - top)
    for shape, part in (rows, columns):
        result = Image.new(image.mode, shape, None)
        options = cykooz_resizer.ResizeOptions(weights, crop_box=part)
        cykooz_resizer.Resizer().resize_pil(image, result, options)
        image = result
    return image
