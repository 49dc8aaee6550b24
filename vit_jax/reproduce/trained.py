"""Training the rows of comparisons, and the CSV of their scores.

Every trial and seed has a folder, `RUNS/SCALE/PAPER/TABLE/ROW/SEED-IDENTITY`, which is the workdir of its run and holds
its score in `score.json`. A run that was interrupted resumes; one that another process is training is left to it. The
identity is a digest of all that defines the run: a row whose definition was changed is run again, in another folder,
and a run that several tables have in common is trained once. The
CSV `experiments/results/PAPER/TABLE.SCALE.csv` is made from the scores in the workdirs and from its own rows, so that
several processes, also on several machines that share the folders, can work on one table.
"""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from vit_jax.config import load_config
from vit_jax.errors import Interrupted, RunError, UserError
from vit_jax.reproduce import programs
from vit_jax.reproduce.comparison import Comparison, Trial
from vit_jax.workdir import files
from vit_jax.workdir.lock import Lock
from vit_jax.workdir.metrics import read_metrics
from vit_jax.workdir.provenance import read_runs

COLUMNS = (  # followed by those of `Comparison.also`
    "row", "seed", "metric", "score", "examples", "skipped", "parameters", "steps", "seconds", "hardware", "python",
    "jax", "date", "commit", "identity", "command",
)  # fmt: skip
Rows = dict[tuple[str, int], dict[str, str]]  # by row and seed


