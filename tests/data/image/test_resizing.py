"""Resizing with `exact=False`: nearly Pillow's levels, the same on every processor."""

import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.arguments import METHODS
from vit_jax.data.image.reading import stored_image
from vit_jax.data.image.resizing import resized
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.errors import UserError

cykooz_resizer = pytest.importorskip("cykooz_resizer", reason="there is no wheel for Linux on ARM")
NORMALIZE = "normalize(mean=0.5, std=0.5)"


def noise(width, height, mode="RGB"):
    rng = np.random.default_rng(width + 1000 * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def rows_then_columns(image, size, method):
    """Pillow's levels, as before its version 13, which chooses the order by the sizes."""
    width, height = size[1], size[0]
    return image.resize((width, image.height), METHODS[method]).resize((width, height), METHODS[method])


def difference(image, other):
    return np.abs(np.asarray(image, int) - np.asarray(other, int))


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("before", "after"),
    [((53, 97), (31, 17)), ((53, 97), (64, 128)), ((97, 53), (20, 90)), ((97, 53), (90, 20)), ((97, 53), (53, 53)),
     ((97, 53), (20, 97)), ((1, 7), (5, 3)), ((300, 2), (40, 40)), ((33, 33), (33, 33))],
)  # fmt: skip
def test_levels_are_nearly_those_of_pillow(method, mode, before, after):
    image = noise(*before, mode)
    fast = resized(image, after, method, antialias=True, exact=False)
    assert (fast.size, fast.mode) == ((after[1], after[0]), mode)
    off = difference(fast, rows_then_columns(image, after, method))
    assert off.max() <= 2
    assert (off > 0).mean() < 0.02 or (off > 0).sum() <= 1


def test_levels_are_the_same_on_every_processor(monkeypatch):
    image, results = noise(97, 53), []
    for extension in cykooz_resizer.CpuExtensions:
        resizer = cykooz_resizer.Resizer()
        resizer.cpu_extensions = extension
        with monkeypatch.context() as patch:
            patch.setattr(cykooz_resizer, "Resizer", lambda resizer=resizer: resizer)
            results.append(np.asarray(resized(image, (40, 70), "bicubic", antialias=True, exact=False)))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize(
    ("chain", "seed"),
    [
        ("resize(40{})|center_crop", None),
        ("resize(cover=True{})|center_crop", None),
        ("random_resized_crop({})|flip", 1),
        ("random_resize(40, 50, antialias=True{})|random_crop", 3),
        ("inception_crop(antialias=True{})", 4),
    ],
)
@pytest.mark.parametrize("before", ["", "reduced_decode|"])
def test_a_chain_crops_the_same_place(tmp_path, chain, seed, before):
    noise(8, 6).resize((643, 481), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)  # a smooth picture
    levels = []
    for argument in ("exact=True", "exact=False"):
        argument = argument if "({})" in chain else f", {argument}"
        preprocessing = Preprocessing((32, 32), 3, f"{before}{chain.format(argument)}|{NORMALIZE}")
        rng = None if seed is None else np.random.default_rng(seed)
        levels += preprocessing.batch_rows(stored_image(tmp_path / "a.jpg", ""), rng)
    assert difference(*levels).max() <= 1
    assert difference(*levels).mean() < 0.3  # a part of it is Pillow's order, where the height shrinks more


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("resize(antialias=False, exact=False)", "resize: antialias must be True if exact is False, not False"),
        ("inception_crop(exact=False)", "inception_crop: antialias must be True if exact is False"),
        ("random_resized_crop(method='box', exact=False)", "method must be one of bilinear, bicubic, lanczos if exact"),
        ("resize(exact=1)", "exact must be True or False, not 1"),
    ],
)
def test_what_it_cannot_do_is_refused(step, message):
    with pytest.raises(UserError, match=message):
        Preprocessing((32, 32), 3, f"{step}|{NORMALIZE}")


def test_without_the_package_the_extra_is_named(monkeypatch):
    chain = f"random_resized_crop(exact=False)|{NORMALIZE}"
    Preprocessing((32, 32), 3, chain)
    monkeypatch.delitem(sys.modules, "cykooz_resizer")
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    with pytest.raises(UserError, match=r"random_resized_crop: exact=False needs .*pip install 'vit_jax\[resize\]'"):
        Preprocessing((32, 32), 3, chain)
