"""Lists of clips: `SPLIT.csv`, `.txt` or `.tsv` with one clip per line, as in Kinetics and Something-Something."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from vit_jax.data.splits import SPLITS
from vit_jax.errors import UserError, nearest

SUFFIXES = (".csv", ".txt", ".tsv")
MOST_NAMED = 10  # files or lines named in a message; the rest are counted

COLUMNS = {  # accepted names of the columns in the header of a list
    "path": ("path", "file", "filename", "video", "video_path"),
    "youtube_id": ("youtube_id",),
    "label": ("label", "class"),
    "start": ("start", "start_time", "time_start"),
    "end": ("end", "end_time", "time_end"),
}


class ClipEntry(NamedTuple):
    """A clip of a split, not yet opened: a file or a folder of frames, its class, and a part of it in seconds."""

    file: str  # as in the list, or relative to the folder of the split
    label: int
    start: float = 0.0
    end: float = math.inf

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end == math.inf


class Line(NamedTuple):
    """A line of a list, its label still as written."""

    number: int
    file: str
    label: str
    start: float
    end: float


def list_file(folder: Path, split: str) -> Path | None:
    """Returns the list of a split, or None; `val` and `validation` are the same split.

    Raises:
      UserError: There are several lists.
    """
    names = [name + suffix for name in SPLITS.get(split, (split,)) for suffix in SUFFIXES]
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} has several lists of split {split!r}, keep one: {named(f.name for f in found)}")
    return found[0] if found else None


def list_splits(folder: Path) -> list[str]:
    """Returns the names of the common splits (`SPLITS`) that have a list."""
    found = {name: list_file(folder, name) for name in SPLITS}
    return [name for name, file in found.items() if file is not None and file.stem == name]


def read_entries(folder: Path, split: str) -> tuple[list[ClipEntry], tuple[str, ...]]:
    """Returns the clips of a split in the order of its list, and the class names.

    If every label is a whole number, labels are class numbers from 0; otherwise they are class names. The classes are
    those in `labels.txt` (one name per line) or `labels.json` (a list of names, or an object of names and numbers) if
    there is one, else those of the list of `train`, or of the list itself if there is no `train`.

    Raises:
      UserError: There is no such list, or a line cannot be read; the message names file and line.
    """
    file = list_file(folder, split)
    if file is None:
        raise UserError(f"{folder} has no list {split}.csv{nearest(split, list_splits(folder))}")
    lines = read_lines(file)
    train = file if split == "train" else list_file(folder, "train") or file
    names, source = _class_names(folder, lines if train == file else read_lines(train), train)
    numbers = {name: number for number, name in enumerate(names)}
    labels = _numbered(lines, file, numbers, source)
    return [ClipEntry(line.file, label, line.start, line.end) for line, label in zip(lines, labels, strict=True)], names


def read_lines(file: Path) -> list[Line]:
    """Reads a list; blank lines are ignored.

    Columns are separated by tabs if the first line contains one, else by commas if it contains one (with the usual
    quoting of CSV), else by spaces, in which case a path may contain spaces. The columns are path and label, or path,
    label, start and end in seconds, unless the first line is a header (see `COLUMNS`). A `youtube_id` stands for the
    file `ID_START_END.mp4`, with six digits each, in the folder of the list or in a sub-folder named like the split:
    downloads of Kinetics are named in this way and are already cut.

    Raises:
      UserError: A line cannot be read; the message names file and line.
    """
    texts = _texts(file)
    if not texts:
        raise UserError(f"{file} is empty. It must contain one clip per line, such as 'clip.mp4 3'")
    separator = next((mark for mark in "\t," if mark in texts[0][1]), " ")
    cells = [(number, _split(text, separator)) for number, text in texts]
    columns = _header(file, cells[0][1])
    if columns:
        cells = cells[1:]
    return [_line(file, number, values, columns, separator) for number, values in cells]


def _line(file: Path, number: int, values: list[str], columns: list[str], separator: str) -> Line:
    if not columns:
        columns = ["path", "label", "start", "end"][: len(values)]
        if len(values) not in (2, 4) or not all(values[:2]):
            mark = {"\t": "a tab", ",": "a comma"}.get(separator, "a space, a comma or a tab")
            raise UserError(
                f"{file} line {number}: {separator.join(values)!r} is not a path and a label separated by {mark}"
                f"{', optionally followed by start and end in seconds' if separator != ' ' else ''}"
            )
    elif len(values) != len(columns):
        raise UserError(f"{file} line {number} has {len(values)} columns, but the header has {len(columns)}")
    cells = dict(zip(columns, values, strict=True))
    start, end = (_seconds(file, number, key, cells.get(key, "")) for key in ("start", "end"))
    start = 0.0 if start is None else start
    end = math.inf if end is None else end
    if not 0 <= start < end:
        raise UserError(
            f"{file} line {number}: the end of a clip ({end:g} s) must be later than its start ({start:g} s)"
        )
    if "path" in cells:
        return Line(number, cells["path"], cells["label"], start, end)
    return Line(number, _youtube_file(file, cells["youtube_id"], start, end), cells["label"], 0.0, math.inf)


def _texts(file: Path) -> list[tuple[int, str]]:
    """Returns the lines that are not blank, with their numbers from 1."""
    texts = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file} line {number}: not valid UTF-8 at byte {error.start + 1}; save the list as UTF-8"
            ) from None
        if text.strip():
            texts.append((number, text))
    return texts


def _split(text: str, separator: str) -> list[str]:
    if separator != " ":
        return [value.strip() for value in next(csv.reader([text], delimiter=separator))]
    words = text.split()
    if len(words) == 4 and all(re.fullmatch(r"\d+(\.\d*)?", word) for word in words[1:]):
        return words
    return text.rsplit(None, 1)


def _header(file: Path, values: list[str]) -> list[str]:
    """Returns the columns as keys of `COLUMNS` ("" for others), or an empty list if the line is not a header."""
    known = {name: key for key, names in COLUMNS.items() for name in names}
    columns = [known.get(value.lower(), "") for value in values]
    if not {"path", "youtube_id"} & set(columns):
        return []
    if "label" not in columns and not any(_is_number(value) for value in values):
        raise UserError(
            f"{file} line 1: no column is called {' or '.join(COLUMNS['label'])}; found {', '.join(values)}"
        )
    return columns if "label" in columns else []


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def _seconds(file: Path, number: int, key: str, text: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value < math.inf:
        raise UserError(f"{file} line {number}: {key} must be a number of seconds, 0 or more, not {text!r}")
    return value


def _youtube_file(file: Path, video: str, start: float, end: float) -> str:
    name = f"{video}_{start:06.0f}_{end:06.0f}.mp4"
    inside = os.path.join(file.stem, name)
    return inside if (file.parent / inside).exists() else name


def _class_names(folder: Path, lines: list[Line], file: Path) -> tuple[tuple[str, ...], str]:
    """Returns the class names, and the name of the file they come from."""
    for name in ("labels.txt", "labels.json"):
        if (folder / name).is_file():
            return _read_names(folder / name), name
    if all(_is_number(line.label) for line in lines):
        return tuple(str(number) for number in range(max(int(line.label) for line in lines) + 1)), file.name
    return tuple(sorted({line.label for line in lines})), file.name


def _read_names(file: Path) -> tuple[str, ...]:
    if file.suffix == ".txt":
        names = [text for _, text in _texts(file)]
    else:
        try:
            content = json.loads(file.read_text("utf-8"))
            numbered = content.items() if isinstance(content, dict) else ((name, i) for i, name in enumerate(content))
            by_number = {int(number): str(name) for name, number in numbered}
            names = [by_number[number] for number in range(len(by_number))]
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f'{file} must contain a list of names, or {{"name": number}} with consecutive numbers from 0'
            ) from None
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"{file} names these classes more than once: {named(repeated)}")
    return tuple(names)


def _numbered(lines: list[Line], file: Path, numbers: dict[str, int], source: str) -> list[int]:
    are_numbers = all(_is_number(line.label) for line in lines)
    labels = [int(line.label) if are_numbers else numbers.get(line.label, -1) for line in lines]
    wrong = [line for line, label in zip(lines, labels, strict=True) if not 0 <= label < len(numbers)]
    if wrong:
        known = f"0 to {len(numbers) - 1}" if are_numbers else f"{len(numbers)} names"
        places = named(f"line {line.number} {line.label!r}" for line in wrong)
        raise UserError(f"{file} has labels that are not in {source} ({known}): {places}")
    return labels


def named(items: Iterable[str]) -> str:
    """Joins the first `MOST_NAMED` items and counts the rest."""
    items = list(items)
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
