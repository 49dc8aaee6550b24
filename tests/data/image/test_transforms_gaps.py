"""Transforms of images in detail: rounding, directions, signs and distributions."""

import math

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image import geometry, randaugment
from vit_jax.data.image.values import ColorJitter, RandomErasing


def rng(seed=0):
    return np.random.default_rng(seed)


def numbered(height, width):
    """An image whose pixels are all different."""
    return Image.fromarray(np.arange(height * width, dtype=np.uint8).reshape(height, width))


@pytest.mark.parametrize(("rest", "before"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4)])
def test_a_centre_crop_rounds_half_of_the_rest_to_even(rest, before):
    for height, width in ((4 + rest, 4), (4, 4 + rest)):
        crop = np.asarray(geometry.CenterCrop(4)(numbered(height, width), None))
        top, left = (before, 0) if height > width else (0, before)
        np.testing.assert_array_equal(crop, np.asarray(numbered(height, width))[top : top + 4, left : left + 4])


@pytest.mark.parametrize(("index", "before"), [(0, 0), (1, 2), (2, 3)])
def test_placed_crops_go_along_the_longer_side_and_round_up(index, before):
    crop = geometry.PlacedCrop(4, index=index, count=3)
    tall, wide = numbered(7, 5), numbered(5, 7)
    np.testing.assert_array_equal(crop(tall, None), np.asarray(tall)[before : before + 4, 1:5])
    np.testing.assert_array_equal(crop(wide, None), np.asarray(wide)[1:5, before : before + 4])


@pytest.mark.parametrize("p", [0.0, 1.0, 0.2])
def test_a_flip_has_the_probability_asked_for(p):
    image = numbered(2, 3)
    flipped = [np.array_equal(geometry.Flip(p)(image, rng(seed)), np.asarray(image)[:, ::-1]) for seed in range(300)]
    assert np.mean(flipped) == pytest.approx(p, abs=0.08 if 0 < p < 1 else 0)
    assert all(np.array_equal(geometry.Flip(p)(image, rng(seed)), image) for seed in range(300) if not flipped[seed])


def test_a_resize_truncates_the_longer_side():
    assert geometry.Resize(5)(numbered(7, 12), None).size == (8, 5)  # 60 / 7 = 8.57
    assert geometry.Resize(5)(numbered(12, 7), None).size == (5, 8)


def test_the_aspect_of_a_crop_is_log_uniform():
    crop = geometry.RandomResizedCrop(area=(0.02, 0.05), ratio=(1 / 4, 4.0), size=8)
    generator = rng()
    logs = [math.log(w / h) for _, _, h, w in (crop.sample(1000, 1000, generator) for _ in range(2000))]
    # uniform in (-log 4, log 4): mean 0, standard deviation log 4 / sqrt 3; a uniform ratio has a mean of 0.6
    assert np.mean(logs) == pytest.approx(0, abs=0.06)
    assert np.std(logs) == pytest.approx(math.log(4) / math.sqrt(3), rel=0.05)


def test_the_area_of_a_crop_is_uniform_and_its_place_anywhere():
    crop = geometry.RandomResizedCrop(area=(0.1, 0.5), ratio=(1.0, 1.0), size=8)
    generator = rng()
    drawn = np.array([crop.sample(100, 200, generator) for _ in range(2000)])
    areas = drawn[:, 2] * drawn[:, 3] / 20_000
    assert np.mean(areas) == pytest.approx(0.3, abs=0.01)
    assert np.std(areas) == pytest.approx(0.4 / math.sqrt(12), rel=0.06)
    assert np.mean(drawn[:, 0] / (100 - drawn[:, 2] + 1e-9)) == pytest.approx(0.5, abs=0.03)
    assert np.mean(drawn[:, 1] / (200 - drawn[:, 3])) == pytest.approx(0.5, abs=0.03)


def test_googles_aspect_is_uniform():
    crop = geometry.InceptionCrop(area=(0.02, 0.05), ratio=(0.5, 2.0), size=8)
    generator = rng()
    ratios = [w / h for _, _, h, w in (crop.sample(1000, 1000, generator) for _ in range(2000))]
    assert np.mean(ratios) == pytest.approx(1.25, abs=0.04)  # log-uniform: 1.08


def test_a_crop_is_resized_to_height_and_width():
    assert geometry.RandomResizedCrop(size=(4, 6))(numbered(10, 12), rng()).size == (6, 4)


