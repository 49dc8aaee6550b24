"""Data sets by name: what a source is, and how one split of it is opened.

Names are "folder" (images), "video" (clips) and "text" (parallel text) for files of your own; an import path such as
"mylab.data:open_split"; or a prepared TFDS set: "digits", "fashion_mnist", "motion/fashion", "imagenet2012" and so on.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vit_jax.config import Config
from vit_jax.errors import UserError

IN_MEMORY_BYTES = 256 * 2**20
ROOTS = {  # the data sets of your own files, and what they need as their path
    "folder": "the folder with one sub-folder per class",
    "video": "the folder of the clips, or of their lists",
    "text": "the folder with its splits, such as train.tsv",
}


class Source(Protocol):
    """Random access to the examples of one split.

    An example is a dict: `{"image": PIL image of any mode, "label": ..., "id": int}`, with a `decode.Video` as "video"
    instead of the image, or `{"source": str, "target": str, "id": int}` for text. `label` is an int, or a float32
    multi-hot vector if an example can have several labels. `id` is the position in the split, which does not change
    when other examples are skipped.

    Attributes:
      name: Name of the data set.
      kind: The modality: "image", "video" or "text".
      split: The split, as given.
      labels: Class names, in the order of their numbers; empty for text.
      skipped: (file, reason) of each example that cannot be read.
    """

    name: str
    kind: str
    split: str
    labels: tuple[str, ...]
    skipped: list[tuple[str, str]]

    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...

    def all_labels(self) -> np.ndarray:
        """Returns the label of every example, in order, without decoding images; empty for text."""
        ...


def open_split(
    config: Config, split: str, *, name: str | None = None, path: str | None = None, data_dir: str | None = None
) -> Source:
    """Opens a split of the data set of `config.data`, or of another one of the same modality.

    Args:
      split: A split, which may be sliced: `train[:99%]`.
      name: Another data set, instead of `config.data.name`. `config.data.path` and `config.data.label` then do not
        apply.
      path: Another root folder, instead of `config.data.path`.
      data_dir: Another folder of prepared sets, instead of `config.data.data_dir`.

    If the name is an import path, it names a function `open_split(config, split) -> Source`; `name`, `path` and
    `data_dir` are set in the config that it receives.

    Raises:
      UserError: The data set or the split cannot be opened; the message names what is missing and how to get it.
    """
    from vit_jax.config import extensions

    data = config.data
    chosen: str = name or data.name
    is_same = chosen == data.name
    path = path or (data.path if is_same else None)
    data_dir = data_dir or data.data_dir
    if extensions.is_import_path(chosen):
        return _open_imported(config, split, chosen, path, data_dir)
    if chosen in ROOTS and not path:
        raise UserError(f"data set {chosen!r} needs config.data.path: {ROOTS[chosen]}")
    if chosen == "text" and len(data.languages) != 2:
        raise UserError(
            f"config.data.languages must name two languages, such as en,it, got {','.join(map(str, data.languages))!r}"
        )
    return open_source(
        chosen,
        split,
        path=path,
        data_dir=data_dir,
        strict=data.strict,
        label=data.label if is_same else None,
        frames_fps=data.frames_fps,
        languages=tuple(data.languages),
    )


def _open_imported(config: Config, split: str, name: str, path: str | None, data_dir: str | None) -> Source:
    from vit_jax.config import extensions

    is_same = name == config.data.name
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update({"name": name, "path": path, "data_dir": data_dir})
    extra = extensions.extra_fields(config.data, "config.data", ours=("config", "split")) if is_same else {}
    function = extensions.load_object(name, "config.data.name")
    source = extensions.construct(function, {"config": config, "split": split, **extra}, "config.data", name)
    wanted = ("name", "kind", "split", "labels", "skipped", "__len__", "__getitems__", "all_labels")
    missing = [attribute for attribute in wanted if not hasattr(source, attribute)]
    if missing:
        raise UserError(
            f"config.data.name={name!r} returned a {type(source).__name__} without {', '.join(missing)}. It must "
            "return a vit_jax.data.source.Source"
        )
    return source


def open_source(
    name: str,
    split: str,
    *,
    path: str | None = None,
    data_dir: str | None = None,
    strict: bool = False,
    label: str | None = None,
    frames_fps: float = 30.0,
    languages: Sequence[str] = ("en", "it"),
) -> Source:
    """Opens one split of a data set by its short name. See `open_split` for import paths.

    Args:
      split: A split, which may be sliced as in TFDS: `train[:99%]`.
      path: Root folder of "folder", "video" and "text".
      data_dir: Folder of prepared sets; default `$TFDS_DATA_DIR`, then `~/tensorflow_datasets`.
      strict: Refuse a folder with images or clips that cannot be read, instead of skipping and listing them.
      label: The feature of a TFDS set that holds the labels, if it has several.
      frames_fps: Frames per second of folders of frames ("video" only).
      languages: Source and target language ("text" only).

    Small sets of equally sized images stay decoded in memory. Sets drawn from scikit-learn's digits are prepared on
    first use, which takes seconds and no network; all others must have been prepared.

    Raises:
      UserError: The data set or the split cannot be opened; the message names what is missing and how to get it.
    """
    if name in ROOTS and not path:
        raise UserError(f"data set {name!r} needs a path: {ROOTS[name]}")
    if path and name not in ROOTS:
        raise UserError(f"only 'folder', 'video' and 'text' are read from a path, not {name!r}: remove the path")
    if name == "folder":
        from vit_jax.data.image.folder import FolderSource

        return in_memory_if_small(FolderSource(path or "", split, strict=strict))
    if name == "video":
        from vit_jax.data.video.source import VideoSource

        return VideoSource(path or "", split, strict=strict, frames_fps=frames_fps)
    if name == "text":
        from vit_jax.data.text.source import open_text

        return open_text(path or "", split, languages)
    from vit_jax.data.sets.tfds import TfdsSource, directory_of

    return in_memory_if_small(TfdsSource(name, split, directory_of(name, data_dir), label))


def in_memory_if_small(source: Any) -> Source:
    """Keeps a source decoded in memory if its images have one size and fit into `IN_MEMORY_BYTES`."""
    if source.image_shape is None or len(source) * int(np.prod(source.image_shape)) > IN_MEMORY_BYTES:
        return source
    return InMemory(source)


class Wrapped:
    """A source that changes something about another one; what it does not define is that of the other source."""

    def __init__(self, source: Any):
        self._source, self.kind, self.labels = source, source.kind, source.labels
        self.name, self.split, self.skipped = source.name, source.split, source.skipped

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(self._source, attribute)

    def __len__(self) -> int:
        return len(self._source)

    def all_labels(self) -> np.ndarray:
        return self._source.all_labels()


class InMemory(Wrapped):
    """Keeps each image decoded after its first use. Pickling drops the images, so that workers read for themselves."""

    in_memory = True  # so that reading needs no workers

    def __init__(self, source: Any):
        super().__init__(source)
        self._clear()

    def _clear(self) -> None:
        self._pixels = np.empty((len(self._source), *self._source.image_shape), np.uint8)
        # An entry is set after its pixels, so that other threads never see a half-read example.
        self._rest: list[dict[str, Any] | None] = [None] * len(self._source)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_pixels", "_rest")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        missing = sorted({index for index in indices if self._rest[index] is None})
        for index, example in zip(missing, self._source.__getitems__(missing), strict=True):
            self._pixels[index] = np.asarray(example.pop("image"))
            self._rest[index] = example
        return [{"image": Image.fromarray(self._pixels[index]), **(self._rest[index] or {})} for index in indices]


class Relabelled(Wrapped):
    """The examples of a source with its classes numbered as in `labels`, which has the same names in another order."""

    def __init__(self, source: Any, labels: Sequence[str]):
        super().__init__(source)
        self.labels = tuple(labels)
        self._new = np.array([self.labels.index(name) for name in source.labels])  # by the source's own number

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {**example, "label": int(self._new[example["label"]])} for example in self._source.__getitems__(indices)
        ]

    def all_labels(self) -> np.ndarray:
        return self._new[self._source.all_labels()]

    def class_counts(self) -> list[int]:
        return np.bincount(self.all_labels(), minlength=len(self.labels)).tolist()


def in_order_of(labels: Sequence[str], source: Any) -> Any:
    """Returns a source with its classes in the order of a checkpoint, if this has the same names, sorted as text.

    Checkpoints of earlier versions have numeric class folders in this order: 0, 1, 10, 2. Any other difference is left
    for `modality.check_labels` to refuse.
    """
    as_text = tuple(sorted(source.labels))
    return Relabelled(source, labels) if tuple(labels) == as_text != tuple(source.labels) else source


class Subset:
    """The examples of a source at `indices`, in this order; their ids do not change."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source, self._indices, self.kind = source, np.asarray(indices), source.kind
        self.name, self.split, self.labels, self.skipped = source.name, source.split, source.labels, source.skipped

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self._source.__getitems__(self._indices[list(indices)].tolist())

    def all_labels(self) -> np.ndarray:
        return self._source.all_labels()[self._indices]
