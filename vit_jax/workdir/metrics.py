"""Writers of metrics: `metrics.jsonl` is the record; TensorBoard and a progress line beside it."""

import json
import math
import os
import time
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vit_jax.errors import RunError
from vit_jax.parallel import Parallel
from vit_jax.tasks import Sum

# fields that say how long something took: the only ones that differ between two runs of the same command
TIMINGS = ("examples_per_second", "input_wait", "seconds")


class Metrics:
    """Writes metrics of process 0; every process may call it.

    Rows of `metrics.jsonl` after `first_step` are cut: they belong to steps that will be done again.
    """

    def __init__(self, workdir: epath.PathLike, *, first_step: int, total_steps: int, quiet: bool = False):
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self.rows = [row for row in read_metrics(workdir) if row["step"] <= first_step]
        self._main = jax.process_index() == 0
        self._console = Console(stderr=False, quiet=quiet or not self._main, highlight=False, soft_wrap=True)
        self._total_steps = total_steps
        self._board: Any = None
        if self._main:
            self._rewrite()
            from tensorboardX import SummaryWriter

            # purge_step hides what an interrupted run wrote of the same steps
            self._board = SummaryWriter(os.fspath(epath.Path(workdir) / "tensorboard"), purge_step=first_step + 1)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self._console, disable=not self._console.is_terminal, transient=True,
        )  # fmt: skip
        self._bar = self._progress.add_task("train", total=total_steps, completed=first_step)
        self._progress.start()
        self._started, self._first_step = time.monotonic(), first_step

    def _rewrite(self) -> None:
        beside = self._path.with_suffix(".jsonl.tmp")
        beside.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        beside.replace(self._path)

    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Appends a row, and prints it as a line; raises RunError if a number is not finite.

        A string among the values, such as the signature of a metric, is kept in the row alone.
        """
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        for name, value in numbers.items():
            _check_finite(name if split == "train" else f"{split} {name}", value, step)
        row = {"step": step, "split": split, **values}
        self.rows.append(row)
        if not self._main:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in numbers.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        self._board.flush()
        self.say(f"step {step:>6}/{self._total_steps}  {split:<5}  {_pretty(numbers)}{self._eta(step, split)}")

    def say(self, message: str) -> None:
        """Prints a line above the progress bar."""
        self._console.print(message, markup=False)

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._progress.update(self._bar, completed=step)

    def has(self, step: int, split: str) -> bool:
        return any(row["step"] == step and row["split"] == split for row in self.rows)

    def last(self, split: str) -> dict[str, float] | None:
        """Returns the newest row of a split."""
        return next((row for row in reversed(self.rows) if row["split"] == split), None)

    def close(self) -> None:
        self._progress.stop()
        if self._board:
            self._board.close()

    def _eta(self, step: int, split: str) -> str:
        done = step - self._first_step
        if split != "train" or self._console.is_terminal or not done:
            return ""
        left = (time.monotonic() - self._started) / done * (self._total_steps - step)
        return f"  left {int(left // 3600)}:{int(left // 60 % 60):02}:{int(left % 60):02}"


class Window:
    """Means of training metrics over the steps since the last line.

    The sums of a step are fetched only when the next step has been given to the device, which therefore never
    waits for the host. `sums` goes into checkpoints, so that a resumed run writes the same lines.

    `add` and `flush` raise RunError, naming the step.
    """

    def __init__(self, parallel: Parallel, metrics: Metrics, schedule: optax.Schedule, log_every: int, saved=None):
        self._parallel, self._metrics, self._schedule, self._every = parallel, metrics, schedule, log_every
        self._pending: tuple[int, Any] | None = None
        self.sums: dict[str, list[float]] = dict(saved or {})
        self.clear_clock()

    def clear_clock(self) -> None:
        """Starts the timings anew, leaving out what came before (an evaluation, compilation)."""
        self._clock, self._waited, self._examples = time.monotonic(), 0.0, 0

    def add(self, step: int, sums: dict[str, Sum], *, examples: int, waited: float) -> None:
        """Takes the sums of `step`, still on the device, and fetches those of the step before."""
        previous, self._pending = self._pending, (step, sums)
        self._fetch(previous)
        self._examples += examples
        self._waited += waited

    def flush(self) -> None:
        """Fetches what is pending: blocks until the device has finished it."""
        previous, self._pending = self._pending, None
        self._fetch(previous)

    def _fetch(self, pending: tuple[int, Any] | None) -> None:
        if pending is None:
            return
        step, sums = pending
        for name, (value, weight) in sorted(self._parallel.fetch(sums).items()):
            _check_finite(name, value, step)
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += float(value)
            total[1] += float(weight)
        self._metrics.advance(step)
        if step % self._every == 0:
            self._write(step)

    def _write(self, step: int) -> None:
        seconds = max(time.monotonic() - self._clock, 1e-9)
        means = {name: value / weight for name, (value, weight) in self.sums.items()}
        with jax.default_device(jax.local_devices(backend="cpu")[0]):  # the accelerator is busy with the next step
            rate = np.asarray(self._schedule(step - 1)).item()
        timings = {"examples_per_second": self._examples / seconds, "input_wait": self._waited / seconds}
        self._metrics.write(step, "train", {**means, "learning_rate": rate, **timings})
        self.sums = {}
        self.clear_clock()


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the rows of a workdir's `metrics.jsonl`, without a last line that was only half written."""
    path = epath.Path(workdir) / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _check_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise RunError(f"{name} is {float(value)} at step {step}; stopped, the last good checkpoint is kept")


def _pretty(values: dict[str, float]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
