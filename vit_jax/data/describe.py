"""What is in a data set: splits, classes, image sizes, files. Behind `python -m vit_jax data info`."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax.data import sources
from vit_jax.data.image import folder
from vit_jax.data.sources import Source
from vit_jax.data.text import source as text
from vit_jax.data.video.decode import Video

QUICK_BYTES = 2**30  # sets above it are read in full only when asked to
SAMPLE = 200


def describe(name: str, *, path: str | None = None, data_dir: str | None = None, full: bool = False) -> dict[str, Any]:
    """Returns what is known about a data set, as JSON-compatible values.

    Class counts and checksums read the whole set; above 1 GiB they are left out (None, empty) unless `full`. Image
    sizes of sets that mix them are those of the first 200 examples, except in a folder, where all are known.
    """
    splits, root = _splits(name, path, data_dir)
    opened = {split: sources.open_source(name, split, path=path, data_dir=data_dir) for split in splits}
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
        "splits": {split: _describe_split(source, read_all) for split, source in opened.items()},
        "missing_classes": folder.missing_classes(root) if name == "folder" else {},
        "sha256": {file.name: sha256(file) for file in files} if read_all else {},
    }


def describe_text(path: str | Path, languages: Sequence[str] = ("en", "it")) -> dict[str, Any]:
    """Returns what is known about a folder of parallel text, as JSON-compatible values; see `text.open_text`."""
    root = Path(path).expanduser()
    names = text.text_splits(root, languages) if root.is_dir() else []
    opened = {split: text.open_text(root, split, languages) for split in names or ["train"]}  # which says what is wrong
    splits = {
        split: {
            "pairs": len(source),
            "characters": [sum(map(len, side)) for side in (source.sources, source.targets)],
            "skipped": source.skipped,
        }
        for split, source in opened.items()
    }
    return {"path": str(root), "languages": list(languages), "splits": splits}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _splits(name: str, path: str | None, data_dir: str | None) -> tuple[list[str], Path]:
    if name == "folder":
        root = Path(path or "").expanduser()
        known = (
            list(folder.split_folders(root)) if path and root.is_dir() else ["train"]
        )  # opening will say what is wrong
        return known, root
    directory = sources.directory_of(name, data_dir)
    return sources.split_names(directory), directory


def _describe_split(source: Source, read_all: bool) -> dict[str, Any]:
    known: Any = source
    return {
        "examples": len(source),
        "images": dict(_image_kinds(source).most_common(10)),
        "class_counts": known.class_counts() if read_all else None,
        "skipped": [list(entry) for entry in source.skipped],
    }


def _image_kinds(source: Source) -> Counter[str]:
    """Counts "width x height mode", of clips with their frames; all images of a folder, else of the first examples."""
    kinds: Any = getattr(source, "kinds", None)
    if kinds is None:
        examples = source.__getitems__(range(min(SAMPLE, len(source))))
        if source.kind == "video":
            return Counter(_clip_kind(example["video"]) for example in examples)
        images = [example["image"] for example in examples]
        kinds = Counter((image.width, image.height, image.mode) for image in images)
    return Counter({f"{width}x{height} {mode}": count for (width, height, mode), count in kinds.items()})


def _clip_kind(video: Video) -> str:
    (frame,) = video.read([0])
    return f"{video.num_frames} frames of {frame.width}x{frame.height} {frame.mode}"
