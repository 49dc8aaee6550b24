"""TFDS sets prepared as ArrayRecord, read without TensorFlow and without the Python class of the set.

Records are read in batches and decoded here by Pillow, which returns the image as stored; TFDS itself would decode
images through TensorFlow or OpenCV.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.image.reading import stored_bytes
from vit_jax.data.sets import prepare
from vit_jax.data.video.decode import ArrayVideo
from vit_jax.errors import UserError, nearest

# Sets in which the feature with the labels is not called "label" and there are several to choose from.
LABEL_KEYS = {"imagenet2012_real": "real_label"}

# Sets that declare all classes of ImageNet, but have only some of them: their classes are those that occur.
PARTIAL = ("imagenet_a", "imagenet_r")

# Sets that are prepared on first use: this takes seconds, and nothing is downloaded.
EMBEDDED = ("digits", "motion/digits_tiny")


def directory_of(name: str, data_dir: str | None = None) -> Path:
    """Returns the folder of a prepared set; prepares the sets in `EMBEDDED` if necessary.

    Raises:
      UserError: The set has not been prepared; the message says how to prepare it.
    """
    directory = prepare.find_prepared(name, data_dir)
    if directory is None and name in EMBEDDED:
        directory = prepare.prepare(name, data_dir)
    if directory is None:
        raise prepare.not_prepared(name, data_dir)
    return directory


def split_names(directory: Path) -> list[str]:
    """Returns the splits of a prepared set."""
    return list(_builder(directory).info.splits)


@dataclasses.dataclass
class TfdsSource:
    """One split of a prepared TFDS set: ArrayRecord files with `features.json` and `dataset_info.json`.

    The features are found by their types. The input is the image, or else a uint8 tensor of fixed shape (frames,
    height, width, channels): a clip, whose frame rate is the entry `fps` of the metadata, or 0 if there is none. The
    label is a `ClassLabel`, preferably called "label", or a sequence of them, which becomes a multi-hot vector. The
    classes of a set in `PARTIAL` are those that occur in its first split.

    Attributes:
      name: Name of the set, `name[/config][:version]`.
      split: A split in TFDS notation.
      directory: Folder of the set.
      label_key: The feature that holds the labels, if the set has several.

    Raises:
      UserError: The split does not exist, or the set has no images or clips, or no class labels.
    """

    name: str
    split: str
    directory: Path
    label_key: str | None = None
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        import tensorflow_datasets as tfds

        builder = _builder(self.directory)
        known = list(builder.info.splits)

        def read(split: str) -> Any:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            return builder.as_data_source(split, file_format="array_record", deserialize_method=raw)

        try:
            self._records: Any = read(self.split)
        except (ValueError, KeyError) as error:
            raise _split_error(self.name, self.split, known, error) from None
        features = builder.info.features
        self.kind, self._key = _input_feature(self.name, features)
        self._clip_shape = features[self._key].shape
        self._fps = (builder.info.metadata or {}).get("fps", 0.0)
        self._label, classes, self._is_multi = _label_feature(self.name, features, self.label_key)
        self.labels, self._numbers = tuple(str(label) for label in classes.names), range(len(classes.names))
        if _base(self.name) in PARTIAL:  # whatever the slice of the split
            present = {label for labels in self._read_labels(read(known[0])) for label in labels}
            self.labels, self._numbers = _chosen(self.labels, present)
        self.image_shape = _fixed_shape(features[self._key]) if self.kind == "image" else None

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        return len(self._records)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        records = self._records.__getitems__(list(indices)) if len(indices) else []
        return [self._decode(record, index) for record, index in zip(records, indices, strict=True)]

    def _decode(self, record: bytes, index: int) -> dict[str, Any]:
        features = _parsed(record)
        label = self._encoded(features[self._label].int64_list.value)
        complaint = f"{self.name} {self.split!r}: example {index} cannot be read"
        try:
            stored = features[self._key].bytes_list.value[0]
            decoded = stored_bytes(stored, complaint) if self.kind == "image" else self._decode_clip(stored, index)
        except (OSError, IndexError, SyntaxError, ValueError) as error:
            raise UserError(f"{complaint} ({error})") from None
        return {self.kind: decoded, "label": label, "id": int(index)}

    def _decode_clip(self, stored: bytes, index: int) -> ArrayVideo:
        frames = np.frombuffer(stored, np.uint8).reshape(self._clip_shape)
        return ArrayVideo(frames, self._fps, name=f"{self.name} {self.split} {index}")

    def _encoded(self, labels: Sequence[int]) -> int | np.ndarray:
        if not self._is_multi:
            return self._numbers[int(labels[0])]
        hot = np.zeros(len(self.labels), np.float32)
        hot[[self._numbers[label] for label in labels]] = 1
        return hot

    def class_counts(self) -> list[int]:
        """Returns the number of examples of each class; reads every record but decodes no image."""
        counts = np.zeros(len(self.labels), np.int64)
        for labels in self._read_labels(self._records):
            counts[[self._numbers[label] for label in labels]] += 1
        return counts.tolist()

    def all_labels(self) -> np.ndarray:
        return np.array([self._encoded(labels) for labels in self._read_labels(self._records)])

    def _read_labels(self, records: Any) -> Iterator[Sequence[int]]:
        for start in range(0, len(records), 1000):
            for record in records.__getitems__(list(range(start, min(start + 1000, len(records))))):
                yield _parsed(record)[self._label].int64_list.value


def _base(name: str) -> str:
    """Returns the name of a set without its config and version."""
    return name.split("/")[0].split(":")[0]


def _chosen(labels: Sequence[str], present: Iterable[int]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Returns the names of some classes, and their new numbers by the old ones."""
    order = sorted(present)
    return tuple(labels[i] for i in order), {old: new for new, old in enumerate(order)}


