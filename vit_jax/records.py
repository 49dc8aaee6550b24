"""Tables of results in files: rows that are appended to a CSV, and predictions that are written as they are computed.

The suffix of a file determines its format: `.csv`, `.npz` or `.parquet`. A table gets its columns from the first batch
of rows; a column is a list with a value or a list of values for each row, or an array with one row each.
"""

import contextlib
import csv
import importlib.util
import io
import json
import math
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Protocol

import numpy as np

from vit_jax.errors import UserError, nearest

Columns = Mapping[str, Any]


class Table(Protocol):
    """A file with a table, to which batches of rows are added."""

    def add(self, columns: Columns) -> None:
        """Adds rows; every batch has the same columns."""
        ...

    def close(self) -> None:
        """Completes the file."""
        ...


def check_table(path: str, option: str = "--predictions") -> None:
    """Checks that a table can be written to a path, before anything is computed for it.

    Raises:
      UserError: The suffix is unknown, the folder does not exist, or the package for Parquet is not installed.
    """
    target = pathlib.Path(path)
    if target.suffix not in _TABLES:
        raise UserError(f"{option}={path} has an unknown suffix {target.suffix!r}{nearest(target.suffix, _TABLES)}")
    if not target.parent.is_dir():
        raise UserError(f"{option}={path}: there is no folder {target.parent}")
    if target.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"{option}={path}: Parquet needs the package pyarrow. Run pip install 'vit_jax[parquet]', or use .csv."
        )


@contextlib.contextmanager
def open_table(path: str | None) -> Iterator[Table | None]:
    """A context that writes a table, or None without a path. However it ends, the file holds all rows added so far."""
    if path is None:
        yield None
        return
    table = _TABLES[pathlib.Path(path).suffix](path)
    with contextlib.closing(table):
        yield table


class Buffered:
    """Adds single rows to a table, `size` of them at a time; None as the table drops them.

    Attributes:
      rows: Number of rows so far.
    """

    def __init__(self, table: Table | None, size: int):
        self._table, self._size, self._waiting, self.rows = table, size, [], 0

    def add(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(row)
        self.rows += 1
        if len(self._waiting) >= self._size:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._table is not None and waiting:
            self._table.add({name: [row[name] for row in waiting] for name in waiting[0]})


class _Csv:
    """One line per row; a cell that is a list is written as JSON. Every batch is on disk when `add` returns."""

    def __init__(self, path: str):
        self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115  closed by `close`
        self._writer: Any = None

    def add(self, columns: Columns) -> None:
        if self._writer is None:
            self._writer = csv.writer(self._file, lineterminator="\n")
            self._writer.writerow(columns)
        self._writer.writerows(zip(*([_cell(value) for value in column] for column in columns.values()), strict=True))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _cell(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return "[" + ", ".join(f"{number:.6g}" for number in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


class _Npz:
    """One array per column. Numbers are collected in temporary files, because the logits may not fit into memory."""

    def __init__(self, path: str):
        self._path, self._texts = path, {}
        self._files: dict[str, IO[bytes]] = {}
        self._shapes: dict[str, tuple[np.dtype, tuple[int, ...], int]] = {}

    def add(self, columns: Columns) -> None:
        for name, column in columns.items():
            values = _array(column)
            if values.dtype.kind == "U":
                self._texts.setdefault(name, []).append(values)
                continue
            if name not in self._files:
                folder = os.path.dirname(os.path.abspath(self._path))
                self._files[name] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by `close`
                self._shapes[name] = (values.dtype, values.shape[1:], 0)
            dtype, shape, rows = self._shapes[name]
            self._files[name].write(np.ascontiguousarray(values, dtype).tobytes())
            self._shapes[name] = (dtype, shape, rows + len(values))

    def close(self) -> None:
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED) as archive:
            for name, file in self._files.items():
                dtype, shape, rows = self._shapes[name]
                header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *shape)}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as target:
                    np.lib.format.write_array_header_1_0(target, header)
                    file.seek(0)
                    shutil.copyfileobj(file, target)
                file.close()
            for name, parts in self._texts.items():
                content = io.BytesIO()
                np.save(content, np.concatenate(parts))
                archive.writestr(f"{name}.npy", content.getvalue())


def _array(column: Any) -> np.ndarray:
    """Returns a column as an array. Truth values become 1, 0 and NaN for None; lists of unequal lengths become JSON."""
    if isinstance(column, np.ndarray):
        return column
    if all(value is None or isinstance(value, bool) for value in column):
        return np.array([math.nan if value is None else value for value in column], np.float32)
    if isinstance(column[0], list | np.ndarray) and len({len(value) for value in column}) > 1:
        return np.array([json.dumps(value, ensure_ascii=False) for value in column])
    values = np.array(column)
    return values.astype(np.float32) if values.dtype == np.float64 else values


class _Parquet:
    """One row group per batch. The file is readable once it is closed."""

    def __init__(self, path: str):
        self._path, self._writer = path, None

    def add(self, columns: Columns) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        lists = {name: list(column) for name, column in columns.items()}
        if self._writer is None:
            fields = [
                pa.field(field.name, pa.bool_()) if pa.types.is_null(field.type) else field
                for field in pa.table(lists).schema  # a column of nothing but None has no type of its own
            ]
            self._writer = parquet.ParquetWriter(self._path, pa.schema(fields))
        self._writer.write_table(pa.table(lists, schema=self._writer.schema))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


_TABLES = {".csv": _Csv, ".npz": _Npz, ".parquet": _Parquet}


def append_row(path: str, row: Mapping[str, Any], option: str = "--csv") -> None:
    """Appends a row to a CSV, which is created with a line of headings if it does not exist.

    Raises:
      UserError: The file has other columns.
    """
    target = pathlib.Path(path)
    check_columns(path, list(row), option)
    is_new = not target.exists() or target.stat().st_size == 0
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    if is_new:
        writer.writerow(row)
    writer.writerow(row.values())
    with open(target, "a", newline="", encoding="utf-8") as file:
        file.write(content.getvalue())  # at once, so that two commands can append to one file


def check_columns(path: str, wanted: Sequence[str], option: str = "--csv") -> None:
    """Checks that a CSV can be appended to: it is missing or empty, or has exactly these columns.

    Raises:
      UserError: It cannot.
    """
    target = pathlib.Path(path)
    if not target.parent.is_dir():
        raise UserError(f"{option}={path}: there is no folder {target.parent}")
    if not target.exists():
        return
    with open(target, newline="", encoding="utf-8", errors="replace") as file:
        found = next(csv.reader(file), [])
    if found and found != list(wanted):
        lacks, more = ([x for x in a if x not in b] for a, b in ((wanted, found), (found, wanted)))
        differs = f"it lacks {lacks} and also has {more}" if lacks or more else "they are in another order"
        raise UserError(
            f"{option}={path} is a CSV of another version or purpose: {differs}. Name another file, or move this one."
        )
