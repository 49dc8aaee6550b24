import json
import pickle

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image import geometry
from vit_jax.data.image.transforms import TRANSFORMS, Preprocessing, to_channels
from vit_jax.data.image.values import ColorJitter, Normalize, RandomErasing
from vit_jax.errors import UserError

NORMALIZE = "normalize(mean=0.5, std=0.5)"


def noise(height, width, channels=3, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values if channels == 3 else values[..., 0])


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_chain_makes_float32_of_the_asked_size():
    preprocessing = Preprocessing((12, 16), 3, f"random_resized_crop(area=(0.08, 1.0))|flip|{NORMALIZE}")
    image = preprocessing(noise(40, 30), rng())
    assert image.shape == (12, 16, 3)
    assert image.dtype == np.float32
    assert image.min() >= -1
    assert image.max() <= 1
    assert preprocessing.random_transforms == ("random_resized_crop", "flip")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_every_transform_works_by_name_on_grey_and_rgb(name, channels):
    chain = {
        "normalize": NORMALIZE,
        "random_erasing": f"{NORMALIZE}|random_erasing(p=1.0)",
        "random_resize": f"random_resize(16, 20)|center_crop|{NORMALIZE}",
        "reduced_decode": f"reduced_decode|random_resized_crop|{NORMALIZE}",
    }
    preprocessing = Preprocessing((16, 16), channels, chain.get(name, f"{name}|{NORMALIZE}"))
    for seed in range(20):
        assert preprocessing(noise(16, 16), rng(seed)).shape == (16, 16, channels)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (f"resise|{NORMALIZE}", "unknown transform 'resise'; did you mean 'resize'?"),
        (f"resize(sise=3)|{NORMALIZE}", "resize: unknown argument 'sise'; did you mean 'size'?"),
        (f"flip(zzz=3)|{NORMALIZE}", "flip: unknown argument 'zzz'; it takes p"),
        (f"flip(2)|{NORMALIZE}", "flip: p must be a probability from 0 to 1, not 2"),
        (f"resize('a')|{NORMALIZE}", "resize: size must be pixels or"),
        (f"resize(method='linear')|{NORMALIZE}", "method must be one of nearest, box"),
        (f"resize(method='lanczos', antialias=False)|{NORMALIZE}", "if antialias is False"),
        (f"random_resized_crop(area=(0.5, 0.1))|{NORMALIZE}", "area must be (low, high)"),
        (f"flip(0.5, 0.5)|{NORMALIZE}", "flip: takes from 1 to 2 positional arguments"),
        ("normalize(0.5)", "normalize: missing 1 required positional argument: 'std'"),
        ("normalize(mean=0.5, std=0)", "std must be above 0"),
        ("normalize(mean=(0.5, 0.5), std=0.5)", "2 values (0.5, 0.5) for 3 channels"),
        ("resize|flip", "must contain 'normalize', which makes the array, exactly once"),
        (f"{NORMALIZE}|flip", "'flip' works on images: move it before 'normalize'"),
        (f"random_erasing|{NORMALIZE}", "'random_erasing' works on arrays: move it after 'normalize'"),
        (f"resize(__import__('os'))|{NORMALIZE}", "is not a number, a string or a tuple"),
        (f"a.b(1).c|{NORMALIZE}", "'a.b(1).c' is not of the form"),
        ("resize|", "invalid syntax"),
        ("", "invalid syntax"),
        (f"random_resize|{NORMALIZE}", "random_resize: missing 2 required positional arguments: 'low' and 'high'"),
        (f"resize(1000000)|{NORMALIZE}", "resize: size must be "),
        (f"random_resize(320, 256)|{NORMALIZE}", "random_resize: high must be at least low (320), not 256"),
        (f"random_resize(0, 2.5)|{NORMALIZE}", "random_resize: low must be pixels, above 0 and at most 16,384, not 0"),
        (f"randaugment('rand-q9')|{NORMALIZE}", "(not 'q9')"),
        (f"randaugment('augmix-m3')|{NORMALIZE}", "config must be such as"),
        (f"randaug(magnitude=40)|{NORMALIZE}", "magnitude must be 0 to 30"),
    ],
)
def test_a_wrong_chain_is_refused_at_construction(transforms, message):
    with pytest.raises(UserError) as caught:
        Preprocessing((8, 8), 3, transforms)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "channels"), [((8,), 3), ((8, 0), 3), (8, 3), ((8, 8), 2), ((8, 8.0), 1)])
