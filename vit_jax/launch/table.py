"""The rows of a table as runs, in the workdirs in which `reproduce` looks for them."""

import pathlib
from collections.abc import Callable, Iterable

from vit_jax.errors import UserError
from vit_jax.launch.sweep import RESERVED, Point, Sweep
from vit_jax.reproduce.comparison import Trial
from vit_jax.reproduce.tables import find_tables, load_definition, name_of
from vit_jax.reproduce.trained import Trials, slug

TABLES = pathlib.Path("experiments")


def trials_of(word: str, scale: str, runs: pathlib.Path, say: Callable[[str], None] = print) -> tuple[str, Trials]:
    """Returns the name of a table and its trials at a scale.

    Args:
      word: `PAPER/TABLE`, or the file that defines the table.
      runs: Folder of the workdirs of all tables, as `reproduce --runs` takes it.

    Raises:
      UserError: There is no such table, or it has nothing to train at this scale.
    """
    path = pathlib.Path(word).absolute()
    folder = path.parents[1] if path.is_file() else TABLES
    known = find_tables(folder)
    name = name_of(word, known)
    comparison = load_definition(known[name]).comparison
    if comparison is None or scale not in comparison.scales:
        raise UserError(f"{name} has nothing at the scale {scale}; see `python -m vit_jax reproduce --list`")
    return name, Trials.of(comparison, name, scale, folder, runs, say)


def runs_of(name: str, trials: Trials, only: str | None, seeds: Iterable[int]) -> Sweep:
    """Returns the runs that a table lacks as a sweep in the folder `trials.runs`, each after those that it starts from.

    Rows with a score, and rows that only score the run of another row, have no run of their own.

    Raises:
      UserError: There is no row of this name, or a row has a config that cannot be loaded.
    """
    chosen = trials.comparison.select(trials.scale, only)
    trials.check(chosen)
    points = [
        _point(trials, trial, seed)
        for trial, seed in trials.lacking(chosen, seeds)
        if not trial.of and _is_own(trials, trial, seed)
    ]
    return Sweep("", (), tuple(points), table=f"{name} at the scale {trials.scale}")


def _is_own(trials: Trials, trial: Trial, seed: int) -> bool:
    """Returns whether a run has its workdir in this table; otherwise another table has finished it."""
    return trials.workdir(trial, seed).is_relative_to(trials.runs)


def _point(trials: Trials, trial: Trial, seed: int) -> Point:
    recipe = trial.recipe(trials.scale)
    if recipe is None:
        raise UserError(f"{trial.name!r} has no recipe at the scale {trials.scale}")
    if slug(trial.name) == RESERVED:
        raise UserError(f"a row named {trial.name!r} cannot be launched, because its folder is the launcher's own")

    def folder_of(other: Trial) -> str:
        return trials.folder(other, seed).relative_to(trials.runs).as_posix()

    others = [trials.comparison.trial(need) for need in recipe.needs()]
    own = [other for other in others if _is_own(trials, other, seed)]
    folders = {other.name: trials.workdir(other, seed).absolute() for other in others}
    folders |= {other.name: pathlib.Path("{folder}", folder_of(other)) for other in (*own, trial)}
    folders |= {"workdir": folders[trial.name], "data": trials.data.absolute()}
    commands = recipe.commands(seed, folders)
    values = {"row": trial.name, "seed": str(seed)}
    return Point(folder_of(trial), values, tuple(map(tuple, commands)), tuple(map(folder_of, own)))
