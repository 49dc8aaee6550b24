"""Reading an image file: what is refused, the bound on memory, and levels of more than 8 bits.

Memory is bounded by the number of pixels, which is checked before they are decoded: at most
`PIL.Image.MAX_IMAGE_PIXELS` (89,478,485). Decoding takes up to `BYTES_PER_PIXEL` bytes for each, so at most 2.7 GiB,
and less than ten times the size of the file in addition. Some decoders of Pillow are written in Python (QOI, some DDS
and PPM), and take up to 8 seconds for a million pixels; `MOST_SLOW_PIXELS` is their limit.
"""

import contextlib
import functools
import io
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from vit_jax.errors import UserError

BYTES_PER_PIXEL = 32  # JPEG 2000 with four channels; other formats take less than half of it
MOST_SLOW_PIXELS = 2**23
DANGLING = "a link to a file that does not exist"
DEEP_FORMATS = ("JPEG2000", "PNG", "PPM")  # formats in which Pillow's 32-bit mode "I" holds 16-bit levels
_JPEG_SUFFIXES, _JPEG_BEGIN = (".jpg", ".jpeg", ".jpe", ".jfif"), b"\xff\xd8\xff"
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the suffixes of image formats. It loads all plugins of Pillow, after which reading is slightly slower."""
    return frozenset(Image.registered_extensions())


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Opens an image file; yields the image, not yet decoded. Everything that Pillow raises becomes a `UserError`.

    Raises:
      UserError: The file is not a regular file, is empty, damaged or too large, or must not be decoded. The message
        says which, without the name of the file.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
            raise UserError("a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file")
        if not found.st_size:
            raise UserError("empty (0 bytes)")
        with Image.open(path) as image:
            _check(image)
            yield image
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise exceptions of any type for damaged files
        raise UserError(_reason(path, error)) from None


def read_image(path: str | Path) -> Image.Image:
    """Reads the first frame of an image file, in the mode in which it is stored.

    Levels of more than 8 bits become those that `to_channels` takes: 12 bits are scaled to 16, and floats from 0 to 1
    to 8 bits.

    Raises:
      UserError: The file cannot be read (see `opened`), or the scale of its levels is not known.
    """
    with opened(path) as image:
        image.load()
        return true_levels(image)


def stored_image(path: str | Path, complaint: str) -> Image.Image:
    """Like `read_image`, but a JPEG is decoded only when its pixels are used; see `StoredJpeg`.

    Args:
      complaint: What a message says before the reason.
    """
    if os.path.splitext(path)[1].lower() in _JPEG_SUFFIXES:
        with contextlib.suppress(OSError):  # `read_image` says what is wrong
            data = Path(path).read_bytes() if stat.S_ISREG(os.stat(path).st_mode) else b""
            if data.startswith(_JPEG_BEGIN):
                return StoredJpeg(data, complaint)
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(f"{complaint} ({error})") from None


def stored_bytes(data: bytes, complaint: str) -> Image.Image:
    """Like `stored_image`, given what is in the file."""
    if data.startswith(_JPEG_BEGIN):
        return StoredJpeg(data, complaint)
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


class StoredJpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG in memory whose pixels are decoded when they are used, so that a chain may decode it at reduced size.

    Args:
      data: The whole file.
      complaint: What a message about a damaged file says before the reason.

    Raises:
      UserError: On construction or when it is used, if the file is damaged or too large.
    """

    def __init__(self, data: bytes, complaint: str):
        self._complaint = complaint
        with self._complaining():
            super().__init__(io.BytesIO(data))
            _check(self)

    def load(self) -> Any:
        with self._complaining():
            return super().load()

    @contextlib.contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Pillow raises exceptions of any type for damaged files
            raise UserError(f"{self._complaint} ({_reason('', error)})") from None


def _reason(path: str | Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, the most that are read"
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return DANGLING
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _check(image: Image.Image) -> None:
    """Raises UserError for a file that must not be decoded."""
    if image.format == "EPS":
        raise UserError("EPS is not read, because it is a program: convert the file to PNG")
    if image.format == "FITS" and any(tile[0] == "fits_gzip" for tile in getattr(image, "tile", ())):
        raise UserError("compressed FITS is not read: convert the file to PNG")
    most = Image.MAX_IMAGE_PIXELS or math.inf
    if any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ())):
        most = min(most, MOST_SLOW_PIXELS)
    if image.width * image.height > most:
        raise UserError(
            f"{image.width:,} x {image.height:,} pixels, more than the {most:,} that are read of {image.format}"
        )


def true_levels(image: Image.Image) -> Image.Image:
    """Returns the decoded image with levels on the scale that its format says.

    Raises:
      UserError: The format does not say.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and image.format not in DEEP_FORMATS:
        raise UserError(
            f"{image.format} of signed or 32-bit integers, whose brightest level is not known: convert the file to 8 "
            "or 16 bits"
        )
    if image.mode == "F":
        levels, white = np.asarray(grey_of_floats(image)), 255
    elif image.mode.startswith("I;16") and _TIFF_BITS in tags:
        bits = tags[_TIFF_BITS][0]
        levels, white = np.asarray(image).astype(np.uint16) << (16 - bits), 65535
    else:
        return image.copy()
    is_inverted = tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO  # Pillow inverts images of 8 bits only
    return Image.fromarray(white - levels if is_inverted else levels)


def grey_of_floats(image: Image.Image) -> Image.Image:
    """Converts an image of floats (mode "F") from 0 (black) to 1 (white) to 8-bit grey.

    Raises:
      UserError: A value is outside this range, so that the scale is not known.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also if a value is NaN
        raise UserError(
            f"float levels from {low:g} to {high:g}: only levels from 0 (black) to 1 (white) are understood. Convert "
            "the image to 8 or 16 bits"
        )
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def grey_of_integers(image: Image.Image) -> Image.Image:
    """Converts an image of 16-bit levels (modes "I;16" and "I") to 8-bit grey: their upper byte.

    Raises:
      UserError: A level is outside 0 to 65535, so that the scale is not known.
    """
    levels = np.asarray(image)
    if image.mode == "I" and not 0 <= levels.min() <= levels.max() <= 65535:
        raise UserError(
            f"levels from {levels.min()} to {levels.max()}: only levels from 0 (black) to 65535 (white) are "
            "understood. Convert the image to 8 or 16 bits"
        )
    return Image.fromarray((levels >> 8).astype(np.uint8))
