"""A folder of images with one sub-folder per class, read as it is: nothing is converted."""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.image.reading import DANGLING, opened, stored_image, true_levels
from vit_jax.data.layout import class_names, dangling_links, folder_of, named, recognised, split_folders
from vit_jax.data.scan import Record, cached_manifest, file_states, list_classes, read_records, walk, write_records
from vit_jax.data.splits import choose, parse_split
from vit_jax.errors import UserError

IGNORED = ("Thumbs.db", "desktop.ini")


class FolderSource:
    """The images in the class folders under `path`; see `layout` for the order of the classes.

    If `path` contains folders with the usual names of splits (`layout.SPLITS`), these are the splits, and the classes
    are those of `train`. Otherwise the whole folder is the split `train`, which can be sliced: `train[:80%]` and
    `train[80%:]`. Slices are taken from a fixed shuffled order, because the sorted order is grouped by class; several
    are joined by `+`. An example's id is its position among all sorted files of its split, whatever the slice. Class
    folders are searched to any depth; hidden files are ignored.

    Opening a folder decodes every file once, to find truncated files and files that are not images. The result is kept
    in `$XDG_CACHE_HOME/vit_jax` (`~/.cache/vit_jax`) and used for as long as a file's size and modification time stay
    the same. Unreadable files are skipped and listed in `skipped`.

    Raises:
      UserError: The split does not exist or has no readable images, `train` lacks a class of another split, or `strict`
        is set and a file is unreadable.
    """

    name = "folder"
    kind = "image"

    def __init__(self, path: str | Path, split: str, *, strict: bool = False):
        self.path = Path(path).expanduser()
        self.split = split
        if not self.path.is_dir():
            raise UserError(f"{self.path} is not a folder")
        folders = split_folders(self.path)
        slices = parse_split(split)
        folder = folder_of(self.path, slices[0].base, folders)
        self.recognised = recognised(self.path, slices[0].base, folder)
        self.labels = class_names(folders, folder)
        self.files, self._classes = list_classes(folder, self.labels, find_images)
        if not self.files:
            raise UserError(f"{folder} has no images in its class folders {named(self.labels)}")
        found = scan(folder, self.files)
        self.skipped = [(record.path, record.detail) for record in found if not record.is_usable]
        self.skipped += [(name, DANGLING) for name in dangling_links(folder)]
        if strict and self.skipped:
            file, reason = self.skipped[0]
            raise UserError(
                f"{folder} has {len(self.skipped)} unreadable files, the first {file} ({reason}). Repair or remove "
                "them, or unset strict to skip them"
            )
        self._folder = folder
        self._ids = [index for index in choose(len(self.files), slices) if found[index].is_usable]
        if not self._ids:
            raise UserError(f"{folder}: split {split!r} has no readable images ({len(self.skipped)} skipped)")
        self.image_formats = Counter((found[i].width, found[i].height, found[i].mode) for i in self._ids)
        self.image_shape = _common_shape(self.image_formats)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._read(self._ids[index]) for index in indices]

    def path_of(self, index: int) -> Path:
        """Returns the file of the example at `index`."""
        return self._folder / self.files[self._ids[index]]

    def _read(self, example_id: int) -> dict[str, Any]:
        path = os.path.join(self._folder, self.files[example_id])
        image = stored_image(path, f"{path} was readable when the folder was opened, but no longer is")
        return {"image": image, "label": self._classes[example_id], "id": example_id}

    def class_counts(self) -> list[int]:
        """Returns the number of readable examples of each class."""
        return np.bincount(self.all_labels(), minlength=len(self.labels)).tolist()

    def all_labels(self) -> np.ndarray:
        return np.array([self._classes[index] for index in self._ids])


def find_images(class_folder: Path) -> Iterator[str]:
    """Yields every file below a folder that may be an image; only decoding can tell."""
    for parent, _, files in walk(class_folder):
        yield from (os.path.join(parent, file) for file in files if file not in IGNORED)


def scan(folder: Path, files: list[str]) -> list[Record]:
    """Returns a record of each file; decodes the files that are new or changed since the last scan."""
    manifest = cached_manifest("images", folder)
    known: dict[str, Record] = {}
    with contextlib.suppress(OSError, UserError):  # not scanned yet, or the cache is damaged
        known = read_records(manifest)
    now = dict(zip(files, file_states(folder, files), strict=True))
    changed = [file for file in files if file not in known or not known[file].is_current(now[file])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examined = pool.map(lambda file: examine(folder / file), changed)
        for file, record in zip(changed, _with_progress(examined, len(changed), folder), strict=True):
            size, modified = now[file] or (0, 0)
            known[file] = record._replace(path=file, bytes=size, modified=modified)
    found = [known[file] for file in files]
    if changed:
        with contextlib.suppress(OSError):  # if the cache is not writable, the next opening scans again
            write_records(manifest, found)
    return found


def examine(path: Path) -> Record:
    """Decodes an image completely. JPEGs are decoded at an eighth of their size, which still reads the whole file."""
    try:
        with opened(path) as image:
            (width, height), mode = image.size, image.mode
            image.draft(None, (1, 1))
            image.load()
            true_levels(image)
            return Record(str(path), width=width, height=height, mode=mode)
    except UserError as error:
        return Record(str(path), status="unreadable", detail=str(error))


def _with_progress(records: Iterator[Record], total: int, folder: Path) -> Iterator[Record]:
    for done, record in enumerate(records, 1):
        if done % 1000 == 0:
            print(f"checking {folder}: {done:,} of {total:,} files", file=sys.stderr)
        yield record


def _common_shape(formats: Iterable[tuple[int, int, str]]) -> tuple[int, ...] | None:
    """Returns (height, width) or (height, width, 3) if all images are alike, 8-bit and grey or RGB, else None."""
    (width, height, mode), *others = formats
    if others or mode not in ("L", "RGB"):
        return None
    return (height, width) if mode == "L" else (height, width, 3)
