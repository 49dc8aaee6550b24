"""What is unusual about images although they can be read: for `python -m vit_jax data info`."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from vit_jax.data.image.reading import opened, true_levels
from vit_jax.data.image.transforms import to_channels
from vit_jax.errors import UserError

DARK = 16  # of 256 levels: 12 bits of signal, stored in 16 bits, do not exceed it
NEARLY_BLACK = f"nearly black: no level reaches {DARK} of 255, as if the file had fewer bits than its format"
INVISIBLE = "transparent everywhere, so that they are all white"
SEVERAL_FRAMES = "animations or documents of several pages; only the first frame is used"
ROTATED = "rotated by their EXIF orientation, which is not applied"


def notices_of_files(paths: Iterable[Path]) -> Counter[str]:
    """Counts the images to which each notice applies; files that cannot be read have none."""
    found: Counter[str] = Counter()
    for path in paths:
        try:
            with opened(path) as image:
                has_frames = getattr(image, "is_animated", False)
                is_rotated = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
                image.load()
                levels = true_levels(image)
            found.update(notices_of(levels))
            found.update([SEVERAL_FRAMES] * has_frames + [ROTATED] * is_rotated)
        except UserError:
            continue
    return found


def notices_of(image: Image.Image) -> list[str]:
    """Returns the notices that apply to a decoded image.

    Raises:
      UserError: The scale of its levels is not known.
    """
    if image.has_transparency_data and not np.asarray(image.convert("RGBA"))[..., 3].any():
        return [INVISIBLE]
    return [NEARLY_BLACK] if np.asarray(to_channels(image, 3)).max() < DARK else []
