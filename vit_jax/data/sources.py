"""Where images or clips and their labels come from: random access to one split, by name.

`digits` (embedded), `fashion_mnist`, `motion`, any image-classification set that TFDS has prepared as ArrayRecord,
`folder` (images) and `video` (clips). Records are read in batches and decoded here by Pillow, which gives the image as
stored: TFDS would decode every image feature, through TensorFlow or OpenCV.
"""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vit_jax.data.video.decode import ArrayVideo
from vit_jax.errors import UserError, nearest

IN_MEMORY_BYTES = 256 * 2**20

# Sets whose labels are not called "label" and where a choice has to be made.
LABEL_KEYS = {"imagenet2012_real": "real_label"}

# Sets that are prepared on first use: seconds, and nothing to fetch.
EMBEDDED = ("digits", "motion/digits_tiny")


class Source(Protocol):
    """Random access over one split.

    An example is `{"image": PIL image of any mode, "label": ..., "id": int}`, or has a `decode.Video` as "video" in the
    image's place. `label` is an int, or a float32 multi-hot vector where an example has several. `id` is the position
    in the split and stays when others are skipped.
    """

    name: str
    kind: str  # "image" or "video"
    split: str
    labels: tuple[str, ...]  # the classes' names in the order of their numbers
    skipped: list[tuple[str, str]]  # (file, reason) for each unreadable file

    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...
    def all_labels(self) -> np.ndarray: ...  # of every example, in order; decodes no image


def open_source(
    name: str,
    split: str,
    *,
    path: str | None = None,
    data_dir: str | None = None,
    strict: bool = False,
    label: str | None = None,
    **clips: Any,
) -> Source:
    """Opens one split of a data set.

    `name` is "digits", "fashion_mnist", "motion/...", "folder" or "video" (at `path`), or a set of TFDS prepared under
    `data_dir` (default: `$TFDS_DATA_DIR`, then `~/tensorflow_datasets`); `split` may be sliced as in TFDS,
    `train[:99%]`. The digits are prepared on first use, which takes a second and no network; everything else must be
    there. `strict` refuses a folder with unreadable files, which are otherwise skipped and listed. `label` is the
    feature of a TFDS set that holds the labels, if not the usual one; `clips` is of `video`, see `open_videos`. Small
    sets of equal images stay decoded in memory.

    Raises `UserError` naming what is missing and how to get it.
    """
    if name == "folder":
        from vit_jax.data.image.folder import FolderSource

        if not path:
            raise UserError("data set 'folder' needs a path: the folder with one sub-folder per class")
        return in_memory_if_small(FolderSource(path, split, strict=strict))
    if name == "video":
        from vit_jax.data.video.source import open_videos

        if not path:
            raise UserError("data set 'video' needs a path: the folder of the clips, or of their lists")
        return open_videos(path, split, strict=strict, **clips)
    if path:
        raise UserError(f"only 'folder', 'video' and 'text' are read from a path, not {name!r}: leave the path out")
    return in_memory_if_small(TfdsSource(name, split, directory_of(name, data_dir), label))


def directory_of(name: str, data_dir: str | None = None) -> Path:
    """The folder of a prepared set; prepares what is made of the digits. Raises `UserError` if it is not there."""
    from vit_jax.data.sets import prepare

    directory = prepare.find_prepared(name, data_dir)
    if directory is None and name in EMBEDDED:
        directory = prepare.prepare(name, data_dir)
    if directory is None:
        raise prepare.not_prepared(name, data_dir)
    return directory


def split_names(directory: Path) -> list[str]:
    """The splits of a prepared set."""
    return list(_builder(directory).info.splits)


def example_name(source: Source, example_id: int) -> str | None:
    """The file of an example, relative to the folder, or None where examples are not files."""
    files = getattr(source, "files", None)
    return None if files is None else files[example_id]


def in_memory_if_small(source: Any) -> Source:
    """Keeps a source decoded in memory if its images are alike and fit in `IN_MEMORY_BYTES`."""
    if source.image_shape is None or len(source) * int(np.prod(source.image_shape)) > IN_MEMORY_BYTES:
        return source
    return InMemory(source)


class InMemory:
    """Keeps each image decoded from its first use on. A copy in another process starts empty and reads for itself."""

    def __init__(self, source: Any):
        self._source, self.kind = source, source.kind
        self.name, self.split, self.labels, self.skipped = source.name, source.split, source.labels, source.skipped
        self._clear()

    def _clear(self) -> None:
        self._pixels = np.empty((len(self._source), *self._source.image_shape), np.uint8)
        self._rest: list[dict[str, Any] | None] = [None] * len(self._source)  # set last: an example is complete or None

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(self._source, attribute)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_pixels", "_rest")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def __len__(self) -> int:
        return len(self._source)

    def all_labels(self) -> np.ndarray:
        return self._source.all_labels()

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        missing = sorted({index for index in indices if self._rest[index] is None})
        for index, example in zip(missing, self._source.__getitems__(missing), strict=True):
            self._pixels[index] = np.asarray(example.pop("image"))
            self._rest[index] = example
        return [{"image": Image.fromarray(self._pixels[index]), **(self._rest[index] or {})} for index in indices]


