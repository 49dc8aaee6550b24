"""A sweep: one config, trained with every combination of some values of its keys; or the rows of a table.

The folder of a sweep holds `sweep.json`, which says what is swept; a workdir for each run; and in `launch/` for each
run the output of its process and what became of it.
"""

import dataclasses
import itertools
import json
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from vit_jax.config import differences, load_config
from vit_jax.errors import UserError, counted
from vit_jax.workdir import files

FILE, VERSION = "sweep.json", 1
RESERVED = "launch"  # folder of the launcher's own files
_MOST = 10_000  # runs


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
      name: Name of its workdir within the folder of the sweep, such as "peak=0.001,seed=0".
      values: The swept keys and their values, as on the command line; for a row of a table, `row` and `seed`.
      commands: For a row of a table, the arguments of each command of vit_jax, the last of which trains; `{folder}`
        stands for the folder of the sweep.
      needs: Names of the runs that must be finished before this one starts.
    """

    name: str
    values: dict[str, str]
    commands: tuple[tuple[str, ...], ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        return [f"--config.{key}={value}" for key, value in self.values.items()]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is trained.

    Attributes:
      config: Config file with its argument, as `train --config` takes it.
      overrides: `--config.KEY=VALUE` for all runs.
      points: The runs.
      table: Name and scale of the table whose rows the runs are; "" for a sweep.
    """

    config: str
    overrides: tuple[str, ...]
    points: tuple[Point, ...]
    table: str = ""

    @classmethod
    def parse(cls, config: str, overrides: Sequence[str], sweeps: Sequence[str], seeds: int | None = None) -> "Sweep":
        """Combines the values of all keys, the last key varying fastest, and checks the config of every run.

        Args:
          sweeps: Keys with values separated by commas, such as "optimizer.schedule.peak=1e-3,3e-3". A comma within
            brackets or quotes separates nothing.
          seeds: Number of seeds, from 0; adds the key `seed`.

        Raises:
          UserError: A key is unknown or swept twice, a value is missing, repeated or illegal, or the config is wrong.
        """
        swept: dict[str, list[str]] = {}
        for text in sweeps:
            key, values = _read(text)
            if key in swept:
                raise UserError(f"--sweep {key} is given twice. Give all its values at once: --sweep {key}=A,B")
            swept[key] = values
        if seeds is not None:
            if "seed" in swept:
                raise UserError("--seeds and --sweep seed=... both set the seed. Give one of them.")
            swept["seed"] = [str(seed) for seed in range(seeds)]
        fixed = {override.partition("=")[0] for override in overrides}
        for key in swept:
            if f"--config.{key}" in fixed:
                raise UserError(f"--sweep {key}: --config.{key} sets the same key for all runs. Leave one of them out.")
        number = 1
        for values in swept.values():
            number *= len(values)
        if number > _MOST:
            raise UserError(f"the sweep has {number:,} runs; at most {_MOST:,} are launched at once")
        names = _short_names(list(swept))
        points = []
        for combination in itertools.product(*swept.values()):
            values = dict(zip(swept, combination, strict=True))
            points.append(Point(_folder({names[key]: value for key, value in values.items()}), values))
        _check(config, overrides, points)
        return cls(config, tuple(overrides), tuple(points))

    def save(self, folder: pathlib.Path) -> "Sweep":
        """Writes `sweep.json`, or adds the runs to those of an existing one; returns the sweep with all runs.

        Raises:
          UserError: The folder holds a sweep of another config, or something else.
        """
        path = folder / FILE
        before = load_sweep(folder) if path.exists() else None
        # another launcher may be about to write the same sweep
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        if before is None and not self.table and any(name != RESERVED and not name.startswith(FILE) for name in names):
            raise UserError(f"{folder} is not empty, and holds no sweep. Name another folder.")
        if before is not None:
            self._check_same(before, folder)
        points = [*(before.points if before else ()), *self.points]
        # by value, because a row whose definition has changed has another name
        merged = dataclasses.replace(self, points=tuple({tuple(p.values.items()): p for p in points}.values()))
        (folder / RESERVED).mkdir(parents=True, exist_ok=True)
        files.replace(
            files.absolute(path), json.dumps({"version": VERSION, **dataclasses.asdict(merged)}, indent=2) + "\n"
        )
        return merged

    def _check_same(self, before: "Sweep", folder: pathlib.Path) -> None:
        if self.table or before.table:
            if self.table != before.table:
                raise UserError(f"{folder} holds {before.table or 'a sweep'}. Name another folder.")
            return
        first, second = (load_config(sweep.config, list(sweep.overrides)) for sweep in (before, self))
        changed = differences(first, second)
        if first.duration != second.duration:  # finished runs would not go on by themselves
            changed.append(f"duration: {first.duration!r} -> {second.duration!r}")
        if changed:
            raise UserError(
                f"{folder} holds a sweep of another config ({'; '.join(changed)}). Undo the change or name another "
                "folder."
            )

    def command(self, point: Point, folder: pathlib.Path, python: str) -> list[str]:
        """Returns the command that trains one run, or resumes it."""
        program = [python, "-m", "vit_jax"]
        if point.commands:
            return _in_turn(
                [[*program, *(word.replace("{folder}", str(folder)) for word in words)] for words in point.commands]
            )
        train = [*program, "train", f"--config={self.config}", f"--workdir={folder / point.name}"]
        return [*train, *self.overrides, *point.overrides]


