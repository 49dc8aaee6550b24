"""Compute the tables of the papers, or train their rows, and compare every number with the printed one.

Each file `experiments/PAPER/TABLE.py` defines one table. There are three scales:

computed  the numbers that need no training: parameters and multiply-accumulates, at the published sizes. A number that
          differs from the paper's in the printed digits is marked, with the reason if it is known; the exit status is 1
          if one differs without a known reason.
small     the same comparison, trained here on small models and data with several seeds. Each claim of the paper about
          the order of its rows is answered by the differences between runs with the same seed.
paper     the paper's full recipes. Without --scale=paper they are only listed, as commands.

What is finished is not run again, and the same command continues what was interrupted. The same command given twice, at
once, also on two machines that share the folders, divides the rows between the two. The results are written to
`experiments/results/PAPER/TABLE` as .csv, .md and .png, for trained rows as .small.csv and so on.

  python -m vit_jax reproduce --list
  python -m vit_jax reproduce tnt/table1
  python -m vit_jax reproduce experiments/transformer/table3.py --only=big
  python -m vit_jax reproduce vit/table8 --scale=small --seeds=3
  python -m vit_jax reproduce --all --report
"""

import argparse
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.commands.shared import common
from vit_jax.errors import UserError, counted

HELP = "compute the tables of the papers, or train their rows"
REPORT = pathlib.Path("docs/tables.md")
_INTRODUCTION = """# Tables of the papers

Each table has up to three parts. **Computed**: parameters, and the multiply-accumulates of one forward pass of one
example at the published sizes, as `vit_jax.analysis.cost` counts them. The column "paper" has the printed number, and a
footnote explains each one that differs in the printed digits. **Trained here at small scale**: the same comparison with
small models on small data, several seeds each; its numbers are not comparable with the paper's, but their order is.
**The full recipes**: blank until someone runs them.

This page is written by `python -m vit_jax reproduce --all --report`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "tables", nargs="*", metavar="TABLE", type=common.given, help="PAPER/TABLE, or the file that defines the table"
    )
    option("--all", action="store_true", help="every table that has the scale")
    option("--list", action="store_true", help="list the tables and their state")
    option("--scale", choices=("computed", "small", "paper"), default="computed", help="see above (default: computed)")
    option("--seeds", type=common.at_least(1), metavar="N", help="train with the seeds 0 to N - 1 (default: 3)")
    option("--only", metavar="ROW", type=common.given, help="one row of one table; computed, nothing is written")
    option("--report", action="store_true", help=f"write all results into {REPORT}, and draw their figures")
    option(
        "--folder",
        type=common.given,
        default="experiments",
        metavar="DIR",
        help="folder of the tables (default: experiments)",
    )
    option(
        "--runs",
        type=common.given,
        default="runs/reproduce",
        metavar="DIR",
        help="folder of the workdirs of trained rows (default: runs/reproduce)",
    )


def run(args: argparse.Namespace) -> int:
    chosen = [bool(args.tables), args.all, args.list]
    if sum(chosen) > 1 or not (any(chosen) or args.report):
        raise UserError("give one or more tables, --all or --list")
    if args.only and len(args.tables) != 1:
        raise UserError("--only applies to one table")
    if args.seeds and args.scale == "computed":
        raise UserError("--seeds applies to trained rows. Add --scale=small or --scale=paper.")
    from vit_jax.reproduce import tables

    common.start_jax(args)
    folder = pathlib.Path(args.folder)
    known = tables.find_tables(folder)
    names = [tables.name_of(word, known) for word in args.tables]
    loaded = known if args.all or args.list or args.report else names
    definitions = {name: tables.load_definition(known[name]) for name in loaded}
    if args.list:
        _list(args, folder, definitions)
        return 0
    if args.all:
        names = [name for name, found in definitions.items() if _has(found, args.scale)]
    status = 0
    for name in names:
        if not _has(definitions[name], args.scale):
            raise UserError(f"{name} has nothing at the scale {args.scale}; see --list")
        step = _compute if args.scale == "computed" else _train
        status = max(status, step(args, name, definitions))
    if args.report:
        _report(args, folder, definitions)
    return status


def _has(definition: Any, scale: str) -> bool:
    """Returns whether a table has something at a scale."""
    if scale == "computed":
        return definition.table is not None
    return definition.comparison is not None and scale in definition.comparison.scales


def _results(folder: pathlib.Path, name: str, ending: str) -> pathlib.Path:
    return folder / "results" / f"{name}{ending}"


def _compute(args: argparse.Namespace, name: str, definitions: Mapping[str, Any]) -> int:
    from vit_jax.reproduce import tables

    table = definitions[name].table
    rows = table.select(args.only)
    cells = [cell for row in common.progress(rows, len(rows), name) for cell in table.compute(row)]
    print(f"{table.markdown(cells)}\n", flush=True)
    if not args.only:
        folder = pathlib.Path(args.folder)
        _write(_results(folder, name, ".csv"), lambda path: tables.write_cells(path, cells))
        _write(_results(folder, name, ".md"), lambda path: path.write_text(f"{table.markdown(cells)}\n"))
        if table.plot is not None:
            _write(_results(folder, name, ".png"), lambda path: _draw(path, lambda figure: table.plot(figure, cells)))
    return int(any(cell.is_unexplained for cell in cells))


def _trials(args: argparse.Namespace, name: str, definitions: Mapping[str, Any], scale: str) -> Any:
    from vit_jax.reproduce.trained import Trials

    say = lambda line: print(line, flush=True)  # noqa: E731
    return Trials.of(definitions[name].comparison, name, scale, pathlib.Path(args.folder), pathlib.Path(args.runs), say)


def _train(args: argparse.Namespace, name: str, definitions: Mapping[str, Any]) -> int:
    """Trains what is missing of a table, and writes its results; returns 1 if some could not be trained."""
    trials = _trials(args, name, definitions, args.scale)
    chosen = trials.comparison.select(args.scale, args.only)
    trials.check(chosen)
    print(f"{name}: {trials.comparison.question}")
    try:
        problems = trials.run(chosen, range(args.seeds or 3))
    finally:
        _write_comparison(args, name, trials)
    print(_results(pathlib.Path(args.folder), name, f".{args.scale}.md").read_text())
    for problem in problems:
        print(f"not done: {problem}")
    return int(bool(problems))


def _write_comparison(args: argparse.Namespace, name: str, trials: Any) -> None:
    from vit_jax.reproduce import report

    folder, rows, comparison = pathlib.Path(args.folder), trials.rows(), trials.comparison
    text = report.markdown(comparison, trials.scale, rows)
    _write(_results(folder, name, f".{trials.scale}.md"), lambda path: path.write_text(f"{text}\n"))
    if rows:
        png, size = _results(folder, name, f".{trials.scale}.png"), report.size(comparison, trials.scale)
        _write(png, lambda path: _draw(path, lambda figure: report.draw(figure, comparison, trials.scale, rows), size))


def _list(args: argparse.Namespace, folder: pathlib.Path, definitions: Mapping[str, Any]) -> None:
    width = max(map(len, definitions))
    for name, definition in definitions.items():
        notes = [_computed_state(_results(folder, name, ".csv"))] if definition.table else []
        for scale in definition.comparison.scales if definition.comparison else ():
            trials = _trials(args, name, definitions, scale)
            count = len(trials.comparison.at(scale))
            found = {row for row, _ in trials.rows()}
            notes.append(f"{scale}: {len(found)} of {counted(count, 'rows')} trained")
        print(f"{name:<{width}}  {definition.title}: {'; '.join(notes)}")


def _computed_state(path: pathlib.Path) -> str:
    from vit_jax.reproduce import tables

    cells = tables.read_cells(path)
    printed = [cell for cell in cells if cell.printed]
    agreeing = sum(not cell.differs for cell in printed)
    state = f"{agreeing} of {len(printed)} printed numbers agree" if printed else f"{len(cells)} numbers computed"
    unexplained = sum(cell.is_unexplained for cell in cells)
    return ", ".join([state if cells else "not computed yet", *([f"{unexplained} unexplained"] if unexplained else [])])


def _write(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Writes a file under another name first, so that it is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(partial)
    partial.replace(path)


def _draw(path: pathlib.Path, draw: Callable[[Any], None], size: tuple[float, float] = (9, 3.6)) -> None:
    from matplotlib.figure import Figure  # without pyplot, which needs a display

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


def _report(args: argparse.Namespace, folder: pathlib.Path, definitions: Mapping[str, Any]) -> None:
    """Writes the page of all tables that have results, and draws the figures of those that were trained."""
    if not REPORT.parent.is_dir():
        raise UserError(f"there is no folder {REPORT.parent} for the report. Run this in a checkout of vit_jax.")
    parts = [_INTRODUCTION]
    for name, definition in definitions.items():
        endings = [""] if definition.table else []
        for scale in definition.comparison.scales if definition.comparison else ():
            trials = _trials(args, name, definitions, scale)
            if trials.rows() or scale == "paper":
                _write_comparison(args, name, trials)
                endings.append(f".{scale}")
        for ending in endings:
            written, figure = (_results(folder, name, f"{ending}{suffix}") for suffix in (".md", ".png"))
            parts += [written.read_text()] if written.exists() else []
            parts += [f"![{name}{ending}](../{figure.as_posix()})\n"] if figure.exists() else []
    REPORT.write_text("\n".join(parts).rstrip() + "\n")
    print(f"wrote {REPORT}")
