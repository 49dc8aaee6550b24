"""scikit-learn's handwritten digits as a TFDS builder that needs neither TensorFlow nor a network."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, the test part of UCI's optdigits (1998).

    The split takes a fifth of each class: in scikit-learn's order, every fifth image of a class is in `test` (355
    images) and the others are in `train` (1,442). It is stratified and involves no randomness; the thirteen writers
    occur in both. The 16 levels of grey are stretched to 0..255.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return classification_info(self, (8, 8, 1), [str(digit) for digit in range(10)])

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
    """Returns images, uint8 (1797, 8, 8), their labels, and a mask of the images in the test split."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    return images, labels, fifth_of_each_class(labels)


def fifth_of_each_class(labels: np.ndarray) -> np.ndarray:
    """Returns a mask that is True for every fifth occurrence of each label."""
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    return is_test


def classification_info(builder: Any, shape: tuple[int, int, int], labels: Sequence[str]) -> tfds.core.DatasetInfo:
    """Returns the info of a set of images of one `shape` with a class label each.

    Builders yield Pillow images, which TFDS stores as PNG by itself; for numpy arrays it would need TensorFlow.
    """
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