def dot(side=41, half=8):
    pixels = np.zeros((side, side), np.uint8)
    middle = side // 2
    pixels[middle - half : middle + half + 1, middle - half : middle + half + 1] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_dot_grows_with_the_scale(scale):
    affine = geometry.RandomAffine(degrees=0, shift=0, scale=(scale, scale), method="bilinear")
    area = np.asarray(affine(dot(), rng()), float).sum() / np.asarray(dot(), float).sum()
    assert area == pytest.approx(scale**2, rel=0.15)


def test_a_shift_is_a_fraction_of_its_own_side():
    pixels = np.zeros((20, 60), np.uint8)
    pixels[9:11, 29:31] = 255
    affine = geometry.RandomAffine(degrees=0, shift=0.25, scale=(1.0, 1.0))
    places = []
    for seed in range(200):
        moved = np.asarray(affine(Image.fromarray(pixels), rng(seed)), float)
        places.append([(moved.sum(axis) * np.arange(moved.shape[1 - axis])).sum() / moved.sum() for axis in (1, 0)])
    down, across = (np.ptp(side) for side in np.array(places).T)
    assert 9 < down <= 10.1
    assert 27 < across <= 30.1


def test_turns_go_both_ways_and_no_further_than_asked_for():
    line = np.zeros((41, 41), np.uint8)
    line[20, 20:] = 255  # to the right of the centre
    heights = []
    for seed in range(100):
        turned = np.asarray(geometry.RandomAffine(30, 0, (1.0, 1.0))(Image.fromarray(line), rng(seed)), float)
        heights.append((turned.sum(1) * np.arange(41)).sum() / turned.sum() - 20)
    limit = 10 * math.sin(math.radians(30))
    assert -limit - 0.6 < min(heights) < -limit * 0.85
    assert limit * 0.85 < max(heights) < limit + 0.6


def test_what_comes_from_outside_is_the_fill():
    affine = geometry.RandomAffine(0, 0, (0.5, 0.5), fill=77)
    assert affine(Image.new("L", (8, 8), 200), rng()).getpixel((0, 0)) == 77
    assert affine(Image.new("RGB", (8, 8), (200, 0, 0)), rng()).getpixel((0, 0)) == (77, 77, 77)


def test_an_erased_rectangle_has_a_log_uniform_aspect_of_height_to_width():
    erase = RandomErasing(p=1.0, mode="const", area=(0.02, 0.05), ratio=(1 / 4, 4.0))
    logs = []
    for seed in range(400):
        erased = erase(np.full((200, 200, 1), 9.0, np.float32), rng(seed))[..., 0] == 0
        logs.append(math.log(erased.any(1).sum() / erased.any(0).sum()))
    assert np.mean(logs) == pytest.approx(0, abs=0.12)
    flat = RandomErasing(p=1.0, mode="const", area=(0.02, 0.05), ratio=(0.2, 0.25))
    erased = flat(np.full((200, 200, 1), 9.0, np.float32), rng())[..., 0] == 0
    assert erased.any(1).sum() < erased.any(0).sum()


@pytest.mark.parametrize(("p", "share"), [(0.0, 0), (1.0, 1)])
def test_erasing_is_as_probable_as_asked_for(p, share):
    erased = [np.any(RandomErasing(p)(np.full((8, 8, 1), 9.0, np.float32), rng(seed)) != 9) for seed in range(50)]
    assert np.mean(erased) == share


def test_colours_are_scaled_both_ways():
    grey = Image.new("RGB", (1, 1), (100, 100, 100))
    levels = [ColorJitter(0.5, 0, 0)(grey, rng(seed)).getpixel((0, 0))[0] for seed in range(300)]
    assert 50 <= min(levels) < 58
    assert 142 < max(levels) <= 150
    assert np.mean(levels) == pytest.approx(100, abs=5)
    red = Image.new("RGB", (1, 1), (200, 100, 100))
    spread = [np.ptp(ColorJitter(0, 0, 0.5)(red, rng(seed)).getpixel((0, 0))) for seed in range(300)]
    assert min(spread) < 60
    assert max(spread) > 140


# RandAugment


def strengths(name, level=10.0, size=(30, 70), seeds=60):
    """Returns the strengths drawn for an image of 70 x 30 pixels (width x height)."""
    image = Image.new("RGB", (size[1], size[0]))
    return {round(randaugment._timm_strength(name, level, image, rng(seed)), 6) for seed in range(seeds)}


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("Rotate", 30.0),
        ("ShearX", 0.3),
        ("ShearY", 0.3),
        ("TranslateX", 0.45 * 70),
        ("TranslateY", 0.45 * 30),
    ],
)
def test_signed_operations_take_both_signs(name, strength):
    assert strengths(name) == {round(strength, 6), -round(strength, 6)}
    assert strengths(name, level=5.0) == {round(strength / 2, 6), -round(strength / 2, 6)}