def test_wrong_sizes_and_channels_are_refused(size, channels):
    with pytest.raises(UserError):
        Preprocessing(size, channels, NORMALIZE)


def test_a_random_chain_without_a_generator_is_refused():
    with pytest.raises(UserError, match="flip: random, but no random generator"):
        Preprocessing((8, 8), 3, f"flip|{NORMALIZE}")(noise(8, 8), None)


def test_a_result_of_another_size_is_refused():
    for generator, split in ((None, "eval"), (rng(), "train")):
        message = "an image of 10x8 pixels became 10x8, not 8x8: end the crops and resizes of "
        with pytest.raises(UserError, match=f"{message}config.data.{split}_transforms="):
            Preprocessing((8, 8), 3, NORMALIZE)(noise(10, 8), generator)


@pytest.mark.parametrize("name", ["center_crop", "random_crop"])
def test_a_crop_larger_than_the_image_is_refused(name):
    with pytest.raises(UserError, match=rf"{name}: the image \(8x8\) is smaller than 9x9: put 'resize'"):
        Preprocessing((9, 9), 3, f"{name}|{NORMALIZE}")(noise(8, 8), rng())


def test_preprocessing_is_data():
    preprocessing = Preprocessing((8, 6), 1, f"random_crop(padding=2)|{NORMALIZE}")
    again = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))
    copy = pickle.loads(pickle.dumps(preprocessing))
    assert preprocessing == again == copy
    image = noise(8, 6)
    np.testing.assert_array_equal(preprocessing(image, rng(3)), copy(image, rng(3)))


def test_a_pipe_inside_a_string_does_not_separate():
    with pytest.raises(UserError, match=r"not 'a\|b'"):
        Preprocessing((8, 8), 3, f"resize(method='a|b')|{NORMALIZE}")


