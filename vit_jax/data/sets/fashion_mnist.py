"""Fashion-MNIST as a TFDS builder that needs neither TensorFlow nor a network."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.data.sets.digits import classification_info
from vit_jax.errors import UserError

# sha256 of each file as published, and as packaged by Debian, which removes the time from the gzip header.
FILES = {
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
LABELS = [
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

    It reads the four gzipped idx files in the folder `files`. Name, version, keys and order are those of TFDS's own
    builder, whose preparation needs TensorFlow.
    """

    name = "fashion_mnist"
    VERSION = tfds.core.Version("3.0.1")

    def __init__(self, *, files: Path | None = None, **kwargs: Any):
        self._files = files
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return classification_info(self, (28, 28, 1), LABELS)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples("train"), "test": self._generate_examples("t10k")}

    def _generate_examples(self, part: str) -> Iterator[Any]:
        assert self._files is not None
        images, labels = load_images(self._files, part)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}


def load_images(files: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8 (number, 28, 28), and labels of `part`: "train" or "t10k".

    Raises:
      UserError: A file is not the published one.
    """
    paths = [files / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    for path in paths:
        check_file(path)
    images, labels = (read_idx(path) for path in paths)
    return images, labels


def check_file(path: Path) -> None:
    """Raises `UserError` unless the file is the published one."""
    if hashlib.sha256(path.read_bytes()).hexdigest() not in FILES[path.name]:
        raise UserError(f"{path} is not the published file (its sha256 differs): download it again")


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped idx file of bytes.

    The format is two zero bytes, the type 8, the number of dimensions, the sizes as big-endian uint32, and the values.

    Raises:
      UserError: The file has another format.
    """
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise UserError(f"{path} is not an idx file of bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
