"""What became of each tensor when weights were loaded."""

import collections
import dataclasses
import re

from rich import box
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of ours (`path`), or one of the file's that the model has no use for."""

    status: str  # loaded, resized, replaced (ours kept), skipped (theirs left out)
    path: str
    stored: tuple[int, ...] | None  # shape in the file
    shape: tuple[int, ...] | None  # shape in the model


@dataclasses.dataclass(frozen=True)
class Report:
    """What was loaded, resized, replaced by fresh values and skipped, and what a reader should know beside.

    `format` names where the weights came from; `rows` are in the order of the parameters.
    """

    format: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def paths(self, status: str) -> list[str]:
        return [row.path for row in self.rows if row.status == status]

    @property
    def loaded(self) -> list[str]:
        return self.paths("loaded")

    @property
    def resized(self) -> list[str]:
        return self.paths("resized")

    @property
    def replaced(self) -> list[str]:
        return self.paths("replaced")

    @property
    def skipped(self) -> list[str]:
        return self.paths("skipped")

    def __str__(self) -> str:
        lines = [f"{self.format}: {len(self.loaded)} parameter arrays loaded"]
        for row in self.rows:
            if row.status != "loaded":
                shapes = " -> ".join(_shape(shape) for shape in (row.stored, row.shape) if shape is not None)
                lines.append(f"{row.status} {row.path} {shapes}")
        return "\n".join([*lines, *self.notes])

    def table(self) -> Table:
        """Returns a table for `rich` to print: equal rows of several blocks are one."""
        counts = collections.Counter(dataclasses.replace(row, path=re.sub(r"\d+", "*", row.path)) for row in self.rows)
        table = Table(title=f"weights of format {self.format}", box=box.SIMPLE_HEAD)
        for title in ("", "parameter", "stored", "here", "arrays"):
            table.add_column(title, overflow="fold")
        for row, count in counts.items():
            table.add_row(row.status, row.path, _shape(row.stored), _shape(row.shape), str(count))
        return table


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "scalar"