def test_normalize_is_in_units_of_zero_to_one():
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (values / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(Normalize(mean, std)(Image.fromarray(values), None), expected, atol=1e-5)
    grey = Normalize(0.5, 0.25)(Image.fromarray(values[..., 0]), None)
    np.testing.assert_allclose(grey[..., 0], (values[..., 0] / 255 - 0.5) / 0.25, atol=1e-5)


def test_modes_become_grey_or_rgb():
    deep = Image.fromarray(np.array([[0, 256, 65535]], np.uint16))
    assert np.asarray(to_channels(deep, 1)).tolist() == [[0, 1, 255]]
    assert to_channels(deep, 3).mode == "RGB"
    transparent = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert to_channels(transparent, 3).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert to_channels(palette, 3).getpixel((0, 0)) == (200, 100, 50)
    palette.info["transparency"] = 1
    assert to_channels(palette, 1).getpixel((0, 0)) == 255
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"):
        for channels, wanted in ((1, "L"), (3, "RGB")):
            assert to_channels(Image.new(mode, (2, 2)), channels).mode == wanted


def test_resize_takes_the_shorter_side_or_both():
    assert geometry.Resize(10)(noise(20, 31), None).size == (15, 10)
    assert geometry.Resize((10, 12))(noise(20, 31), None).size == (12, 10)


def test_random_resize_draws_the_shorter_side():
    sides = [geometry.RandomResize(10, 14)(noise(20, 31), rng(seed)).size for seed in range(600)]
    assert {height for _, height in sides} == set(range(10, 15))
    assert all(width == int(31 / 20 * height) for width, height in sides)
    assert geometry.RandomResize(10, 10)(noise(31, 20), rng()).size == (10, 15)


def test_random_resize_is_uniform_or_its_inverse_is():
    image = noise(8, 8)
    sides = [geometry.RandomResize(40, 160)(image, rng(seed)).width for seed in range(400)]
    inverse = [geometry.RandomResize(40, 160, inverse=True)(image, rng(seed)).width for seed in range(400)]
    assert np.mean(sides) == pytest.approx(100, rel=0.05)
    assert np.mean(1 / np.array(inverse)) == pytest.approx((1 / 40 + 1 / 160) / 2, rel=0.05)


def bilinear_without_antialias(values, height, width):
    """tf.image.resize's default: half-pixel centres, two neighbours each way, edges repeated."""

    def weights(new, old):
        place = (np.arange(new) + 0.5) * old / new - 0.5
        low = np.floor(place).astype(int)
        return np.clip(low, 0, old - 1), np.clip(low + 1, 0, old - 1), place - low

    top, bottom, y = weights(height, values.shape[0])
    left, right, x = weights(width, values.shape[1])
    rows = values[top] * (1 - y)[:, None] + values[bottom] * y[:, None]
    return rows[:, left] * (1 - x) + rows[:, right] * x


@pytest.mark.parametrize(("height", "width"), [(7, 9), (40, 50), (16, 20)])
def test_without_antialias_resize_is_tensorflows(height, width):
    image = noise(20, 25, 1)
    resize = geometry.Resize((height, width), method="bilinear", antialias=False)
    expected = bilinear_without_antialias(np.asarray(image, float), height, width)
    np.testing.assert_allclose(np.asarray(resize(image, None)), expected, atol=1.01)


def test_antialias_matters_when_shrinking():
    checks = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    smooth = np.asarray(geometry.Resize(9, "bilinear")(checks, None), float)
    sampled = np.asarray(geometry.Resize(9, "bilinear", antialias=False)(checks, None), float)
    assert smooth.std() < 10
    assert sampled.std() > 3 * smooth.std()


def test_center_crop():
    image = np.asarray(noise(9, 8))
    np.testing.assert_array_equal(geometry.CenterCrop((5, 4))(Image.fromarray(image), None), image[2:7, 2:6])


def test_random_crop_reaches_every_offset_and_pads_with_black():
    image = Image.fromarray(np.arange(1, 17, dtype=np.uint8).reshape(4, 4))
    crop = geometry.RandomCrop(4, padding=1)
    padded = np.pad(np.asarray(image), 1)
    windows = {padded[top : top + 4, left : left + 4].tobytes() for top in range(3) for left in range(3)}
    seen = {np.asarray(crop(image, rng(seed))).tobytes() for seed in range(200)}
    assert seen == windows


@pytest.mark.parametrize("kind", [geometry.RandomResizedCrop, geometry.InceptionCrop])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (224, 224), (500, 333)])
def test_crops_keep_to_area_ratio_and_image(kind, height, width):
    crop = kind(size=8)
    generator = rng()
    for _ in range(500):
        top, left, h, w = crop.sample(height, width, generator)
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        if (h, w) != (height, width):
            assert crop.area[0] * 0.97 <= h * w / (height * width) <= crop.area[1] * 1.03
            assert crop.ratio[0] * 0.97 <= w / h <= crop.ratio[1] * 1.03


def test_googles_crops_are_smaller_than_timms():
    """The area is uniform in timm's (mean near 0.54, less as large crops of extreme aspect do not fit)."""
    generator = rng()
    areas = {}
    for kind in (geometry.RandomResizedCrop, geometry.InceptionCrop):
        crop = kind(area=(0.08, 1.0), size=8)
        samples = [crop.sample(224, 224, generator) for _ in range(3000)]
        areas[kind] = np.mean([h * w for _, _, h, w in samples]) / 224**2
    assert 0.45 < areas[geometry.RandomResizedCrop] < 0.54
    assert areas[geometry.InceptionCrop] < areas[geometry.RandomResizedCrop] - 0.05


def test_the_ratio_of_a_crop_is_width_to_height():
    crop = geometry.RandomResizedCrop(area=(0.1, 0.1), ratio=(4.0, 4.0), size=8)
    assert crop.sample(100, 100, rng())[2:] == (16, 63)  # the roots of 1,000 / 4 and 1,000 x 4