class Subset:
    """Some examples of a source, in the order of `indices`; their ids stay."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source, self._indices, self.kind = source, np.asarray(indices), source.kind
        self.name, self.split, self.labels, self.skipped = source.name, source.split, source.labels, source.skipped

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self._source.__getitems__(self._indices[list(indices)].tolist())

    def all_labels(self) -> np.ndarray:
        return self._source.all_labels()[self._indices]


@dataclasses.dataclass
class TfdsSource:
    """One split of a prepared TFDS set: ArrayRecord files with `features.json` and `dataset_info.json` beside them.

    The image, or else the clip (uint8, all of one shape), and the label are found by the type of the features, "label"
    before others; `label_key` names another. Reads the folder, so that it needs neither the set's Python class nor
    TensorFlow. Pickles as its fields.
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
        try:
            records = builder.as_data_source(
                self.split, file_format="array_record", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except (ValueError, KeyError) as error:
            raise _split_error(self.name, self.split, known, error) from None
        self._records: Any = records
        features = builder.info.features
        self.kind, self._key = _input_feature(self.name, features)
        self._clip_shape = features[self._key].shape
        self._fps = (builder.info.metadata or {}).get("fps", 0.0)  # 0: not known
        self._label, classes, self._is_multi = _label_feature(self.name, features, self.label_key)
        self.labels = tuple(str(label) for label in classes.names)
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
        try:
            stored = features[self._key].bytes_list.value[0]
            decoded = self._decode_image(stored) if self.kind == "image" else self._decode_clip(stored, index)
        except (OSError, IndexError, SyntaxError, ValueError) as error:
            raise UserError(f"{self.name} {self.split!r}: example {index} is not readable ({error})") from None
        return {self.kind: decoded, "label": label, "id": int(index)}

    def _decode_image(self, stored: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(stored))
        image.load()
        return image

    def _decode_clip(self, stored: bytes, index: int) -> ArrayVideo:
        frames = np.frombuffer(stored, np.uint8).reshape(self._clip_shape)
        return ArrayVideo(frames, self._fps, name=f"{self.name} {self.split} {index}")

    def _encoded(self, labels: Sequence[int]) -> int | np.ndarray:
        if not self._is_multi:
            return int(labels[0])
        hot = np.zeros(len(self.labels), np.float32)
        hot[list(labels)] = 1
        return hot

    def class_counts(self) -> list[int]:
        """How many examples each class has; reads every record but decodes no image."""
        counts = np.zeros(len(self.labels), np.int64)
        for labels in self._read_labels():
            counts[list(labels)] += 1
        return counts.tolist()

    def all_labels(self) -> np.ndarray:
        return np.array([self._encoded(labels) for labels in self._read_labels()])

    def _read_labels(self) -> Iterator[Sequence[int]]:
        for start in range(0, len(self), 1000):
            for record in self._records.__getitems__(list(range(start, min(start + 1000, len(self))))):
                yield _parsed(record)[self._label].int64_list.value


def _builder(directory: Path) -> Any:
    import tensorflow_datasets as tfds

    open_directory: Any = tfds.builder_from_directory  # its decorators hide its arguments
    return open_directory(directory)


def _parsed(record: bytes) -> Any:
    """The features of a serialized `tf.train.Example`, by key."""
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
    raise UserError(f"data set {name!r} has no images, or clips of one size, among its features {sorted(features)}")


def _label_feature(name: str, features: Any, wanted: str | None) -> tuple[str, Any, bool]:
    """Returns the key of the labels, their ClassLabel, and whether an example may have several."""
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
    preferred = [wanted, LABEL_KEYS.get(name.split("/")[0].split(":")[0], "label"), "label", "labels"]
    key = next((key for key in preferred if key in found), next(iter(found)) if len(found) == 1 else None)
    if key is None:
        raise UserError(f"data set {name!r} is not for classification: class labels found in {sorted(found) or 'none'}")
    return key, found[key], key in several


def _fixed_shape(feature: Any) -> tuple[int, ...] | None:
    """(height, width) or (height, width, 3) if all images are alike, 8-bit and grey or RGB."""
    height, width, channels = feature.shape
    if not (height and width) or feature.np_dtype != np.uint8 or channels not in (1, 3):
        return None
    return (height, width) if channels == 1 else (height, width, channels)


def _split_error(name: str, split: str, known: list[str], error: Exception) -> UserError:
    base = split.split("[")[0]
    if base in known or "+" in split:
        return UserError(
            f"{name}: cannot read split {split!r} ({str(error).splitlines()[0]}); known: {', '.join(known)}"
        )
    return UserError(f"{name} has no split {base!r}{nearest(base, known)}")
