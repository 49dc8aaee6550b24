"""What `python -m vit_jax data check` has found out about each clip of a folder: `manifest.csv`."""

import csv
import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError

MANIFEST = "manifest.csv"
USABLE = ("ok", "variable-rate", "few-frames")
BROKEN = ("truncated", "empty", "audio-only", "unreadable", "missing")


@dataclasses.dataclass(frozen=True)
class Record:
    """A line of the manifest.

    Attributes:
      path: As in the list, or relative to the folder that is checked.
      frames, fps, seconds: Frames that can be decoded, frames a second on average, and length; of a folder of frames
        the last two are 0, as it does not say them.
      width, height: In pixels, upright.
      status: One of `USABLE` or `BROKEN`.
      detail: What is wrong.
      bytes, modified: Size of the file and time of its last change, in seconds since 1970, when it was decoded; of a
        folder of frames 0 and the folder's own time.
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
    modified: int = 0

    def is_of(self, stamp: tuple[int, int] | None) -> bool:
        """Whether it tells of the file as it is now: of the same size and time, or still missing."""
        return (self.bytes, self.modified) == (stamp or (0, 0))

    def length(self, frames_fps: float) -> float:
        """In seconds, where folders of frames have `frames_fps` frames a second."""
        return self.seconds if self.bytes else self.frames / frames_fps

    @property
    def is_usable(self) -> bool:
        return self.status in USABLE

    @property
    def reason(self) -> str:
        """Status and detail, for people."""
        return f"{self.status}: {self.detail}" if self.detail else self.status


FIELDS: dict[str, Any] = {**{field.name: type(field.default) for field in dataclasses.fields(Record)}, "path": str}


def stamp(path: Path) -> tuple[int, int] | None:
    """Returns a record's `bytes` and `modified`, or None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return 0 if stat.S_ISDIR(found.st_mode) else found.st_size, int(
        found.st_mtime
    )  # copies keep no fractions of a second


def read_manifest(folder: Path) -> dict[str, Record]:
    """Returns the records by path; none if the folder has not been checked.

    Where there is a manifest at either place, both count, and of two records of a clip that of the newer file.

    Raises `UserError` if a manifest is not one of ours.
    """
    found = [file for file in manifest_files(folder) if file.is_file()]
    records: dict[str, Record] = {}
    for file in sorted(found, key=lambda file: file.stat().st_mtime_ns):
        records |= _read(file)
    return records


def write_manifest(folder: Path, records: Iterable[Record]) -> Path:
    """Writes all records in the order of their paths, at once or not at all; returns where."""
    beside, elsewhere = manifest_files(folder)
    file = beside if os.access(folder, os.W_OK) else elsewhere
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as output:
            writer = csv.DictWriter(output, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(dataclasses.asdict(record) for record in sorted(records, key=lambda record: record.path))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def manifest_files(folder: Path) -> tuple[Path, Path]:
    """Where a manifest is: in the folder, or if that cannot be written, among the user's caches."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return folder / MANIFEST, cache / "vit_jax" / f"video-{digest}.csv"


def _read(file: Path) -> dict[str, Record]:
    records = {}
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        reader = csv.DictReader(lines)
        if list(reader.fieldnames or ()) != list(FIELDS):
            raise UserError(f"{file} has not the columns {', '.join(FIELDS)}: move it away and check again")
        for row in reader:
            try:
                record = Record(**{name: kind(row[name]) for name, kind in FIELDS.items()})
                if record.status not in USABLE + BROKEN:
                    raise ValueError(record.status)
            except (TypeError, ValueError):
                raise UserError(
                    f"{file} line {reader.line_num} is no record of a clip: move the file away and check again"
                ) from None
            records[record.path] = record
    return records
