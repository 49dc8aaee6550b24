"""ReaL labels of a folder of validation images."""

import json

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.folder import FolderSource
from vit_jax.data.image.real import CLASSES, IMAGES, RealLabels
from vit_jax.errors import UserError

FILES = {"n00000000": (7,), "n00000005": (2, 50_000)}


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(CLASSES):
        (tmp_path / "val" / f"n{number:08}").mkdir(parents=True)
    for label, numbers in FILES.items():
        for number in numbers:
            Image.new("L", (2, 2), number % 251).save(tmp_path / "val" / label / f"ILSVRC2012_val_{number:08}.png")
    return FolderSource(tmp_path, "val")


@pytest.fixture
def path(tmp_path):
    real = [[] for _ in range(IMAGES)]
    real[6], real[1] = [3, 999], [0]  # the images 7 and 2; the last one has no label
    (tmp_path / "real.json").write_text(json.dumps(real))
    return str(tmp_path / "real.json")


def test_an_image_has_the_labels_at_its_number(source, path):
    real = RealLabels(source, path)
    labels = [np.flatnonzero(example["label"]).tolist() for example in real.__getitems__([0, 1, 2])]
    assert labels == [[3, 999], [0], []]
    np.testing.assert_array_equal(real.all_labels(), [example["label"] for example in real.__getitems__([0, 1, 2])])
    assert (len(real), real.name, len(real.labels)) == (3, "folder, ReaL", CLASSES)


def test_other_files_and_sets_are_refused(source, path, tmp_path):
    (tmp_path / "short.json").write_text("[[1]]")
    for name, message in (("short.json", "must be the authors' real.json"), ("no.json", "No such file")):
        with pytest.raises(UserError, match=message):
            RealLabels(source, str(tmp_path / name))
    real = RealLabels(source, path)
    real.files = ["n00000000/cat.png", *source.files[1:]]
    with pytest.raises(UserError, match=r"cat\.png is not named as in ImageNet's validation set"):
        real.__getitems__([0])
    source.labels = source.labels[:10]
    with pytest.raises(UserError, match=r"folder has 10 classes\. For TFDS, use --data=imagenet2012_real"):
        RealLabels(source, path)