@dataclasses.dataclass(frozen=True)
class Trials:
    """The runs of one comparison at one scale.

    Attributes:
      comparison: The comparison.
      scale: `small` or `paper`.
      runs: Folder of the workdirs of this table and scale.
      csv: File of the scores.
      say: Prints a line for the user.
      data: Folder of the data that only comparisons use; see `Comparison.programs`.
    """

    comparison: Comparison
    scale: str
    runs: pathlib.Path
    csv: pathlib.Path
    say: Callable[[str], None] = print
    data: pathlib.Path = pathlib.Path("runs/reproduce/data")

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        name: str,
        scale: str,
        folder: pathlib.Path,
        runs: pathlib.Path,
        say: Callable[[str], None] = print,
    ) -> "Trials":
        """Returns the trials of the table `name`, given the folders of all tables and of all their runs."""
        csv = folder / "results" / f"{name}.{scale}.csv"
        return cls(comparison, scale, runs / scale / name, csv, say, runs / "data")

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COLUMNS, *self.comparison.also)

    def folder(self, trial: Trial, seed: int) -> pathlib.Path:
        return self.runs / slug(trial.name) / f"{seed}-{self.identity(trial, seed)}"

    def workdir(self, trial: Trial, seed: int) -> pathlib.Path:
        """Returns the workdir of a run: `folder`, or that of a row of another table that has finished the same run."""
        own = self.folder(trial, seed)
        if is_finished(own):
            return own
        same = sorted(self.runs.parents[1].glob(f"*/*/*/{own.name}"))
        return next(filter(is_finished, same), own)

    def identity(self, trial: Trial, seed: int) -> str:
        """Returns a digest of what defines a run and its score, with those of the runs that it starts from."""
        recipe = trial.recipe(self.scale)
        needed = [*(recipe.needs() if recipe else []), *([trial.of] if trial.of else [])]
        parts = [self.command(trial, seed), *(self.identity(self.comparison.trial(name), seed) for name in needed)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]

    def command(self, trial: Trial, seed: int) -> str:
        """Returns the commands of a row as the CSV has them: with placeholders for its workdir and other trials."""
        recipe = (self.comparison.trial(trial.of) if trial.of else trial).recipe(self.scale)
        if recipe is None:
            return ""
        scoring = "".join(f"; {name}={value}" for name, value in trial.scoring.items())
        commands = [f"python -m vit_jax {' '.join(map(quoted, words))}" for words in recipe.commands(seed)]
        return " && ".join(commands) + scoring

    def rows(self) -> Rows:
        """Returns the scores in the CSV and in the workdirs, without those of runs that are defined differently now.

        Raises:
          UserError: The CSV has other columns.
        """
        found = read_rows(self.csv, self.columns)
        trials = {trial.name: trial for trial in self.comparison.trials}
        for trial in trials.values():
            for path in (self.runs / slug(trial.name)).glob("*/score.json"):
                row = json.loads(path.read_text())
                if row["identity"] == self.identity(trial, int(row["seed"])):
                    found[trial.name, int(row["seed"])] = row
        return {
            (name, seed): row
            for (name, seed), row in sorted(found.items())
            if name in trials and row["identity"] == self.identity(trials[name], seed)
        }

    def lacking(self, trials: Sequence[Trial], seeds: Iterable[int]) -> list[tuple[Trial, int]]:
        """Returns the rows without a score and their seeds, each after what it starts from, scored or not."""
        scored = self.rows()
        found: list[tuple[Trial, int]] = []
        for seed in seeds:
            missing = [trial for trial in trials if (trial.name, seed) not in scored]
            found += [(trial, seed) for trial in self.comparison.with_preparation(missing, self.scale)]
        return found

    def check(self, trials: Sequence[Trial]) -> None:
        """Loads the configs of rows and of what they start from, so that a mistake shows before anything is trained.

        Raises:
          UserError: A config does not exist or has an illegal value.
        """
        for trial in self.comparison.with_preparation(trials, self.scale):
            if (recipe := trial.recipe(self.scale)) and not trial.of:
                _, config, *overrides, _ = recipe.commands(0)[-1]
                try:
                    load_config(config.removeprefix("--config="), overrides)
                except UserError as error:
                    raise UserError(f"row {trial.name!r}: {error}") from None

    def run(self, trials: Sequence[Trial], seeds: Sequence[int]) -> list[str]:
        """Trains and scores what is missing, and writes the CSV; returns what could not be done, a line each.

        Raises:
          Interrupted: The user or the system stopped the command. It goes on when it is given again.
        """
        known = self.rows()
        problems: list[tuple[Trial, int, str]] = []
        missing = [
            (trial, seed) for trial, seed in self.lacking(trials, seeds) if not self._is_done(trial, seed, known)
        ]
        if missing:
            self.prepare_data()
        times: list[float] = []
        for number, (trial, seed) in enumerate(missing):
            left = f", about {_duration(sum(times) / len(times) * (len(missing) - number))} left" if times else ""
            self.say(f"[{number + 1}/{len(missing)}] {trial.name}, seed {seed}{left}")
            started = time.monotonic()
            if problem := self._train_and_score(trial, seed):
                problems.append((trial, seed, f"{trial.name}, seed {seed}: {problem}"))
                self.say(problems[-1][-1])
            else:
                times.append(time.monotonic() - started)
                write_rows(self.csv, self.rows(), self.columns)
        known = self.rows()
        write_rows(self.csv, known, self.columns)
        # what another process was training may be finished by now
        return [problem for trial, seed, problem in problems if not self._is_done(trial, seed, known)]

    def _is_done(self, trial: Trial, seed: int, known: Rows) -> bool:
        """Returns whether nothing is left to do. The score alone does not help a row that starts from the run."""
        is_row = trial in self.comparison.trials
        return is_finished(self.workdir(trial, seed)) and (not is_row or (trial.name, seed) in known)

    def prepare_data(self) -> None:
        """Prepares the sets that the rows are trained on.

        Raises:
          RunError: A set cannot be prepared.
        """
        if self.comparison.programs:
            programs.prepare(self.data, self.comparison.programs, self.say)
        for arguments in self.comparison.data:
            if status := run_command(["data", "prepare", *arguments]):
                raise RunError(f"data prepare {shlex.join(arguments)} ended with status {status}")

    def _train_and_score(self, trial: Trial, seed: int) -> str:
        """Returns why it was not possible; an empty string if it was."""
        workdir = self.workdir(trial, seed)
        if not trial.of:
            recipe = trial.recipe(self.scale)
            if recipe is None:
                return f"there is no recipe at the {self.scale} scale"
            needed = {name: self.workdir(self.comparison.trial(name), seed) for name in recipe.needs()}
            if lacking := [name for name, path in needed.items() if not is_finished(path)]:
                return f"{lacking[0]} is not finished"
            if not is_finished(workdir):
                if is_in_use(workdir):
                    return "another process is training it"
                workdir.mkdir(parents=True, exist_ok=True)
                for words in recipe.commands(seed, {**needed, "workdir": workdir, "data": self.data}):
                    if status := run_command(words):
                        return f"the command {words[0]} ended with status {status}"
        if trial in self.comparison.trials:
            source = self.workdir(self.comparison.trial(trial.of), seed) if trial.of else workdir
            if not is_finished(source):
                return f"{trial.of} is not finished"
            row = {"row": trial.name, "seed": str(seed), **score(source, self.comparison.metrics, trial.scoring, seed)}
            row |= {"metric": self.comparison.metric, "command": self.command(trial, seed)}
            row |= {"identity": self.identity(trial, seed)}
            text = json.dumps({name: row[name] for name in self.columns}, indent=2) + "\n"
            folder = self.folder(trial, seed)
            folder.mkdir(parents=True, exist_ok=True)
            files.replace(epath.Path(folder / "score.json"), text)
        return ""


