"""Lists of clips: `SPLIT.csv`, `.txt` or `.tsv` with one clip per line, as in Kinetics and Something-Something.

The dialect of a list (separator, columns) is recognised from its first lines by `dialects.py`; class names and numbers
are resolved here.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from vit_jax.data.layout import SPLITS, candidates, named, split_of
from vit_jax.data.video.dialects import Dialect, Line, is_number, read_lines, texts
from vit_jax.errors import UserError, nearest

SUFFIXES = (".csv", ".txt", ".tsv")
UCF101 = "classInd.txt"
NAMES = ("labels.txt", "labels.json", UCF101)  # files that may have the names of the classes, preferred first
_JSON = 'a list of names, or {"name": number} with consecutive numbers from 0 or 1'


class ClipEntry(NamedTuple):
    """A clip of a split, not yet opened: a file or a folder of frames, its class, and a part of it in seconds."""

    file: str  # as in the list, or relative to the folder of the split
    label: int
    start: float = 0.0
    end: float = math.inf

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end == math.inf


class Classes(NamedTuple):
    """The classes of the lists of a folder: their names, the number of the first one, and the file they are from."""

    names: tuple[str, ...]
    first: int
    source: str


class Entries(NamedTuple):
    """A list as read: its clips in order, the class names, and what was recognised, for people to read."""

    clips: list[ClipEntry]
    labels: tuple[str, ...]
    recognised: str


def list_file(folder: Path, split: str) -> Path | None:
    """Returns the list of a split, or None. It may have any usual name of the split: see `layout.SPLITS`.

    Raises:
      UserError: There are several lists.
    """
    files = _files(folder)
    stems = {stem for stem, _ in files if stem == split or stem.lower() in SPLITS.get(split_of(stem), ())}
    chosen = candidates(split, stems)
    found = sorted(stem + suffix for stem, suffix in files if stem in chosen)
    if len(found) > 1:
        raise UserError(f"{folder} has several lists of split {split!r}, keep one: {named(found)}")
    return folder / found[0] if found else None


def list_splits(folder: Path) -> list[str]:
    """Returns the usual names of splits that have a list, in the order of `layout.SPLITS`."""
    stems = {stem for stem, _ in _files(folder)}
    return [stem for names in SPLITS.values() for stem in sorted(stems) if stem.lower() in names]


def _files(folder: Path) -> list[tuple[str, str]]:
    """Returns the files of a folder that may be lists, as (name, suffix)."""
    try:
        with os.scandir(folder) as entries:
            return [
                os.path.splitext(entry.name)
                for entry in entries
                if entry.name.endswith(SUFFIXES) and entry.is_file() and entry.name[0] != "."
            ]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from None


def read_entries(folder: Path, split: str) -> Entries:
    """Reads the list of a split.

    If every label is a whole number, labels are class numbers; otherwise they are class names. The classes are those in
    `labels.txt` (one name per line), `labels.json` (a list of names, or an object of names and numbers) or UCF101's
    `classInd.txt` (a number from 1 and a name per line) if there is one, else those of the list of `train`, or of the
    list itself if there is no `train`. Numbers count from 0, or from 1 if the file of names says so, or if the numbers
    in the list are from 1 to the number of names.

    Raises:
      UserError: There is no such list, a line cannot be read, or it is doubtful what the labels mean; the message names
        file and line, and says what to do.
    """
    file = list_file(folder, split)
    if file is None:
        raise UserError(f"{folder} has no list {split}.csv{nearest(split, list_splits(folder))}")
    lines, dialect = read_lines(file)
    train = file if split_of(split) == "train" else list_file(folder, "train") or file
    classes = _classes(folder, lines if train == file else read_lines(train)[0], train)
    labels = _numbered(lines, file, classes)
    clips = [ClipEntry(line.file, label, line.start, line.end) for line, label in zip(lines, labels, strict=True)]
    return Entries(clips, classes.names, _described(file, dialect, lines, classes))


def _described(file: Path, dialect: Dialect, lines: list[Line], classes: Classes) -> str:
    numbers = f"numbers from {classes.first}" if all(is_number(line.label) for line in lines) else "names"
    return f"{file.name} was read as {dialect.describe()}; labels are {numbers}, the classes those of {classes.source}"


def _classes(folder: Path, lines: list[Line], file: Path) -> Classes:
    """Returns the classes of the lists of a folder, given the lines of the list of `train`.

    Raises:
      UserError: The names cannot be read, or the numbers in the list do not say where they begin.
    """
    found = [name for name in NAMES if (folder / name).is_file()]
    numbers = {int(line.label) for line in lines if is_number(line.label)}
    are_numbers = all(is_number(line.label) for line in lines)
    if found:
        names, first = _read_names(folder / found[0])
        if first is None:
            first = int(are_numbers and min(numbers) == 1 and max(numbers) == len(names))
        return Classes(names, first, found[0])
    if not are_numbers:
        return Classes(tuple(sorted({line.label for line in lines})), 0, file.name)
    if min(numbers) == 1:
        raise UserError(
            f"{file}: its labels are numbers from 1 to {max(numbers)}, and it is doubtful whether they count from 0 or "
            f"1. Write labels.txt next to it, with one name per line: {max(numbers)} names if they count from 1, "
            f"{max(numbers) + 1} if class 0 has no clips"
        )
    return Classes(tuple(str(number) for number in range(max(numbers) + 1)), 0, file.name)


def _read_names(file: Path) -> tuple[tuple[str, ...], int | None]:
    """Returns the class names in a file, and the number of the first if the file says it."""
    first = None
    try:
        if file.name == UCF101:
            by_number = {int(number): name for number, name in (text.split(None, 1) for _, text in texts(file))}
            names, first = [by_number[index + 1] for index in range(len(by_number))], 1
        elif file.suffix == ".txt":
            names = [text for _, text in texts(file)]
        else:
            content = json.loads(file.read_text("utf-8-sig"))
            pairs = content.items() if isinstance(content, dict) else ((name, i) for i, name in enumerate(content))
            by_number = {int(number): str(name) for name, number in pairs}
            first = min(by_number, default=0) if isinstance(content, dict) else None
            names = [by_number[(first or 0) + index] for index in range(len(by_number))]
            if first not in (None, 0, 1):
                raise ValueError(first)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        form = "lines of a number from 1 and a name" if file.name == UCF101 else _JSON
        raise UserError(f"{file} must contain {form}") from None
    if not names:
        raise UserError(f"{file} is empty. It must contain one class name per line")
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise UserError(f"{file} names these classes more than once: {named(repeated)}")
    return tuple(names), first


def _numbered(lines: list[Line], file: Path, classes: Classes) -> list[int]:
    """Returns the class number of each line, from 0."""
    names, first, source = classes
    if all(is_number(line.label) for line in lines):
        labels = [int(line.label) - first for line in lines]
    else:
        numbers = {name: number for number, name in enumerate(names)}
        labels = [numbers.get(line.label, -1) for line in lines]
    wrong = [line for line, label in zip(lines, labels, strict=True) if not 0 <= label < len(names)]
    if wrong:
        are_numbers = all(is_number(line.label) for line in lines)
        known = f"{first} to {first + len(names) - 1}" if are_numbers else f"{len(names)} names"
        places = named(f"line {line.number} {line.label!r}" for line in wrong)
        raise UserError(f"{file} has labels that are not in {source} ({known}): {places}")
    return labels
