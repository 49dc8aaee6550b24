"""Reading the lines of a list of clips, in whichever dialect it is written: separators, headers, seconds."""

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vit_jax.data.layout import printable
from vit_jax.data.video.decode import VIDEO_SUFFIXES
from vit_jax.errors import UserError

MOST_SECONDS = 1_000_000  # 11 days; what is above is a mistake
MOST_CLASSES = 100_000
COLUMNS = {  # accepted names of the columns in the header of a list
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path"),
    "youtube_id": ("youtube_id",),
    "label": ("label", "class"),
    "start": ("start", "start_time", "time_start"),
    "end": ("end", "end_time", "time_end"),
}
# Other names that occur in the headers of lists; a first line of such names is refused rather than read as a clip.
OTHER_COLUMNS = (
    *("id", "vid", "name", "clip", "clip_name", "clip_path", "video_id", "video_name", "youtube_ids", "url", "split"),
    *("action", "action_name", "category", "class_id", "class_name", "classname", "class_index", "label_id", "labels"),
    *("label_name", "target", "template", "description", "frames", "num_frames", "n_frames", "fps", "duration"),
)
SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "spaces"}

_INTEGER = re.compile(r"-?[0-9]+")
_HMDB51 = re.compile(r".*_(f|h|l|u)_(cm|nm)_np[0-9]+_(ba|fr|le|ri)_(bad|med|goo)_[0-9]+\.avi")


class Line(NamedTuple):
    """A line of a list, its label still as written."""

    number: int
    file: str
    label: str
    start: float
    end: float


class Dialect(NamedTuple):
    """How a list is written: what separates its columns, and the columns of its header as keys of `COLUMNS`.

    `columns` has "" for a column that is not read, and is empty if the list has no header.
    """

    separator: str
    columns: list[str]

    def describe(self) -> str:
        read = ", ".join(filter(None, self.columns)) or "path, label and optionally start and end"
        return f"{read}, separated by {SEPARATORS[self.separator]}, {'with' if self.columns else 'without'} a header"


def read_lines(file: Path) -> tuple[list[Line], Dialect]:
    """Reads a list; blank lines are ignored.

    Columns are separated by tabs if the first line contains one, else by semicolons if all lines contain one, else by
    commas if the first line contains one, in each case with the usual quoting of CSV; else by spaces, in which case a
    path may contain spaces. The columns are path and label, or path, label, start and end in seconds, unless the first
    line is a header (see `COLUMNS`). A `youtube_id` stands for the file `ID_START_END.mp4`, with six digits each, in
    the folder of the list or in a sub-folder named like the split: downloads of Kinetics are named in this way and are
    already cut.

    Raises:
      UserError: A line cannot be read, or is written in a dialect that is not understood; the message names file and
        line.
    """
    found = list(texts(file))
    if not found:
        raise UserError(f"{file} is empty. It must contain one clip per line, such as 'clip.mp4 3'")
    separator = _separator([text for _, text in found])
    cells = [(number, _split(file, number, text, separator)) for number, text in found]
    columns = _header(file, cells[0][1])
    if columns:
        cells = cells[1:]
        if not cells:
            raise UserError(f"{file} has a header, but no clips")
    lines = [_line(file, number, values, columns, separator) for number, values in cells]
    if not columns:
        _check_dialect(file, lines, separator)
    return lines, Dialect(separator, columns)


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank, with their numbers from 1.

    Raises:
      UserError: The file cannot be read, or a line is not UTF-8.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from None
    for number, line in enumerate(content.splitlines(), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file} line {number}: not valid UTF-8 at byte {error.start + 1}; save the list as UTF-8"
            ) from None
        if text.strip():
            yield number, text


