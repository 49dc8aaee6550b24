"""Scanning a folder: one walk over its class folders, and one manifest of what is known about each file.

Images and clips use the same `Record` and the same CSV format. They differ in when files are examined and where the
manifest is kept: images are decoded when the folder is first opened, and their manifest is kept in the user's cache;
clips are decoded by `python -m vit_jax data check`, which writes `manifest.csv` into the folder.
"""

import csv
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from vit_jax.errors import UserError

MANIFEST = "manifest.csv"
USABLE = ("ok", "variable-rate", "few-frames")
BROKEN = ("truncated", "empty", "audio-only", "unreadable", "missing")
THREADS = 16  # they overlap the latency of network file systems; on a local disk one thread is about as fast
CHUNK = 1000  # files that one thread looks up at a time

FileState = tuple[
    int, float
]  # the size of a file in bytes and its modification time: `Record.bytes`, `Record.modified`


class Record(NamedTuple):
    """What is known about an image or a clip: a row of the manifest.

    Attributes:
      path: Path relative to the scanned folder, or as given in a list of clips.
      frames: Number of frames that can be decoded; 0 for an image.
      fps, seconds: Average frames per second, and length. Both are 0 for images and folders of frames.
      width, height: Size in pixels; for a clip, after rotation to upright.
      status: One of `USABLE` or `BROKEN`.
      detail: What is wrong, in words.
      bytes: Size of the file when it was decoded; 0 for a folder of frames.
      modified: Modification time when it was decoded, in seconds since 1970.
      mode: Pillow's mode of an image, such as "RGB"; empty for a clip.
    """

    path: str
    frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    status: str = "ok"
    detail: str = ""
    bytes: int = 0
    modified: float = 0
    mode: str = ""

    def is_current(self, found: FileState | None) -> bool:
        """Whether the file is still as it was decoded, or still missing if `found` is None.

        A time without a fraction matches any time within its second, because copying a data set often drops fractions.
        """
        size, modified = found or (0, 0)
        return self.bytes == size and self.modified in (modified, int(modified))

    def length(self, frames_fps: float) -> float:
        """Returns the length in seconds; `frames_fps` is the rate of folders of frames."""
        return self.seconds if self.bytes else self.frames / frames_fps

    @property
    def is_usable(self) -> bool:
        return self.status in USABLE

    @property
    def reason(self) -> str:
        """Status and detail, for messages."""
        return f"{self.status}: {self.detail}" if self.detail else self.status


def walk(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Like `os.walk`, but follows links and leaves out hidden files and folders.

    Raises:
      UserError: A folder cannot be read, or is a link to a folder that contains it.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"{error.filename} cannot be read ({error.strerror})")

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in folders:
            _check_link(os.path.join(parent, name), str(folder))
        yield parent, folders, [name for name in files if name[0] != "."]


def _check_link(folder: str, root: str) -> None:
    """Raises UserError if `folder` is a link to one of the folders through which the walk from `root` came to it."""
    if os.path.islink(folder):
        target, parent = os.path.realpath(folder), folder
        while parent != root:
            parent = os.path.dirname(parent)
            if os.path.realpath(parent) == target:
                raise UserError(f"{folder} is a link to {parent}, which contains it: remove the link")


def list_classes(
    folder: Path, labels: Sequence[str], find: Callable[[Path], Iterable[str]]
) -> tuple[list[str], list[int]]:
    """Finds the examples of the classes `labels`, each in its own folder; several folders are searched at a time.

    Args:
      find: Yields the paths of the examples below a class folder, each beginning with the path of the folder.

    Returns:
      Paths relative to `folder`, sorted by class (as text) and path, and the number of the class of each. The order is
      that of the ids and of slices, and does not depend on the order of `labels`.
    """

    def relative(label: str) -> list[str]:
        start = len(str(folder / label))
        return sorted(label + path[start:] for path in find(folder / label))

    ordered = sorted(labels)
    with ThreadPoolExecutor(THREADS) as pool:
        files = list(pool.map(relative, ordered))
    number_of = {label: number for number, label in enumerate(labels)}
    numbers = [number_of[label] for label, found in zip(ordered, files, strict=True) for _ in found]
    return list(itertools.chain.from_iterable(files)), numbers


