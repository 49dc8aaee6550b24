"""RandAugment and its variants: which operations are drawn, how often, and how strong they are."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from test_transforms import NORMALIZE, noise, rng

from vit_jax.data.image import randaugment
from vit_jax.data.image.transforms import Preprocessing


def test_timms_randaugment_draws_each_operation_half_of_the_time():
    augment = randaugment.RandAugment("rand-m9-mstd0.5-inc1")
    generator = rng()
    drawn = [augment.sample(generator) for _ in range(6000)]
    counts = Counter(name for pairs in drawn for name, _ in pairs)
    assert len(counts) == 15
    assert sum(counts.values()) == pytest.approx(6000, rel=0.04)  # two an image, half of them applied
    assert min(counts.values()) > 300
    assert np.mean([not pairs for pairs in drawn]) == pytest.approx(0.25, abs=0.02)
    levels = [level for pairs in drawn for _, level in pairs]
    assert max(levels) <= 10
    assert np.mean(levels) == pytest.approx(9, abs=0.05)
    assert {"PosterizeIncreasing", "SharpnessIncreasing"} <= set(counts)


def test_timms_string_is_read_in_full():
    sample = randaugment.RandAugment("rand-m3-n4-p1-mstd101-mmax5").sample
    generator = rng()
    pairs = [pair for _ in range(500) for pair in sample(generator)]
    assert len(pairs) == 2000
    assert np.mean([level for _, level in pairs]) == pytest.approx(1.5, abs=0.1)
    assert "Posterize" in dict(pairs)


def test_randaug_applies_every_operation_out_of_sixteen():
    counts = Counter(name for seed in range(3000) for name in randaugment.RandAug(2, 15).sample(rng(seed)))
    assert len(counts) == 16
    assert sum(counts.values()) == 6000
    assert "Cutout" in counts
    assert randaugment.RandAugNoisyStudent() == randaugment.RandAugNoisyStudent(2, 27)
    assert randaugment.RandAugNoisyStudent() != randaugment.RandAug(2, 27)


@pytest.mark.parametrize("magnitude", [0, 10, 20, 27, 30])
@pytest.mark.parametrize("name", randaugment.GOOGLE)
def test_googles_operations_bear_every_magnitude(name, magnitude):
    for image in (noise(16, 12), noise(16, 12, 1)):
        assert randaugment._google(name, image, magnitude, rng()).size == image.size


def test_googles_posterize_keeps_one_bit_at_magnitude_zero():
    assert set(np.unique(randaugment._google("Posterize", noise(16, 16), 0, rng()))) == {0, 128}


def added(strength):
    """Returns what an operation that adds `strength` to values below 128 makes of every grey level."""
    levels = np.arange(256)
    return np.where(levels < 128, np.clip(levels + strength, 0, 255), levels)


GREYS = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))


# int(magnitude / 10 * 110) in big_vision's level_to_arg, worked out by hand
@pytest.mark.parametrize(("magnitude", "added_by"), [(0, 0), (5, 55), (10, 110), (15, 165), (20, 220), (30, 330)])
def test_googles_solarize_add_has_no_limit(magnitude, added_by):
    found = np.asarray(randaugment._google("SolarizeAdd", GREYS, magnitude, rng())).ravel()
    np.testing.assert_array_equal(found, added(added_by))
    of_three_bands = randaugment._google("SolarizeAdd", GREYS.convert("RGB"), magnitude, rng())
    np.testing.assert_array_equal(np.asarray(of_three_bands).reshape(-1, 3), np.stack([added(added_by)] * 3, axis=-1))


# min(128, int(level / 10 * 110)) in timm's _solarize_add_level_to_arg
@pytest.mark.parametrize(("level", "added_by"), [(0, 0), (9, 99), (10, 110), (12, 128), (20, 128)])
def test_timms_solarize_add_ends_at_128(level, added_by):
    strength = randaugment._timm_strength("SolarizeAdd", level, GREYS, rng())
    found = np.asarray(randaugment._apply("SolarizeAdd", GREYS, strength, "bicubic", 0)).ravel()
    np.testing.assert_array_equal(found, added(added_by))


def test_googles_contrast_blends_with_the_count_of_pixels():
    image = Image.new("RGB", (32, 32), (100, 100, 100))
    blended = randaugment._google("Contrast", image, 0, rng())  # factor 0.1; 32 * 32 / 256 = 4
    assert blended.getpixel((0, 0))[0] == pytest.approx(0.1 * 100 + 0.9 * 4, abs=1)


@pytest.mark.parametrize("name", randaugment.TIMM_INCREASING)
def test_increasing_operations_change_more_at_ten_than_at_one(name):
    across, down = np.meshgrid(np.arange(64) * 2, np.arange(64) * 2)
    smooth = np.stack([40 + across, 40 + down, 60 + (across + down) // 2], axis=-1)
    picture = Image.fromarray((smooth + np.asarray(noise(64, 64)) // 10).astype(np.uint8))

    def change(level):
        differences = []
        for seed in range(10):
            strength = randaugment._timm_strength(name, level, picture, rng(seed))
            result = randaugment._apply(name, picture, strength, "bicubic", 128)
            differences.append(np.abs(np.asarray(result, float) - np.asarray(picture, float)).mean())
        return np.mean(differences)

    assert change(10) >= change(1)
    assert change(10) > 0


def test_timms_fill_is_the_mean_of_normalize():
    preprocessing = Preprocessing((8, 8), 3, "randaugment|normalize(mean=(0.485, 0.456, 0.406), std=1.0)")
    assert preprocessing._chain[0].fill == (124, 116, 104)
    fixed = Preprocessing((8, 8), 3, f"randaugment(fill=7)|{NORMALIZE}")
    assert fixed._chain[0].fill == 7