def is_number(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None


def _separator(lines: list[str]) -> str:
    if "\t" in lines[0]:
        return "\t"
    if all(";" in line for line in lines):
        return ";"
    return "," if "," in lines[0] else " "


def _split(file: Path, number: int, text: str, separator: str) -> list[str]:
    if separator != " ":
        try:
            return [value.strip() for value in next(csv.reader([text], delimiter=separator))]
        except (csv.Error, StopIteration) as error:
            raise UserError(f"{file} line {number}: not a line of CSV ({error})") from None
    words = text.split()
    if len(words) == 4 and all(re.fullmatch(r"[0-9]+(\.[0-9]*)?", word) for word in words[1:]):
        return words
    return text.rsplit(None, 1)


def _header(file: Path, values: list[str]) -> list[str]:
    """Returns the columns as keys of `COLUMNS` ("" for others), or an empty list if the line is not a header.

    Raises:
      UserError: The line is a header, but lacks a column, has one twice, or is of another dialect.
    """
    known = {name: key for key, names in COLUMNS.items() for name in names}
    words = [value.lower() for value in values]
    columns = [known.get(word, "") for word in words]
    if "label" in columns and {"path", "youtube_id"} & set(columns):
        read = [column for column in columns if column]
        if twice := {column for column in read if read.count(column) > 1}:
            raise UserError(f"{file} line 1: several columns are called {' or '.join(COLUMNS[min(twice)])}; keep one")
        if "path" not in columns and not {"start", "end"} <= set(columns):
            raise UserError(f"{file} line 1: youtube_id needs the columns time_start and time_end")
        return columns
    if not all(word in known or word in OTHER_COLUMNS for word in words[:2]):
        return []
    key = "label" if {"path", "youtube_id"} & set(columns) else "path"
    raise UserError(
        f"{file} line 1: no column is called {' or '.join(COLUMNS[key])}; found {', '.join(values)}. Rename it, or "
        "remove the line if it is not a header"
    )


def _line(file: Path, number: int, values: list[str], columns: list[str], separator: str) -> Line:
    if not columns:
        columns = ["path", "label", "start", "end"][: len(values)]
        if len(values) not in (2, 4) or not all(values[:2]):
            mark = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}.get(separator, "a space, a comma or a tab")
            raise UserError(
                f"{file} line {number}: {separator.join(values)!r} is not a path and a label separated by {mark}"
                f"{', optionally followed by start and end in seconds' if separator != ' ' else ''}"
            )
    elif len(values) != len(columns):
        raise UserError(f"{file} line {number} has {len(values)} columns, but the header has {len(columns)}")
    cells = dict(zip(columns, values, strict=True))
    label = cells["label"]
    if not label:
        raise UserError(f"{file} line {number} has no label")
    if is_number(label) and (len(label) > 18 or int(label) >= MOST_CLASSES):
        raise UserError(
            f"{file} line {number}: label {label[:20]} is above {MOST_CLASSES - 1}, the largest class number"
        )
    start, end = (_seconds(file, number, key, cells.get(key, "")) for key in ("start", "end"))
    start = 0.0 if start is None else start
    end = math.inf if end is None else end
    if not start < end:
        raise UserError(
            f"{file} line {number}: the end of a clip ({end:g} s) must be later than its start ({start:g} s)"
        )
    path = cells.get("path", "")
    if "path" not in cells:
        if end == math.inf or not cells["youtube_id"]:
            raise UserError(f"{file} line {number}: a youtube_id, its start and its end must be given")
        path, start, end = _youtube_file(file, cells["youtube_id"], start, end), 0.0, math.inf
    if not path or printable(path) != path:
        raise UserError(f"{file} line {number}: the path {path!r} is empty or has a control character")
    return Line(number, path, label, start, end)


def _seconds(file: Path, number: int, key: str, text: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value < math.inf:
        raise UserError(f"{file} line {number}: {key} must be a number of seconds, 0 or more, not {text[:20]!r}")
    if value is not None and value > MOST_SECONDS:
        raise UserError(f"{file} line {number}: {key} must be at most {MOST_SECONDS:,} seconds, not {text[:20]}")
    return value


def _youtube_file(file: Path, video: str, start: float, end: float) -> str:
    name = f"{video}_{start:06.0f}_{end:06.0f}.mp4"
    inside = os.path.join(file.stem, name)
    return inside if os.path.exists(file.parent / inside) else name


def _check_dialect(file: Path, lines: list[Line], separator: str) -> None:
    """Refuses lists without a header whose lines can be read, but mean something else.

    Raises:
      UserError: The list has the labels first, is one of HMDB51's or of MMAction's, or begins with an unknown header.
    """
    first = lines[0]
    if _are_videos(line.label for line in lines):
        raise UserError(
            f"{file} line {first.number}: {first.label!r} is in the place of the label, but is the name of a video. "
            "Each line must have the path first, then the label"
        )
    if all(line.label in ("0", "1", "2") for line in lines) and all(_HMDB51.fullmatch(line.file) for line in lines):
        raise UserError(
            f"{file} looks like a list of HMDB51, whose numbers are not classes: 1 is for training, 2 for testing and "
            "0 for neither. Write train.csv and test.csv with lines such as 'brush_hair/clip.avi,brush_hair'"
        )
    words = first.file.rsplit(None, 1)
    is_frame_list = separator == " " and is_number(first.label) and len(words) == 2 and is_number(words[1])
    if is_frame_list and not os.path.exists(file.parent / first.file):
        raise UserError(
            f"{file} line {first.number}: {first.file} {first.label} has three columns; a path, a number of frames and "
            "a label, as in MMAction's lists, are not understood. Remove the number of frames"
        )
    others = lines[1:]
    is_header = others and not is_number(first.label) and all(is_number(line.label) for line in others)
    if is_header and not os.path.exists(file.parent / first.file):
        raise UserError(
            f"{file} line {first.number}: '{first.file}{separator}{first.label}' looks like a header, because all "
            "other labels are numbers. Name its columns path and label, or remove the line"
        )


def _are_videos(labels: Iterable[str]) -> bool:
    return all(label.lower().endswith(VIDEO_SUFFIXES) for label in labels)