def load_sweep(folder: pathlib.Path) -> Sweep:
    """Reads `sweep.json`.

    Raises:
      UserError: There is none, or it is damaged or of another version.
    """
    path = folder / FILE
    try:
        saved = json.loads(path.read_text())
        if saved["version"] != VERSION:
            raise UserError(f"{path} is of version {saved['version']}, but this vit_jax reads version {VERSION}")
        points = tuple(
            Point(
                point["name"], dict(point["values"]), tuple(map(tuple, point.get("commands", ()))),
                tuple(point.get("needs", ())),
            )
            for point in saved["points"]
        )  # fmt: skip
        return Sweep(saved["config"], tuple(saved["overrides"]), points, saved.get("table", ""))
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no sweep. Name a folder that `python -m vit_jax launch` has written."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}). Remove it, and launch again.") from None


def _in_turn(commands: Sequence[Sequence[str]]) -> list[str]:
    """Returns one command that runs several in turn, until one fails.

    The last takes the place of the shell, which passes SIGTERM on to the others.
    """
    if len(commands) == 1:
        return list(commands[0])
    *before, last = map(shlex.join, commands)
    script = "".join(f"{command} & wait $! || exit; " for command in before)
    return ["sh", "-c", f"trap 'kill -TERM $!; wait $!; exit 143' TERM; {script}exec {last}"]


def _read(text: str) -> tuple[str, list[str]]:
    """Splits "key=a,b" into the key and its values."""
    key, equals, rest = text.partition("=")
    if not equals or not key:
        raise UserError(f"--sweep {text} must be KEY=VALUE,VALUE, such as optimizer.schedule.peak=1e-3,3e-3")
    values = _split(rest)
    if any(not value.strip() for value in values):
        raise UserError(f"--sweep {text} has an empty value. Separate the values by single commas.")
    if len(set(values)) < len(values):
        raise UserError(f"--sweep {text} has a value twice")
    return key.removeprefix("config."), values


def _split(text: str) -> list[str]:
    """Splits at the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += 0 if quote else (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _short_names(keys: list[str]) -> dict[str, str]:
    """Returns the shortest ends of keys that tell them apart: "peak" for "optimizer.schedule.peak"."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
        others = [other for other in keys if other != key]
        names[key] = next(end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others))
    return names


def _folder(values: dict[str, str]) -> str:
    """Returns the name of a run's folder: no character in it has a meaning to a shell or a file system."""
    text = ",".join(f"{key}={value}" for key, value in values.items()) or "run"
    return re.sub(r"[^\w.,=+-]+", "_", text)


def _check(config: str, overrides: Sequence[str], points: Sequence[Point]) -> None:
    """Loads the config of every run, so that a mistake shows before the first one starts."""
    folders: dict[str, Point] = {RESERVED: Point("", {})}
    for point in points:
        if point.name in folders:
            raise UserError(
                f"--sweep: two runs have the folder {point.name!r}, because their values differ only in characters "
                f"that a file name does not keep; launch them in {counted(2, 'folders')}"
            )
        folders[point.name] = point
        load_config(config, [*overrides, *point.overrides])


def swept_keys(sweep: Sweep) -> list[str]:
    """Returns the keys that a sweep varies."""
    keys: dict[str, Any] = {}
    for point in sweep.points:
        keys |= point.values
    return list(keys)