def file_state(path: str | Path) -> FileState | None:
    """Returns the size and the modification time of a file, or None if it does not exist. A folder has size 0."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return 0 if stat.S_ISDIR(found.st_mode) else found.st_size, found.st_mtime


def file_states(folder: Path, files: Sequence[str]) -> list[FileState | None]:
    """Returns the state of each file, given relative to `folder`; several files are looked up at a time."""

    def look_up(start: int) -> list[FileState | None]:
        return [file_state(os.path.join(folder, file)) for file in files[start : start + CHUNK]]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(itertools.chain.from_iterable(pool.map(look_up, range(0, len(files), CHUNK))))


def read_records(file: Path) -> dict[str, Record]:
    """Reads a manifest; returns its records by path.

    Raises:
      UserError: The file is not a manifest.
      OSError: The file cannot be read.
    """
    columns, without_mode = list(Record._fields), list(Record._fields[:-1])
    records: dict[str, Record] = {}
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines)
        try:
            header = next(reader, [])
            if header not in (columns, without_mode):  # checks before there was `mode` wrote the latter
                raise UserError(f"{file} lacks the columns {', '.join(without_mode)}: move it away and check again")
            for row in reader:
                if row:
                    record = _parse(row, len(header))
                    records[record.path] = record
        except (ValueError, csv.Error):
            raise UserError(
                f"{file} line {reader.line_num} is not a record: move the file away and check again"
            ) from None
    return records


def _parse(row: list[str], columns: int) -> Record:
    if len(row) != columns:
        raise ValueError(f"{len(row)} columns")
    path, frames, fps, seconds, width, height, status, detail, size, modified, *mode = row
    if status not in USABLE + BROKEN:
        raise ValueError(status)
    time = float(modified) if "." in modified else int(modified)
    return Record(
        path, int(frames), float(fps), float(seconds), int(width), int(height), status, detail, int(size), time, *mode
    )


def write_records(file: Path, records: Iterable[Record]) -> None:
    """Writes a manifest, sorted by path; it replaces the file only once it is complete.

    Raises:
      OSError: The file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as output:
            writer = csv.writer(output, lineterminator="\n")
            writer.writerow(Record._fields)
            ordered = sorted(records, key=lambda record: record.path)
            writer.writerows(ordered)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def cached_manifest(name: str, folder: Path) -> Path:
    """Returns the manifest of a folder in the user's cache, `$XDG_CACHE_HOME/vit_jax` or `~/.cache/vit_jax`.

    Args:
      name: The kind of data set: "images" or "video".
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return cache / "vit_jax" / f"{name}-{digest}.csv"


def manifest_files(folder: Path) -> tuple[Path, Path]:
    """Returns the two places for the manifest of a folder of clips: in the folder, or else in the user's cache."""
    return folder / MANIFEST, cached_manifest("video", folder)


def read_manifest(folder: Path) -> dict[str, Record]:
    """Returns the records of a folder of clips by path, or an empty dict if it has not been checked.

    If there is a manifest in both places, their records are merged; the newer manifest wins.

    Raises:
      UserError: A file called `manifest.csv` is not a manifest.
    """
    found = [file for file in manifest_files(folder) if file.is_file()]
    records: dict[str, Record] = {}
    for file in sorted(found, key=lambda file: file.stat().st_mtime_ns):
        records |= read_records(file)
    return records


def write_manifest(folder: Path, records: Iterable[Record]) -> Path:
    """Writes the manifest of a folder of clips, to the user's cache if the folder is read-only; returns its path."""
    inside, cached = manifest_files(folder)
    file = inside if os.access(folder, os.W_OK) else cached
    write_records(file, records)
    return file