def test_what_a_transform_fills_with_is_the_mean_in_levels():
    (step, _) = Preprocessing((8, 8), 1, "randaugment('rand-m9')|normalize(mean=0.75, std=0.5)").steps
    assert step.fill == (191,)  # 191.25


def test_crops_of_an_impossible_shape_fall_back_as_the_authors_do():
    assert geometry.RandomResizedCrop(area=(1.0, 1.0), size=8).sample(10, 1000, rng()) == (0, 493, 10, 13)
    assert geometry.InceptionCrop(area=(1.0, 1.0), size=8).sample(10, 1000, rng()) == (0, 0, 10, 1000)


def test_flip_mirrors_half_of_the_time():
    image = noise(3, 4)
    mirrored = np.asarray(image)[:, ::-1]
    flips = [np.array_equal(geometry.Flip()(image, rng(seed)), mirrored) for seed in range(400)]
    assert 0.42 < np.mean(flips) < 0.58


def test_rot90_turns_by_each_quarter_as_often():
    image = noise(4, 4)
    quarters = [np.rot90(image, turn).tobytes() for turn in range(4)]
    turned = [quarters.index(np.asarray(geometry.Rot90()(image, rng(seed))).tobytes()) for seed in range(400)]
    assert min(np.bincount(turned, minlength=4)) > 70
    with pytest.raises(UserError, match=r"rot90: the image is not square \(3x4\)"):
        geometry.Rot90()(noise(3, 4), rng())


def test_random_affine_without_strength_changes_nothing():
    still = geometry.RandomAffine(degrees=0, shift=0, scale=(1.0, 1.0))
    image = noise(9, 7)
    np.testing.assert_array_equal(still(image, rng()), image)


def test_random_affine_turns_about_the_centre_and_moves():
    dot = np.zeros((21, 21), np.uint8)
    dot[9:12, 9:12] = 255
    grid = np.arange(21)

    def centre(image):
        values = np.asarray(image, float)
        return np.array([(values.sum(1) * grid).sum(), (values.sum(0) * grid).sum()]) / values.sum()

    image = Image.fromarray(dot)
    turned = [centre(geometry.RandomAffine(45, 0, (0.8, 1.2))(image, rng(seed))) for seed in range(20)]
    np.testing.assert_allclose(turned, 10, atol=0.2)
    moved = np.array([centre(geometry.RandomAffine(0, 0.2, (1.0, 1.0))(image, rng(seed))) for seed in range(300)]) - 10
    assert 3.8 < np.abs(moved).max() < 4.3
    assert np.all(np.abs(moved.mean(0)) < 0.5)


def test_color_jitter_is_neutral_at_zero_and_bounded():
    image = noise(6, 6)
    np.testing.assert_array_equal(ColorJitter(0, 0, 0, 0)(image, rng()), image)
    white = Image.new("RGB", (2, 2), (200, 200, 200))
    levels = [ColorJitter(0.4, 0, 0)(white, rng(seed)).getpixel((0, 0))[0] for seed in range(200)]
    assert 118 <= min(levels) < 140
    assert max(levels) == 255
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    assert len({ColorJitter(0, 0, 0, 0.5)(red, rng(seed)).getpixel((0, 0)) for seed in range(20)}) > 10


@pytest.mark.parametrize(("mode", "std"), [("pixel", 1.0), ("const", 0.0)])
def test_random_erasing(mode, std):
    erase = RandomErasing(p=1.0, mode=mode)
    areas, filled = [], []
    for seed in range(300):
        image = erase(np.full((32, 32, 3), 9.0, np.float32), rng(seed))
        erased = np.any(image != 9.0, axis=-1)
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        assert erased.sum() == len(rows) * len(columns)  # one rectangle
        areas.append(erased.mean())
        filled.append(image[erased])
    assert min(areas) > 0.015
    assert max(areas) < 0.36
    assert np.std(np.concatenate(filled)) == pytest.approx(std, abs=0.02)
    rate = np.mean([np.any(RandomErasing(0.25)(np.full((8, 8, 1), 9.0), rng(seed)) != 9) for seed in range(400)])
    assert 0.19 < rate < 0.31
