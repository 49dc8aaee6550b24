"""A folder of images as it is: one sub-folder per class, or `train/` and `val/` above them; nothing is converted."""

import dataclasses
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.errors import UserError, nearest

SPLITS = {"train": ("train",), "val": ("val", "validation"), "validation": ("validation", "val"), "test": ("test",)}
IGNORED = ("Thumbs.db", "desktop.ini")
SHUFFLE_SEED = 0  # of slices: part of the meaning of `train[:80%]`, never to be changed


@dataclasses.dataclass(frozen=True)
class Scanned:
    """What the scan found out about a file: the image's size in pixels and mode, or why it cannot be read."""

    width: int = 0
    height: int = 0
    mode: str = ""
    problem: str = ""


class FolderSource:
    """The images under `path`, whose sub-folders are the classes, in alphabetical order.

    With `train/`, `val/` (or `validation/`) or `test/` at the first level these are the splits, and the classes are
    those of all splits together. Else the whole folder is `train`, to be sliced: `train[:80%]` and `train[80%:]`. A
    slice takes from a fixed shuffled order, for the sorted one has a class after the other; several are joined by `+`.
    An example's id is its place among all the sorted files of its split, whatever the slice; class folders are
    searched to any depth, hidden files ignored.

    Opening decodes every file once, to find those that are truncated or no images. What is found is kept in
    `$XDG_CACHE_HOME/vit_jax` (`~/.cache/vit_jax`) for as long as a file's size and time stay. Unreadable files are
    skipped and listed in `skipped`; with `strict` they raise `UserError`, as does always a missing split, one without
    images, and a class that `train` has not.
    """

    name = "folder"
    kind = "image"

    def __init__(self, path: str | Path, split: str, *, strict: bool = False):
        self.path = Path(path).expanduser()
        self.split = split
        if not self.path.is_dir():
            raise UserError(f"{self.path} is not a folder")
        folders = split_folders(self.path)
        parts = [parse_split(part) for part in split.split("+")]
        bases = {base for base, _, _ in parts}
        if len(bases) > 1:
            raise UserError(
                f"split {split!r}: a folder's ids count within one split; read {' and '.join(sorted(bases))} apart"
            )
        folder = folder_of(self.path, bases.pop(), folders)
        self.labels = class_names(folders)
        self.files, self._classes = _list_files(folder, self.labels)
        if not self.files:
            raise UserError(f"{folder} has no images in its class folders {', '.join(self.labels)}")
        found = scan(folder, self.files)
        self.skipped = [(file, item.problem) for file, item in zip(self.files, found, strict=True) if item.problem]
        if strict and self.skipped:
            file, reason = self.skipped[0]
            raise UserError(
                f"{folder}: {len(self.skipped)} unreadable files, the first {file} ({reason}): mend or remove them"
            )
        self._folder = folder
        self._ids = [index for index in chosen_from(len(self.files), parts) if not found[index].problem]
        if not self._ids:
            raise UserError(f"{folder}: split {split!r} has no readable image ({len(self.skipped)} skipped)")
        self.kinds = Counter((found[i].width, found[i].height, found[i].mode) for i in self._ids)
        self.image_shape = _common_shape(self.kinds)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._read(self._ids[index]) for index in indices]

    def _read(self, example_id: int) -> dict[str, Any]:
        path = self._folder / self.files[example_id]
        try:
            with Image.open(path) as image:
                image.load()
                return {"image": image.copy(), "label": self._classes[example_id], "id": example_id}
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path} was readable when the folder was opened and is not now ({error})") from None

    def class_counts(self) -> list[int]:
        """How many readable examples each class has."""
        return np.bincount(self.all_labels(), minlength=len(self.labels)).tolist()

    def all_labels(self) -> np.ndarray:
        return np.array([self._classes[index] for index in self._ids])


def split_folders(path: Path) -> dict[str, Path]:
    """Returns the folders of the splits by name; `{"train": path}` if the classes are at the first level."""
    found = {entry.name: entry for entry in _subfolders(path) if entry.name in SPLITS}
    if "train" in found or (found and len(found) == len(_subfolders(path))):
        return found
    return {"train": path}


def class_names(folders: dict[str, Path]) -> tuple[str, ...]:
    """The sorted names of the class folders; those of `train` must include those of the other splits.

    Raises `UserError` if there are none, or if another split has a class that `train` has not, which no training could
    learn. A class missing elsewhere is no mistake: its number stays.
    """
    names = {split: {entry.name for entry in _subfolders(folder)} for split, folder in folders.items()}
    for split, folder in folders.items():
        if not names[split]:
            raise UserError(f"{folder} has no sub-folders: one per class is wanted, such as {folder / 'cat' / 'a.jpg'}")
    known = names.get("train") or set().union(*names.values())
    for split, present in names.items():
        if extra := sorted(present - known):
            raise UserError(f"{folders[split]} has classes that {folders['train']} has not: {', '.join(extra)}")
    return tuple(sorted(known))


