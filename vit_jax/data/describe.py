"""What a data set contains: splits, classes, image sizes, files. Behind `python -m vit_jax data info`."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax.data import source, splits
from vit_jax.data.sets import tfds
from vit_jax.data.source import Source
from vit_jax.data.text import source as text
from vit_jax.data.video.decode import Video

QUICK_BYTES = 2**30  # larger sets are read in full only on request
SAMPLE = 200


def describe(name: str, *, path: str | None = None, data_dir: str | None = None, full: bool = False) -> dict[str, Any]:
    """Returns what is known about a set of images or clips, as JSON-compatible values.

    Class counts and checksums need to read the whole set; above 1 GiB they are left out (None, and an empty dict)
    unless `full`. The sizes of the images are those of the first 200 examples, or of all images of a folder.
    """
    names, root = _splits(name, path, data_dir)
    opened = {split: source.open_source(name, split, path=path, data_dir=data_dir) for split in names}
    labels = next(iter(opened.values())).labels
    files = [] if name == "folder" else sorted(entry for entry in root.iterdir() if entry.is_file())
    size = sum(file.stat().st_size for file in files)
    read_all = full or size <= QUICK_BYTES
    return {
        "name": name,
        "path": str(root),
        "num_classes": len(labels),
        "classes": list(labels),
        "bytes": size if files else None,
        "splits": {split: _describe_split(found, read_all) for split, found in opened.items()},
        "missing_classes": splits.missing_classes(root) if name == "folder" else {},
        "sha256": {file.name: sha256(file) for file in files} if read_all else {},
    }


def describe_text(path: str | Path, languages: Sequence[str] = ("en", "it")) -> dict[str, Any]:
    """Returns what is known about a folder of parallel text (see `open_text`), as JSON-compatible values."""
    root = Path(path).expanduser()
    names = text.text_splits(root, languages) if root.is_dir() else []
    opened = {split: text.open_text(root, split, languages) for split in names or ["train"]}  # raises if there is none
    described = {
        split: {
            "pairs": len(found),
            "characters": [sum(map(len, side)) for side in (found.sources, found.targets)],
            "skipped": found.skipped,
        }
        for split, found in opened.items()
    }
    return {"path": str(root), "languages": list(languages), "splits": described}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _splits(name: str, path: str | None, data_dir: str | None) -> tuple[list[str], Path]:
    """Returns the splits of a data set, and its folder."""
    if name == "folder":
        root = Path(path or "").expanduser()
        is_there = path and root.is_dir()  # if it is not, opening it raises the appropriate error
        return list(splits.split_folders(root)) if is_there else ["train"], root
    directory = tfds.directory_of(name, data_dir)
    return tfds.split_names(directory), directory


def _describe_split(opened: Source, read_all: bool) -> dict[str, Any]:
    known: Any = opened
    return {
        "examples": len(opened),
        "images": dict(_image_formats(opened).most_common(10)),
        "class_counts": known.class_counts() if read_all else None,
        "skipped": [list(entry) for entry in opened.skipped],
    }


def _image_formats(opened: Source) -> Counter[str]:
    """Counts images by "width x height mode", and clips likewise: all of a folder, or else the first examples."""
    formats: Any = getattr(opened, "image_formats", None)
    if formats is None:
        examples = opened.__getitems__(range(min(SAMPLE, len(opened))))
        if opened.kind == "video":
            return Counter(_clip_format(example["video"]) for example in examples)
        images = [example["image"] for example in examples]
        formats = Counter((image.width, image.height, image.mode) for image in images)
    return Counter({f"{width}x{height} {mode}": count for (width, height, mode), count in formats.items()})


def _clip_format(video: Video) -> str:
    (frame,) = video.read([0])
    return f"{video.num_frames} frames of {frame.width}x{frame.height} {frame.mode}"
