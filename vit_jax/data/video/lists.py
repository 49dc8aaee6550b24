"""Lists of clips: `SPLIT.csv`, `.txt` or `.tsv`, a line each, as those of Kinetics and Something-Something."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from vit_jax.data.image.folder import SPLITS
from vit_jax.errors import UserError, nearest

SUFFIXES = (".csv", ".txt", ".tsv")
MOST_NAMED = 10  # files or lines that a message names; of more it gives the number

COLUMNS = {  # what the columns of a list may be called in its first line
    "path": ("path", "file", "filename", "video", "video_path"),
    "youtube_id": ("youtube_id",),
    "label": ("label", "class"),
    "start": ("start", "start_time", "time_start"),
    "end": ("end", "end_time", "time_end"),
}


class Clip(NamedTuple):
    """A clip of a split: its file or frame folder and the part of it, in seconds, that is meant."""

    file: str  # as in the list, or relative to the folder of the split
    label: int
    start: float = 0.0
    end: float = math.inf

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end == math.inf


class Row(NamedTuple):
    """A line of a list before its label has a number."""

    line: int
    file: str
    label: str
    start: float
    end: float


def list_file(folder: Path, split: str) -> Path | None:
    """Returns the list of a split, or None; `val` may be called `validation`.

    Raises `UserError` if there are several.
    """
    names = [name + suffix for name in SPLITS.get(split, (split,)) for suffix in SUFFIXES]
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} has several lists of split {split!r}, keep one: {named(f.name for f in found)}")
    return found[0] if found else None


def list_splits(folder: Path) -> list[str]:
    """Returns the names of the splits that have a list, of those commonly named."""
    found = {name: list_file(folder, name) for name in SPLITS}
    return [name for name, file in found.items() if file is not None and file.stem == name]


def read_clips(folder: Path, split: str) -> tuple[list[Clip], tuple[str, ...]]:
    """Returns the clips of a split in the order of its list, and the names of the classes.

    Labels are numbers from 0 if all of them are whole numbers, else names. `labels.txt` (a name a line) or
    `labels.json` (names in order, or names with their numbers) says which classes there are; without, they are those
    of `train`, or of the list itself where there is no `train`.

    Raises `UserError` naming file and line.
    """
    file = list_file(folder, split)
    if file is None:
        raise UserError(f"{folder} has no list {split}.csv{nearest(split, list_splits(folder))}")
    rows = read_rows(file)
    train = file if split == "train" else list_file(folder, "train") or file
    names, source = _class_names(folder, rows if train == file else read_rows(train), train)
    numbers = {name: number for number, name in enumerate(names)}
    labels = _numbered(rows, file, numbers, source)
    return [Clip(row.file, label, row.start, row.end) for row, label in zip(rows, labels, strict=True)], names


def read_rows(file: Path) -> list[Row]:
    """Reads a list; lines without text are passed over.

    Columns are separated by tabs if the first line has any, else by commas if it has (quotes as usual in CSV), else by
    spaces, of which a path may then have some. They are path and label, or path, label, start and end in seconds,
    unless the first line names them: see `COLUMNS`. A `youtube_id` stands for `ID_START_END.mp4` in the folder of the
    list or in that of its split, as downloads of Kinetics are named, six digits each: cut already.
    """
    lines = _lines(file)
    if not lines:
        raise UserError(f"{file} is empty: a line each is wanted, such as 'clip.mp4 3'")
    separator = next((mark for mark in "\t," if mark in lines[0][1]), " ")
    cells = [(number, _split(line, separator)) for number, line in lines]
    columns = _header(file, cells[0][1])
    if columns:
        cells = cells[1:]
    return [_row(file, number, values, columns, separator) for number, values in cells]


def _row(file: Path, line: int, values: list[str], columns: list[str], separator: str) -> Row:
    if not columns:
        columns = ["path", "label", "start", "end"][: len(values)]
        if len(values) not in (2, 4) or not all(values[:2]):
            mark = {"\t": "a tab", ",": "a comma"}.get(separator, "a space, a comma or a tab")
            raise UserError(
                f"{file} line {line}: {separator.join(values)!r} is not a path and a label separated by {mark}"
                f"{', with or without start and end in seconds' if separator != ' ' else ''}"
            )
    elif len(values) != len(columns):
        raise UserError(f"{file} line {line}: {len(values)} columns, but line 1 names {len(columns)}")
    row = dict(zip(columns, values, strict=True))
    start, end = (_seconds(file, line, key, row.get(key, "")) for key in ("start", "end"))
    start = 0.0 if start is None else start
    end = math.inf if end is None else end
    if not 0 <= start < end:
        raise UserError(f"{file} line {line}: from {start:g} to {end:g} seconds there is nothing")
    if "path" in row:
        return Row(line, row["path"], row["label"], start, end)
    return Row(line, _youtube_file(file, row["youtube_id"], start, end), row["label"], 0.0, math.inf)


def _lines(file: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    lines = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file} line {number}: not valid UTF-8 at byte {error.start + 1}; save the list as UTF-8"
            ) from None
        if text.strip():
            lines.append((number, text))
    return lines


def _split(line: str, separator: str) -> list[str]:
    if separator != " ":
        return [value.strip() for value in next(csv.reader([line], delimiter=separator))]
    words = line.split()
    if len(words) == 4 and all(re.fullmatch(r"\d+(\.\d*)?", word) for word in words[1:]):
        return words
    return line.rsplit(None, 1)


def _header(file: Path, values: list[str]) -> list[str]:
    """The columns by our names ("" for others), or nothing if the line is no header."""
    known = {name: key for key, names in COLUMNS.items() for name in names}
    columns = [known.get(value.lower(), "") for value in values]
    if not {"path", "youtube_id"} & set(columns):
        return []
    if "label" not in columns and not any(_is_number(value) for value in values):
        raise UserError(f"{file} line 1: no column is called {' or '.join(COLUMNS['label'])}: {', '.join(values)}")
    return columns if "label" in columns else []


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def _seconds(file: Path, line: int, key: str, text: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value < math.inf:
        raise UserError(f"{file} line {line}: {key} {text!r} is not a number of seconds, 0 or more")
    return value


def _youtube_file(file: Path, video: str, start: float, end: float) -> str:
    name = f"{video}_{start:06.0f}_{end:06.0f}.mp4"
    inside = os.path.join(file.stem, name)
    return inside if (file.parent / inside).exists() else name


def _class_names(folder: Path, rows: list[Row], file: Path) -> tuple[tuple[str, ...], str]:
    """The names of the classes, and where they are from."""
    for name in ("labels.txt", "labels.json"):
        if (folder / name).is_file():
            return _read_names(folder / name), name
    if all(_is_number(row.label) for row in rows):
        return tuple(str(number) for number in range(max(int(row.label) for row in rows) + 1)), file.name
    return tuple(sorted({row.label for row in rows})), file.name


def _read_names(file: Path) -> tuple[str, ...]:
    if file.suffix == ".txt":
        names = [text for _, text in _lines(file)]
    else:
        try:
            content = json.loads(file.read_text("utf-8"))
            numbered = content.items() if isinstance(content, dict) else ((name, i) for i, name in enumerate(content))
            by_number = {int(number): str(name) for name, number in numbered}
            names = [by_number[number] for number in range(len(by_number))]
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f'{file}: a list of names is wanted, or {{"name": number}} with the numbers from 0 on'
            ) from None
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"{file}: {named(twice)} twice")
    return tuple(names)


def _numbered(rows: list[Row], file: Path, numbers: dict[str, int], source: str) -> list[int]:
    are_numbers = all(_is_number(row.label) for row in rows)
    labels = [int(row.label) if are_numbers else numbers.get(row.label, -1) for row in rows]
    wrong = [row for row, label in zip(rows, labels, strict=True) if not 0 <= label < len(numbers)]
    if wrong:
        known = f"0 to {len(numbers) - 1}" if are_numbers else f"{len(numbers)} names"
        lines = named(f"line {row.line} {row.label!r}" for row in wrong)
        raise UserError(f"{file}: labels that {source} has not ({known}): {lines}")
    return labels


def named(items: Iterable[str]) -> str:
    """The first `MOST_NAMED` and how many more there are."""
    items = list(items)
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
