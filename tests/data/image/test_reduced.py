"""JPEGs that are decoded when they are used: exactly, or at reduced size where the chain says so."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.reading import StoredJpeg, read_image, stored_image
from vit_jax.data.image.reduced import Reducible
from vit_jax.data.image.transforms import Preprocessing, to_channels
from vit_jax.errors import UserError

NORMALIZE = "normalize(mean=0.5, std=0.5)"


def photo(width, height, mode="RGB"):
    """A smooth picture of random colours."""
    coarse = np.random.default_rng(width).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def saved(path, image, **options):
    image.save(path, "JPEG", quality=95, **options)
    return path


def levels(chain, image, seed=None, size=(32, 32)):
    rng = None if seed is None else np.random.default_rng(seed)
    return Preprocessing(size, 3, chain).batch_rows(image, rng)[0]


@pytest.mark.parametrize(("mode", "options"), [("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})])
def test_a_stored_jpeg_has_the_pixels_of_the_file(tmp_path, mode, options):
    path = saved(tmp_path / "a.jpg", photo(97, 61, mode), **options)
    stored = stored_image(path, "no")
    assert isinstance(stored, StoredJpeg)
    assert (stored.size, stored.mode) == ((97, 61), mode)
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(read_image(path)))


def test_other_files_are_read_at_once(tmp_path):
    photo(20, 10).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(np.asarray(stored_image(tmp_path / "a.jpg", "no")), np.asarray(photo(20, 10)))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_damaged_jpeg_is_named_by_the_complaint(tmp_path, share):
    whole = saved(tmp_path / "a.jpg", photo(200, 100)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"^a.jpg is bad \(.+\)$"):
        np.asarray(stored_image(tmp_path / "a.jpg", "a.jpg is bad"))


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.jpg", photo(200, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)
    with pytest.raises(UserError, match=r"200 x 100 pixels"):
        stored_image(path, "no")


@pytest.mark.parametrize(
    ("chain", "seed"),
    [
        ("resize(40)|center_crop", None),
        ("random_resized_crop(area=(0.5, 1.0))|flip", 1),
        ("random_resized_crop(area=(0.5, 1.0))|flip", 2),
        ("random_resize(40, 50, antialias=True)|random_crop", 3),
        ("inception_crop(antialias=True)", 4),
    ],
)
def test_large_jpegs_are_reduced_and_change_little(tmp_path, chain, seed, monkeypatch):
    path = saved(tmp_path / "a.jpg", photo(643, 481))
    drafted, draft = [], StoredJpeg.draft
    monkeypatch.setattr(StoredJpeg, "draft", lambda self, *size: drafted.append(draft(self, *size)) or drafted[-1])
    exact = levels(f"{chain}|{NORMALIZE}", stored_image(path, ""), seed)
    assert not drafted
    reduced = levels(f"reduced_decode|{chain}|{NORMALIZE}", stored_image(path, ""), seed)
    assert drafted
    difference = np.abs(exact.astype(int) - reduced)
    assert difference.mean() < 0.6
    assert difference.max() <= 6


@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_much_larger_than_wanted_stays_exact(tmp_path, seed):
    path = saved(tmp_path / "a.jpg", photo(99, 81))
    chain = f"random_resized_crop|flip|{NORMALIZE}"
    exact = levels(chain, stored_image(path, ""), seed)
    np.testing.assert_array_equal(levels(f"reduced_decode|{chain}", stored_image(path, ""), seed), exact)


def test_images_in_memory_and_of_other_formats_stay_exact():
    chain, image = f"resize(40)|center_crop|{NORMALIZE}", photo(643, 481)
    np.testing.assert_array_equal(levels(f"reduced_decode|{chain}", image), levels(chain, image))


def test_the_gap_decides_how_far_a_jpeg_is_reduced(tmp_path):
    path, sizes = saved(tmp_path / "a.jpg", photo(640, 480)), {}
    for gap in (1, 2, 8):
        image: Any = stored_image(path, "")
        part = Reducible(image, lambda decoded: to_channels(decoded, 3), gap).crop((16, 32, 336, 272))
        assert (part.width, part.height) == (320, 240)
        assert part.resize((40, 30), Image.Resampling.BOX).size == (40, 30)
        sizes[gap] = image.size
    assert sizes == {1: (80, 60), 2: (160, 120), 8: (640, 480)}


def test_a_crop_is_of_the_same_place_at_reduced_size(tmp_path):
    steps = np.zeros((480, 640, 3), np.uint8)
    steps[100:200, 300:500] = 255  # a white box, whose crop is white to its edges
    path = saved(tmp_path / "a.jpg", Image.fromarray(steps))
    image: Any = stored_image(path, "")
    part = Reducible(image, lambda decoded: decoded, 1.0).crop((304, 104, 496, 196))
    assert np.asarray(part.resize((24, 12), Image.Resampling.BOX)).min() > 245


@pytest.mark.parametrize(
    "chain", ["flip|reduced_decode|normalize(0.5, 0.5)", "reduced_decode|normalize(0.5, 0.5)",
              "reduced_decode|inception_crop|normalize(0.5, 0.5)", "normalize(0.5, 0.5)|reduced_decode"],
)  # fmt: skip
def test_the_next_step_must_average_pixels(chain):
    with pytest.raises(UserError, match=r"'reduced_decode'.*(must be the first step|before 'normalize')"):
        Preprocessing((32, 32), 3, chain)
    with pytest.raises(UserError, match="gap must be from 1 to 8"):
        Preprocessing((32, 32), 3, "reduced_decode(0.5)|resize|normalize(0.5, 0.5)")


def test_a_resize_to_the_same_size_is_the_image(tmp_path):
    data = io.BytesIO()
    photo(32, 32).save(data, "JPEG")
    (tmp_path / "a.jpg").write_bytes(data.getvalue())
    expected = np.asarray(Image.open(data))
    np.testing.assert_array_equal(
        levels(f"reduced_decode|resize|{NORMALIZE}", stored_image(tmp_path / "a.jpg", "")), expected
    )