def _builder(directory: Path) -> Any:
    import tensorflow_datasets as tfds

    open_directory: Any = tfds.builder_from_directory  # its decorators hide its arguments from the type checker
    return open_directory(directory)


def _parsed(record: bytes) -> Any:
    """Returns the features of a serialized `tf.train.Example` by key."""
    from tensorflow_datasets.proto import tf_example_pb2

    return getattr(tf_example_pb2, "Example").FromString(record).features.feature  # noqa: B009  protobuf is untyped


def _input_feature(name: str, features: Any) -> tuple[str, str]:
    """Returns "image" and the key of the images, or "video" and the key of the clips."""
    import tensorflow_datasets as tfds

    images = [key for key, feature in features.items() if type(feature) is tfds.features.Image]
    if images:
        return "image", "image" if "image" in images else images[0]
    clips = [key for key, feature in features.items() if feature.np_dtype == np.uint8 and len(feature.shape or ()) == 4]
    if clips and all(features[clips[0]].shape):
        return "video", clips[0]
    raise UserError(f"data set {name!r} has no images, and no clips of one size, among its features {sorted(features)}")


def _label_feature(name: str, features: Any, wanted: str | None) -> tuple[str, Any, bool]:
    """Returns the key of the labels, their ClassLabel, and whether an example can have several."""
    import tensorflow_datasets as tfds

    single = {key: feature for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)}
    several = {
        key: feature.feature
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, tfds.features.ClassLabel)
    }
    found = single | several
    if wanted and wanted not in found:
        raise UserError(f"data set {name!r} has no labels {wanted!r}{nearest(wanted, found)}")
    preferred = [wanted, LABEL_KEYS.get(_base(name), "label"), "label", "labels"]
    key = next((key for key in preferred if key in found), next(iter(found)) if len(found) == 1 else None)
    if key is None:
        several_labels = f"it has several labels, so set config.data.label to one of {', '.join(sorted(found))}"
        reason = several_labels if found else "it has no class labels"
        raise UserError(f"data set {name!r} is not usable for classification: {reason}")
    return key, found[key], key in several


def _fixed_shape(feature: Any) -> tuple[int, ...] | None:
    """Returns (height, width) or (height, width, 3) if all images are alike, 8-bit and grey or RGB, else None."""
    height, width, channels = feature.shape
    if not (height and width) or feature.np_dtype != np.uint8 or channels not in (1, 3):
        return None
    return (height, width) if channels == 1 else (height, width, channels)


def _split_error(name: str, split: str, known: list[str], error: Exception) -> UserError:
    base = split.split("[")[0]
    if base in known or "+" in split:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = "it has no examples" if "0 length" in lines[0] else lines[0]
        return UserError(f"{name}: cannot read split {split!r} ({reason}); known: {', '.join(known)}")
    return UserError(f"{name} has no split {base!r}{nearest(base, known)}")