def quoted(word: str) -> str:
    """Quotes a word for a shell; placeholders are left as they are."""
    return word if re.fullmatch(r"[\w{}./:,=+-]+", word) else shlex.quote(word)


def slug(name: str) -> str:
    """Returns the name of a row as the name of a folder: `m = 16, c = 24` becomes `m-16-c-24`."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "row"


def is_finished(workdir: pathlib.Path) -> bool:
    runs = read_runs(workdir) if (workdir / "runs.jsonl").exists() else []
    return any(run["status"] == "finished" for run in runs)


def is_in_use(workdir: pathlib.Path) -> bool:
    """Returns whether another process is training in a workdir."""
    if not (workdir / "lock.json").exists():
        return False
    try:
        Lock(workdir).close()
    except UserError:
        return True
    return False


def score(workdir: pathlib.Path, metrics: Sequence[str], scoring: Mapping[str, Any], seed: int) -> dict[str, str]:
    """Returns the scores and the provenance of a finished run, as text.

    Args:
      metrics: Names of the scores. The first becomes the column `score`, the others have their own names.
      scoring: See `Trial`; without any, the score is that at the end of training.
      seed: Seed with which the labelled examples of few-shot evaluation are drawn.
    """
    import jax

    from vit_jax.load import load_run

    options = dict(scoring)
    run = load_run(workdir, average=options.pop("average", 1))
    if shots := options.pop("few_shot", 0):
        result = _few_shot(run, shots, seed, **options)
    elif scoring:
        result = dataclasses.replace(run, task=run.task_with(**options)).evaluate()
    else:
        result = [row for row in read_metrics(workdir) if row["split"] == "eval"][-1]
    starts = read_runs(workdir)
    first, in_one_go = starts[0], len(starts) == 1 and not starts[0].get("resumed_from")
    found = {
        "score": f"{result[metrics[0]]:.6g}",
        **{name: f"{result[name]:.6g}" for name in metrics[1:]},
        **{name: result[name] for name in ("examples", "skipped")},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.params)),
        "steps": run.step,
        "seconds": first["seconds"] if in_one_go else "",  # of a run that was interrupted, the sum is not known
        **{name: first[name] for name in ("hardware", "python", "commit")},
        "jax": first["packages"]["jax"],
        "date": first["started"][:10],
    }
    return {name: str(value) for name, value in found.items()}


def _few_shot(run: Any, shots: int, seed: int, data: str | None = None) -> dict[str, Any]:
    """Returns the scores on the test split of a linear classifier of frozen features."""
    from vit_jax.analysis.embedding.few_shot import evaluate_few_shot

    other = {"name": data} if data else {}
    train, test = (run.open_split(split, **other) for split in ("train", "test"))
    return next(iter(evaluate_few_shot(run, train, test, [shots], seed=seed)))


def read_rows(path: pathlib.Path, columns: Sequence[str] = COLUMNS) -> Rows:
    """Reads the CSV of scores; no rows if it does not exist.

    Raises:
      UserError: The file has other columns.
    """
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise UserError(
                f"{path} has the columns {reader.fieldnames}, not {list(columns)}. Remove it and run again."
            )
        return {(row["row"], int(row["seed"])): row for row in reader}


def write_rows(path: pathlib.Path, rows: Rows, columns: Sequence[str] = COLUMNS) -> None:
    """Writes the CSV of scores, sorted by row and seed, unless there is nothing to write."""
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", newline="") as file:
        writer: Any = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for _, row in sorted(rows.items()))
    partial.replace(path)


def run_command(arguments: Sequence[str]) -> int:
    """Runs `python -m vit_jax ARGUMENTS`, and returns its exit status.

    Raises:
      Interrupted: This process received SIGINT or SIGTERM, and sent it on; the command has saved its state.
    """
    # in a group of its own, so that Ctrl-C in a terminal does not reach it twice
    process = subprocess.Popen([sys.executable, "-m", "vit_jax", *arguments], process_group=0)
    with _forwarded(process) as received:
        status = process.wait()
    if received:
        raise Interrupted(received[0], "interrupted; the same command goes on")
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _forwarded(process: subprocess.Popen) -> Iterator[list[int]]:
    """A context that sends SIGTERM and SIGINT on to a child, and yields a list of those received."""
    received: list[int] = []

    def forward(signum: int, frame: Any) -> None:
        received.append(signum)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
