"""The project's own sets of images, as TFDS builders that need neither TensorFlow nor a network.

Each yields Pillow images, which TFDS then stores as PNG without TensorFlow (a numpy array would need it).
"""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.errors import UserError


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, the test part of UCI's optdigits (1998).

    Split "fifth of each class": of each class, in scikit-learn's order, every fifth image is in `test` (355 images) and
    the others in `train` (1,442). Stratified and without chance; the thirteen writers are in both. The sixteen steps
    of grey are stretched to 0..255.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _classification_info(self, (8, 8, 1), [str(digit) for digit in range(10)])

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        images, labels, is_test = load_digits()
        return {
            "train": self._generate_examples(images, labels, np.flatnonzero(~is_test)),
            "test": self._generate_examples(images, labels, np.flatnonzero(is_test)),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> Iterator[Any]:
        for index in indices.tolist():
            yield index, {"image": Image.fromarray(images[index]), "label": int(labels[index])}


def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images uint8 (1797, 8, 8), labels, and which are in the test split."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    return images, labels, fifth_of_each_class(labels)


def fifth_of_each_class(labels: np.ndarray) -> np.ndarray:
    """True for every fifth occurrence of each label."""
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    return is_test


# sha256 of the files as published, and as packaged by Debian, which strips the time from gzip's header.
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    ),
}
FASHION_MNIST_LABELS = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


class FashionMnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey images of 28x28 pixels in 10 classes.

    From the four gzipped idx files, which it looks for in `files`; name, version, keys and order are those of TFDS's
    own builder, whose preparation needs TensorFlow.
    """

    name = "fashion_mnist"
    VERSION = tfds.core.Version("3.0.1")

    def __init__(self, *, files: Path | None = None, **kwargs: Any):
        self._files = files
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return _classification_info(self, (28, 28, 1), FASHION_MNIST_LABELS)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples("train"), "test": self._generate_examples("t10k")}

    def _generate_examples(self, part: str) -> Iterator[Any]:
        assert self._files is not None
        images, labels = load_fashion_mnist(self._files, part)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}


def load_fashion_mnist(files: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 (number, 28, 28) and labels of `part`, "train" or "t10k".

    Raises:
      UserError: A file is not the one published.
    """
    paths = [files / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    for path in paths:
        check_fashion_mnist_file(path)
    images, labels = (read_idx(path) for path in paths)
    return images, labels


def check_fashion_mnist_file(path: Path) -> None:
    """Raises `UserError` unless the file is the one published."""
    if hashlib.sha256(path.read_bytes()).hexdigest() not in FASHION_MNIST_FILES[path.name]:
        raise UserError(f"{path} is not the published file (its sha256 differs): fetch it again")


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped idx file of bytes: two zeros, type 8, number of dimensions, big-endian sizes, values."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise UserError(f"{path} is not an idx file of bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _classification_info(builder: Any, shape: tuple[int, int, int], labels: list[str]) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=labels)}
    )
    return tfds.core.DatasetInfo(
        builder=builder,
        description=type(builder).__doc__,
        features=features,
        supervised_keys=("image", "label"),
        disable_shuffling=False,
    )
