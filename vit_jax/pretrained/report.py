"""The record of what happened to each tensor when weights were loaded."""

import collections
import dataclasses
import re

import numpy as np
from rich import box
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of the model (`path`), or one tensor of the file that the model does not need."""

    status: str  # loaded, resized, replaced (the model's own value stays), skipped (the file's tensor is not used)
    path: str
    stored: tuple[int, ...] | None  # shape in the file
    shape: tuple[int, ...] | None  # shape in the model


@dataclasses.dataclass(frozen=True)
class Report:
    """What was loaded, resized, replaced and skipped, and notes that a reader should know.

    `format` names the source's format (`vit_jax` for a workdir); `rows` are in the order of the parameters.
    """

    format: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def paths(self, status: str) -> list[str]:
        """Returns the paths with this status, in order."""
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

    def lines(self) -> list[str]:
        """Returns one line for the count of loaded arrays, one for each change, and the notes."""
        ours = [row for row in self.rows if row.shape is not None]
        loaded = [row for row in ours if row.status in ("loaded", "resized")]
        changes = [_change(row, count) for row, count in _merged(self.rows).items() if row.status != "loaded"]
        heading = f"{len(loaded)} of {len(ours)} parameter arrays loaded"
        return [heading, *(change for change in changes if change), *self.notes]

    def __str__(self) -> str:
        return "\n".join([f"format {self.format}: {self.lines()[0]}", *self.lines()[1:]])

    def table(self) -> Table:
        """Returns a table for `rich` to print; equal rows of several blocks are merged into one."""
        table = Table(title=f"Weights in format {self.format}", box=box.SIMPLE_HEAD)
        for title in ("", "parameter", "stored", "here", "arrays"):
            table.add_column(title, overflow="fold")
        for row, count in _merged(self.rows).items():
            table.add_row(row.status, row.path, _shape(row.stored), _shape(row.shape), str(count))
        return table


def _merged(rows: tuple[Row, ...]) -> dict[Row, int]:
    """Returns how many rows differ only in the numbers of their blocks, by the row with `*` for the number."""
    return collections.Counter(dataclasses.replace(row, path=re.sub(r"\d+", "*", row.path)) for row in rows)


def _change(row: Row, count: int) -> str | None:
    """Returns the line for a row that was not simply loaded; None for a head's bias, which the kernel speaks for."""
    arrays = f" ({count} arrays)" if count > 1 else ""
    if row.status == "skipped":
        return f"{row.path} skipped: {_shape(row.stored)}, not used by this model{arrays}"
    if row.status == "resized" and row.stored and row.shape:
        return f"{row.path} resampled: {_shape(row.stored[:-1])} -> {_shape(row.shape[:-1])}{arrays}"
    if row.path == "head/bias":
        return None
    if row.stored is None:
        return f"{row.path} initialised: the weights have none{arrays}"
    if row.path == "head/kernel" and row.shape:
        return f"head replaced: {row.stored[-1]} classes -> {row.shape[-1]} others, initialised from scratch"
    return f"{row.path} replaced: {_shape(row.stored)} -> {_shape(row.shape)}, initialised from scratch{arrays}"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "scalar"


def brief(numbers: np.ndarray) -> str:
    """Returns the numbers of all channels as text: one number if they share it."""
    values = [f"{x:.4g}" for x in numbers]
    return values[0] if len(set(values)) == 1 else f"({', '.join(values)})"
