"""Resizes that cover a target, and the rounding of centre crops."""

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.geometry import CenterCrop, Resize


@pytest.mark.parametrize(
    ("shape", "covered"),
    [((177, 236), (216, 288)), ((640, 480), (384, 288)), ((1000, 30), (9600, 288)), ((40, 400), (160, 1600))],
)
def test_a_resize_that_covers_keeps_the_shape_and_leaves_no_gap(shape, covered):
    image = Image.new("RGB", (shape[1], shape[0]))
    result = Resize((160, 288), cover=True)(image, None)
    assert (result.height, result.width) == covered


def test_a_side_to_cover_is_a_pair():
    with pytest.raises(ValueError, match=r"size must be \(height, width\) with cover=True, not 224"):
        Resize(224, cover=True)


@pytest.mark.parametrize(("margin", "even", "down"), [(1, 0, 0), (2, 1, 1), (3, 2, 1), (5, 2, 2), (7, 4, 3)])
def test_half_a_margin_is_rounded_to_even_or_down(margin, even, down):
    image = Image.fromarray(np.arange(4 + margin, dtype=np.uint8)[None].repeat(4, axis=0))
    first = {rounding: CenterCrop(4, rounding)(image, None).getpixel((0, 0)) for rounding in ("even", "down")}
    assert first == {"even": even, "down": down}
    with pytest.raises(ValueError, match="rounding must be 'even' or 'down', not 'up'"):
        CenterCrop(4, "up")
