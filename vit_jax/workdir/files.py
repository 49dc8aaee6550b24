"""Files in a workdir, which may be local or in an object store such as `gs://BUCKET/RUN` (through `etils.epath`)."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath


def is_local(path: epath.PathLike) -> bool:
    """Returns whether a path is in the local file system rather than a URI such as `gs://BUCKET/RUN`."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns an absolute path, as Orbax requires; URIs are absolute already."""
    return epath.Path(os.path.abspath(path) if is_local(path) else path)


def append(path: epath.Path, line: str) -> None:
    """Appends a line to a file, after ending a last line that was not completely written.

    In an object store, where objects cannot grow, the whole file is rewritten.
    """
    if not is_local(path):
        before = path.read_text() if path.exists() else ""
        path.write_text(before + line + "\n")
        return
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                line = "\n" + line
        file.write(f"{line}\n".encode())


def replace(path: epath.Path, text: str) -> None:
    """Replaces a file atomically: whenever the process ends, the file contains either the old or the new text.

    Raises:
      OSError: The file cannot be written, for example because the disk is full. It keeps the old text.
    """
    if is_local(path):
        with _complete(path, text) as temporary:
            temporary.replace(path)
    else:  # an object store shows an object only when it is complete
        path.write_text(text)


def create(path: epath.Path, text: str) -> bool:
    """Creates a file with its text in one step; returns False if the file exists already.

    Of several processes that create the same file at once, one succeeds. This does not hold in an object store, nor
    while the file is written in a file system without hard links.

    Raises:
      OSError: The file cannot be written.
    """
    if not is_local(path):
        if path.exists():
            return False
        path.write_text(text)
        return True
    with _complete(path, text) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links, for example in FAT
            try:
                with open(path, "x") as file:
                    file.write(text)
            except FileExistsError:
                return False
    return True


@contextlib.contextmanager
def _complete(path: epath.Path, text: str) -> Iterator[epath.Path]:
    """A context with a temporary file next to `path` that contains all of `text`; it is gone afterwards."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # otherwise a crash of the machine may leave an empty file
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def read_rows(
    path: epath.Path, is_row: Callable[[dict[str, Any]], bool] = lambda row: True
) -> tuple[list[dict[str, Any]], list[int]]:
    """Reads a file with one JSON object per line; returns the objects, and the numbers of the lines without one.

    A line has none if a process or the machine stopped while it was written: it is then incomplete, or consists of NUL
    bytes. Lines are counted from 1.

    Args:
      is_row: Tells which objects are valid.
    """
    rows, unreadable = [], []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line:
            continue  # after the last newline
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            row = None
        if isinstance(row, dict) and is_row(row):
            rows.append(row)
        else:
            unreadable.append(number)
    return rows, unreadable


def unused(path: epath.Path) -> epath.Path:
    """Returns `path`, or if it exists the first of `path_2`, `path_3`, ... that does not."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}_{number}")
    return free


def copy_tree(source: epath.Path, target: epath.Path) -> None:
    """Copies a folder recursively; the two paths may be in different file systems."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_dir():
            copy_tree(path, target / path.name)
        else:
            (target / path.name).write_bytes(path.read_bytes())
