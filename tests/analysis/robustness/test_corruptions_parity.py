"""The pixels of the corruptions, against the package imagecorruptions, which transcribes the authors' code."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from vit_jax.analysis.robustness.common_corruptions import FROST_FILES, IMAGENET_C, corrupt, frost_photographs

pytestmark = pytest.mark.parity
if importlib.util.find_spec("imagecorruptions") is None:
    pytest.skip("needs the extra corruptions", allow_module_level=True)
EXACT = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "motion_blur", "fog", "brightness")
EXACT += ("contrast", "jpeg_compression")


@pytest.fixture
def image():
    rows, columns = np.mgrid[:224, :224]
    waves = [np.sin(rows / (9 + i)) + np.cos(columns / (7 + i)) + (columns > 100 + 9 * i) for i in range(3)]
    noise = np.random.default_rng(0).normal(size=(224, 224, 3)) * 9
    return (np.stack(waves, axis=-1) * 50 + 90 + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", EXACT)
def test_the_same_random_numbers_give_the_same_pixels(name, severity, image):
    """The levels are the package's, truncated, within rounding: it computes some steps in float32."""
    from imagecorruptions import corruptions

    np.random.seed(3)  # noqa: NPY002  its own global generator
    seeded = {"seed": np.random.RandomState(3)} if name == "impulse_noise" else {}
    theirs = np.asarray(getattr(corruptions, name)(Image.fromarray(image), severity, **seeded), np.float64)
    ours = np.asarray(corrupt(Image.fromarray(image), name, severity, np.random.RandomState(3)))
    assert (theirs - ours).min() > -1e-4
    assert (theirs - ours).max() < 1 + 1e-4


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", ["zoom_blur", "snow"])
def test_zooms_differ_by_the_place_of_the_crop_only(name, severity, image):
    """The package crops the magnified image at its corner, the authors at its centre: a pixel at most."""
    from imagecorruptions import corruptions

    theirs, ours = [], []
    for seed in range(4):
        np.random.seed(seed)  # noqa: NPY002
        theirs.append(np.uint8(getattr(corruptions, name)(Image.fromarray(image), severity)).astype(float))
        rng = np.random.RandomState(seed)
        ours.append(np.asarray(corrupt(Image.fromarray(image), name, severity, rng)).astype(float))
    theirs, ours = np.stack(theirs), np.stack(ours)
    assert abs(theirs.mean() - ours.mean()) < 1
    assert abs(theirs.std() - ours.std()) < 1
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_glass_blur_has_their_statistics(severity, image):
    """Their random numbers come from numba: the change of the image is compared instead of its pixels."""
    from imagecorruptions import corruptions

    theirs = np.uint8(corruptions.glass_blur(Image.fromarray(image), severity, seed=1)).astype(float)
    ours = np.asarray(corrupt(Image.fromarray(image), "glass_blur", severity, np.random.default_rng(1))).astype(float)
    changes = [np.abs(found - image).mean() for found in (theirs, ours)]
    assert changes[0] == pytest.approx(changes[1], rel=0.03)
    assert np.abs(np.diff(ours, axis=0)).mean() == pytest.approx(np.abs(np.diff(theirs, axis=0)).mean(), rel=0.05)


def test_frost_is_the_mixture_of_their_photographs(image):
    photographs = frost_photographs(1.0, (224, 224))
    assert len(photographs) == len(FROST_FILES)
    keep, add, _ = IMAGENET_C["frost"][2]
    found = np.asarray(corrupt(Image.fromarray(image), "frost", 3, np.random.default_rng(0))) / 255
    draws = np.random.default_rng(0)
    photograph = photographs[int(draws.uniform(0, 5))]
    top, left = (int(draws.uniform(0, photograph.shape[axis] - 224)) for axis in (0, 1))
    expected = keep * image / 255 + add * photograph[top : top + 224, left : left + 224]
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1.01 / 255)
