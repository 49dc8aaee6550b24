"""Tables of the papers: what can be computed for a row without training, next to what the paper prints."""

import csv
import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.analysis.cost import Cost, cost
from vit_jax.errors import UserError, nearest
from vit_jax.models import build_model
from vit_jax.reproduce.comparison import Comparison

FIELDS = ("row", "column", "printed", "computed", "reason")  # of the CSV of a table


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: a model, and what the paper prints about it.

    Attributes:
      name: The row's name, as the paper prints it.
      model: Family and variant, such as `tnt:S/16`.
      fields: Fields that override the variant's.
      inputs: Shape of each input without the batch dimension; the default is the model's own `input_shape`.
      printed: The paper's number by column, as printed: its digits decide how far the computed number must agree.
      reasons: Why a computed number differs from the printed one, by column.
      epochs: Length of training, for columns that need it.
    """

    name: str
    model: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Sequence[Sequence[int]] = ()
    printed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    epochs: int = 0

    def cost(self) -> Cost:
        """Counts the parameters and multiply-accumulates of the row's model."""
        return cost(build_model(self.model, **self.fields), *self.inputs)


@dataclasses.dataclass(frozen=True)
class Column:
    """A number that follows from a row's cost.

    Attributes:
      name: The heading, with the unit in brackets.
      value: Returns the number, given the row and its cost.
    """

    name: str
    value: Callable[[Row, Cost], float]


PARAMS = Column("parameters (M)", lambda row, found: found.params / 1e6)
MACS = Column("multiply-accumulates (G)", lambda row, found: found.macs / 1e9)
INFERENCE = Column("multiply-accumulates of 3 views (T)", lambda row, found: 3 * found.macs / 1e12)  # of one clip


@dataclasses.dataclass(frozen=True)
class Cell:
    """A computed number and, if the paper has it, the printed one.

    Attributes:
      row, column: Names.
      printed: The paper's number, as printed; empty if the paper does not print it.
      computed: The number computed here.
      reason: Why they differ.
    """

    row: str
    column: str
    printed: str
    computed: float
    reason: str

    @property
    def differs(self) -> bool:
        """Whether the computed number, rounded to the printed digits, is another one than the printed."""
        decimals = len(self.printed.partition(".")[2])
        return bool(self.printed) and f"{self.computed:.{decimals}f}" != self.printed

    @property
    def is_unexplained(self) -> bool:
        return self.differs and not self.reason


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper, or a figure that shows costs.

    Attributes:
      title: The paper, the number of the table and its subject.
      source: Where the printed numbers were read.
      rows, columns: What is computed.
      note: What holds for all rows, such as the number of classes.
      plot: Draws the cells on a Matplotlib figure, if the paper has a figure.
    """

    title: str
    source: str
    rows: Sequence[Row]
    columns: Sequence[Column] = (PARAMS, MACS)
    note: str = ""
    plot: Callable[[Any, Sequence[Cell]], None] | None = None

    def compute(self, row: Row) -> list[Cell]:
        """Returns the cells of a row."""
        found = row.cost()
        return [
            Cell(
                row.name,
                column.name,
                row.printed.get(column.name, ""),
                float(f"{column.value(row, found):.6g}"),
                row.reasons.get(column.name, ""),
            )
            for column in self.columns
        ]

    def select(self, name: str | None) -> list[Row]:
        """Returns the rows, or the one with this name.

        Raises:
          UserError: No row has this name.
        """
        names = [row.name for row in self.rows]
        if name is not None and name not in names:
            raise UserError(f"no row {name!r} in {self.title}{nearest(name, names)}")
        return [row for row in self.rows if name in (None, row.name)]

    def markdown(self, cells: Sequence[Cell]) -> str:
        """Returns the title, the cells as a table with a footnote for each reason, and the note."""
        printed = {cell.column for cell in cells if cell.printed}
        headings = ["row"]
        for column in self.columns:
            headings += [column.name, "paper"] if column.name in printed else [column.name]
        lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
        reasons: list[str] = []
        for name in dict.fromkeys(cell.row for cell in cells):
            words = [name]
            for cell in (cell for cell in cells if cell.row == name):
                words.append(f"{cell.computed:,.6g}")
                if cell.column in printed:
                    words.append(cell.printed + _footnote(cell, reasons))
            lines.append(f"| {' | '.join(words)} |")
        notes = [f"<sup>{number}</sup> {reason}  " for number, reason in enumerate(reasons, start=1)]
        source = [f"{self.note} Source of the printed numbers: {self.source}.".strip()]
        return "\n".join([f"## {self.title}", "", *lines, "", *notes, *([""] if notes else []), *source])


def _footnote(cell: Cell, reasons: list[str]) -> str:
    if not cell.differs:
        return ""
    if cell.is_unexplained:
        return " **differs**"
    if cell.reason not in reasons:
        reasons.append(cell.reason)
    return f" <sup>{reasons.index(cell.reason) + 1}</sup>"


def find_tables(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the files that define tables, by name: `tnt/table1` is `FOLDER/tnt/table1.py`.

    Raises:
      UserError: The folder has none.
    """
    found = {f"{path.parent.name}/{path.stem}": path for path in sorted(folder.glob("*/*.py"))}
    if not found:
        raise UserError(f"{folder} has no tables. Run this command in a checkout of vit_jax, or give --folder.")
    return found


@dataclasses.dataclass(frozen=True)
class Definition:
    """What a file of `experiments/` defines: `TABLE`, which is computed, `COMPARISON`, which is trained, or both."""

    table: Table | None
    comparison: Comparison | None

    @property
    def title(self) -> str:
        return self.table.title if self.table else self.comparison.title if self.comparison else ""


def name_of(word: str, known: Mapping[str, pathlib.Path]) -> str:
    """Returns the name of the table that `word` names, or whose file it is.

    Raises:
      UserError: There is no such table.
    """
    path = pathlib.Path(word)
    for name, file in known.items():
        if word == name or path.absolute() == file.absolute():
            return name
    meant = f"{path.parent.name}/{path.stem}" if path.suffix == ".py" else word
    raise UserError(f"unknown table {word!r}{nearest(meant, known)}")


def load_definition(path: pathlib.Path) -> Definition:
    """Runs a file that defines `TABLE` or `COMPARISON` or both.

    Raises:
      UserError: The file cannot be run, or defines neither.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    table, comparison = getattr(module, "TABLE", None), getattr(module, "COMPARISON", None)
    definition = Definition(
        table if isinstance(table, Table) else None, comparison if isinstance(comparison, Comparison) else None
    )
    if not definition.title:
        raise UserError(f"{path} must define TABLE = Table(...) or COMPARISON = Comparison(...)")
    return definition


def write_cells(path: pathlib.Path, cells: Sequence[Cell]) -> None:
    """Writes cells as a CSV."""
    with path.open("w", newline="") as file:
        writer: Any = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(cell) for cell in cells)


def read_cells(path: pathlib.Path) -> list[Cell]:
    """Reads the cells of a CSV; none if it does not exist.

    Raises:
      UserError: The file has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise UserError(f"{path} has the columns {reader.fieldnames}, not {list(FIELDS)}. Remove it and run again.")
        return [Cell(**{**row, "computed": float(row["computed"])}) for row in reader]
