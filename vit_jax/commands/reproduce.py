"""Compute the tables of the papers, and compare every number with the printed one.

Each file `experiments/PAPER/TABLE.py` defines one table. The numbers that need no training are computed: parameters and
multiply-accumulates, at the published sizes. A number that differs from the paper's in the printed digits is marked,
with the reason if it is known; the exit status is 1 if one differs without a known reason. The results are written to
`experiments/results/PAPER/TABLE` as .csv and .md, and as .png if the paper has a figure.

  python -m vit_jax reproduce --list
  python -m vit_jax reproduce tnt/table1
  python -m vit_jax reproduce experiments/transformer/table3.py --only=big
  python -m vit_jax reproduce --all --report
"""

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from vit_jax.commands import common
from vit_jax.errors import UserError, nearest

HELP = "compute the tables of the papers"
REPORT = pathlib.Path("docs/tables.md")
_INTRODUCTION = """# Tables of the papers

These are the columns of the papers' tables that can be computed without training, at the published sizes: parameters,
and the multiply-accumulates of one forward pass of one example, as `vit_jax.analysis.cost` counts them. The column
"paper" has the printed number. A footnote explains each one that differs in the printed digits.

This page is written by `python -m vit_jax reproduce --all --report`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", type=common.given, help="PAPER/TABLE, or the file that defines the table"
    )
    parser.add_argument("--all", action="store_true", help="compute every table")
    parser.add_argument("--list", action="store_true", help="list the tables and their state")
    parser.add_argument(
        "--only", metavar="ROW", type=common.given, help="print one row of one table; nothing is written"
    )
    parser.add_argument("--report", action="store_true", help=f"write the computed tables into {REPORT}")
    parser.add_argument(
        "--folder",
        type=common.given,
        default="experiments",
        metavar="DIR",
        help="folder of the tables (default: experiments)",
    )


def run(args: argparse.Namespace) -> int:
    chosen = [bool(args.tables), args.all, args.list]
    if sum(chosen) > 1 or not (any(chosen) or args.report):
        raise UserError("give one or more tables, --all or --list")
    if args.only and len(args.tables) != 1:
        raise UserError("--only applies to one table")
    from vit_jax.analysis import tables

    common.start_jax(args)
    folder = pathlib.Path(args.folder)
    known = tables.find_tables(folder)
    if args.list:
        _list(folder, known)
        return 0
    names = list(known) if args.all else [_name_of(word, known) for word in args.tables]
    loaded = {name: tables.load_table(known[name]) for name in names}
    unexplained = 0
    for name, table in loaded.items():
        rows = table.select(args.only)
        cells = [cell for row in common.progress(rows, len(rows), name) for cell in table.compute(row)]
        print(f"{table.markdown(cells)}\n", flush=True)
        unexplained += sum(cell.is_unexplained for cell in cells)
        if not args.only:
            _write(_results(folder, name), table, cells)
    if args.report:
        _report(folder, known)
    return 1 if unexplained else 0


def _name_of(word: str, known: dict[str, pathlib.Path]) -> str:
    """Returns the name of the table that `word` names, or whose file it is."""
    for name, path in known.items():
        if word == name or pathlib.Path(word).absolute() == path.absolute():
            return name
    raise UserError(f"unknown table {word!r}{nearest(word, known)}")


def _results(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of the results of a table, without a suffix."""
    return folder / "results" / name


def _list(folder: pathlib.Path, known: dict[str, pathlib.Path]) -> None:
    from vit_jax.analysis import tables

    width = max(map(len, known))
    for name, path in known.items():
        table = tables.load_table(path)
        cells = tables.read_cells(_results(folder, name).with_suffix(".csv"))
        printed = [cell for cell in cells if cell.printed]
        agreeing = sum(not cell.differs for cell in printed)
        state = f"{agreeing} of {len(printed)} printed numbers agree" if printed else f"{len(cells)} numbers computed"
        unexplained = sum(cell.is_unexplained for cell in cells)
        notes = [state if cells else "not computed yet", *([f"{unexplained} unexplained"] if unexplained else [])]
        print(f"{name:<{width}}  {table.title}: {', '.join(notes)}")


def _write(path: pathlib.Path, table: Any, cells: Sequence[Any]) -> None:
    """Writes the results of a table: each file under another name first, so that it is never half-written."""
    from vit_jax.analysis import tables

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    tables.write_cells(partial, cells)
    partial.replace(path.with_suffix(".csv"))
    partial.write_text(f"{table.markdown(cells)}\n")
    partial.replace(path.with_suffix(".md"))
    if table.plot is not None:
        _draw(partial, table, cells)
        partial.replace(path.with_suffix(".png"))


def _draw(path: pathlib.Path, table: Any, cells: Sequence[Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")  # works without a display
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(9, 3.6), constrained_layout=True)
    table.plot(figure, cells)
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})
    pyplot.close(figure)


def _report(folder: pathlib.Path, known: dict[str, pathlib.Path]) -> None:
    """Writes the page of all tables that have results."""
    if not REPORT.parent.is_dir():
        raise UserError(f"there is no folder {REPORT.parent} for the report. Run this in a checkout of vit_jax.")
    parts = [_INTRODUCTION]
    for name in known:
        written, figure = (_results(folder, name).with_suffix(suffix) for suffix in (".md", ".png"))
        parts += [written.read_text()] if written.exists() else []
        parts += [f"![{name}](../{figure.as_posix()})\n"] if figure.exists() else []
    REPORT.write_text("\n".join(parts).rstrip() + "\n")
    print(f"wrote {REPORT}")