@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_increasing_enhancers_go_from_neutral_both_ways(name):
    assert strengths(f"{name}Increasing") == {0.1, 1.9}
    assert strengths(f"{name}Increasing", level=0.0) == {1.0}
    assert strengths(name) == {1.9}
    assert strengths(name, level=5.0) == {1.0}


@pytest.mark.parametrize(
    ("name", "at_ten", "at_five", "at_zero"),
    [
        ("Posterize", 4, 2, 0),
        ("PosterizeIncreasing", 0, 2, 4),
        ("Solarize", 256, 128, 0),
        ("SolarizeIncreasing", 0, 128, 256),
        ("SolarizeAdd", 110, 55, 0),
    ],
)
def test_levels_of_the_unsigned_operations(name, at_ten, at_five, at_zero):
    assert [strengths(name, level=level, seeds=3) for level in (10.0, 5.0, 0.0)] == [{at_ten}, {at_five}, {at_zero}]


def applied(name, strength, image):
    return np.asarray(randaugment._apply(name, image, strength, "nearest", 9))


def test_operations_move_along_the_axis_they_are_named_for():
    image = numbered(5, 7)
    pixels = np.asarray(image)
    np.testing.assert_array_equal(applied("TranslateX", 2, image)[:, :-2], pixels[:, 2:])
    np.testing.assert_array_equal(applied("TranslateY", 2, image)[:-2], pixels[2:])
    for place in range(3):  # Pillow's pixels lie at halves, so that the first row moves as well
        np.testing.assert_array_equal(applied("ShearX", 1.0, image)[place, : 6 - place], pixels[place, place + 1 :])
        np.testing.assert_array_equal(applied("ShearY", 1.0, image)[: 4 - place, place], pixels[place + 1 :, place])
    np.testing.assert_array_equal(applied("Rotate", 90.0, numbered(5, 5)), np.rot90(numbered(5, 5)))
    assert applied("TranslateX", 2, image)[0, -1] == 9


def test_operations_on_values():
    image = Image.fromarray(np.uint8([[0, 100, 127, 128, 200, 255]]))
    assert applied("Invert", 0, image).tolist() == [[255, 155, 128, 127, 55, 0]]
    assert applied("Solarize", 128, image).tolist() == [[0, 100, 127, 127, 55, 0]]
    assert applied("SolarizeAdd", 50, image).tolist() == [[50, 150, 177, 128, 200, 255]]
    assert applied("Posterize", 1, image).tolist() == [[0, 0, 0, 128, 128, 128]]
    assert applied("Posterize", 4, image).tolist() == [[0, 96, 112, 128, 192, 240]]
    assert applied("Posterize", 0, image).tolist() == [[0] * 6]
    assert np.ptp(applied("AutoContrast", 0, Image.fromarray(np.uint8([[50, 75, 100]])))) >= 254


def test_google_translates_by_pixels_either_way_and_cuts_a_square_out():
    image = Image.new("L", (64, 64), 255)
    columns = set()
    for seed in range(20):
        moved = np.asarray(randaugment._google("TranslateX", image, 2, rng(seed)))
        assert (moved == 128).all(0).sum() == 20
        columns.add(int(np.flatnonzero((moved == 128).all(0))[0]))
    assert columns == {0, 44}
    holes = [np.asarray(randaugment._google("Cutout", image, 3, rng(seed))) == 128 for seed in range(40)]
    assert max(hole.sum() for hole in holes) == 24**2
    assert min(hole.sum() for hole in holes) >= 12**2


def test_a_level_of_timms_has_noise_and_a_bound():
    augment = randaugment.RandAugment("rand-m5-n3-p1-mstd1")
    levels = [level for seed in range(300) for _, level in augment.sample(rng(seed))]
    assert np.mean(levels) == pytest.approx(5, abs=0.15)
    assert np.std(levels) == pytest.approx(1, rel=0.1)
    bounded = randaugment.RandAugment("rand-m9-n3-p1-mstd3-mmax9.5")
    assert max(level for seed in range(100) for _, level in bounded.sample(rng(seed))) == 9.5
