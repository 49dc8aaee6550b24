"""Small data sets in temporary folders; nothing is read from or written to the user's own."""

import pytest
from PIL import Image

from vit_jax.data.image.transforms import Preprocessing


@pytest.fixture(autouse=True)
def private_folders(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data_dir with the digits in it."""
    from vit_jax.data.sets.prepare import prepare

    root = str(tmp_path_factory.mktemp("tfds"))
    prepare("digits", root)
    return root


@pytest.fixture
def digits(data_dir):
    from vit_jax.data.source import open_source

    return open_source("digits", "test", data_dir=data_dir)


@pytest.fixture
def augmented():
    return Preprocessing((8, 8), 1, "random_affine|random_crop(padding=1)|normalize(0.5, 0.5)|random_erasing(p=0.5)")


@pytest.fixture
def plain():
    return Preprocessing((8, 8), 1, "normalize(0.5, 0.5)")


@pytest.fixture
def write_images():
    """Writes `count` PNGs of one class folder, each of another grey level."""

    def write(folder, count, size=(6, 5), mode="RGB", first=0):
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            grey = first + index
            Image.new(mode, size, (grey,) * 3 if mode == "RGB" else grey).save(folder / f"{index:03d}.png")

    return write