def missing_classes(path: str | Path) -> dict[str, list[str]]:
    """The classes that each split lacks, for those that lack any."""
    folders = split_folders(Path(path).expanduser())
    known = class_names(folders)
    lacks = {split: sorted(set(known) - {e.name for e in _subfolders(folder)}) for split, folder in folders.items()}
    return {split: names for split, names in lacks.items() if names}


def parse_split(split: str) -> tuple[str, str, str]:
    """Splits `train[10%:90%]` into ("train", "10%", "90%"), with "" for both ends if it is not sliced."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\])?\s*", split)
    if match is None:
        raise UserError(f"split {split!r} is not of the form train, train[:80%] or train[100:200]")
    return (match[1], match[2] or "0", match[3] or "100%") if "[" in split else (match[1], "", "")


def chosen_from(count: int, parts: list[tuple[str, str, str]]) -> list[int]:
    if parts[0][1:] == ("", "") and len(parts) == 1:
        return list(range(count))
    order = np.random.Generator(np.random.PCG64(SHUFFLE_SEED)).permutation(count)
    taken = [order[_bound(low or "0", count) : _bound(high or "100%", count)] for _, low, high in parts]
    return np.concatenate(taken).tolist()


def _bound(text: str, count: int) -> int:
    """An end of a slice as a position; percents are rounded to the nearest, as in TFDS."""
    position = round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)
    return max(0, min(count, position + count if position < 0 else position))


def folder_of(path: Path, split: str, folders: dict[str, Path]) -> Path:
    for name in SPLITS.get(split, (split,)):
        if name in folders:
            return folders[name]
    if folders == {"train": path}:
        raise UserError(
            f"{path} has no split {split!r}: its classes are at the first level, so slice train: train[80%:]"
        )
    raise UserError(f"{path} has no split {split!r}{nearest(split, folders)}")


def _subfolders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _list_files(folder: Path, labels: tuple[str, ...]) -> tuple[list[str], list[int]]:
    files: list[str] = []
    classes: list[int] = []
    for number, label in enumerate(labels):
        inside = sorted(_walk(folder / label))
        files += [os.path.relpath(file, folder) for file in inside]
        classes += [number] * len(inside)
    return files, classes


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, file) for file in files if file[0] != "." and file not in IGNORED)


def scan(folder: Path, files: list[str]) -> list[Scanned]:
    """Decodes every file that has changed since the last scan, and remembers the outcome."""
    manifest = _manifest_path(folder)
    known = _read_manifest(manifest)
    stats = [os.stat(folder / file) for file in files]
    stamps = [f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats]
    unknown = [index for index, file in enumerate(files) if known.get(file, ("",))[0] != stamps[index]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examined = pool.map(lambda index: examine(folder / files[index]), unknown)
        for index, item in zip(unknown, _with_progress(examined, len(unknown), folder), strict=True):
            known[files[index]] = (stamps[index], *dataclasses.astuple(item))
    if unknown:
        _write_manifest(manifest, {file: known[file] for file in files})
    return [Scanned(*known[file][1:]) for file in files]


def examine(path: Path) -> Scanned:
    """Decodes an image to the last byte; JPEGs at an eighth of their size, which still reads all of the file."""
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
            image.draft(None, (1, 1))
            image.load()
            return Scanned(*size, mode)
    except Exception as error:  # Pillow's plugins raise what they like on damaged files
        return Scanned(
            problem="not an image" if "cannot identify" in str(error) else str(error) or type(error).__name__
        )


def _with_progress(items: Iterator[Scanned], total: int, folder: Path) -> Iterator[Scanned]:
    for done, item in enumerate(items, 1):
        if done % 1000 == 0:
            print(f"checking {folder}: {done:,} of {total:,} files", file=sys.stderr)
        yield item


def _manifest_path(folder: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "vit_jax" / f"folder-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _write_manifest(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content))
        partial.replace(path)
    except OSError:
        pass  # a home that cannot be written costs a scan each time, no more


def _common_shape(kinds: Iterable[tuple[int, int, str]]) -> tuple[int, ...] | None:
    """(height, width) or (height, width, 3) if all images are alike, 8-bit and grey or RGB."""
    (width, height, mode), *others = kinds
    if others or mode not in ("L", "RGB"):
        return None
    return (height, width) if mode == "L" else (height, width, 3)
