"""Metrics of a run: written to `metrics.jsonl` and TensorBoard, and printed."""

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vit_jax.devices.parallel import Parallel
from vit_jax.errors import RunError
from vit_jax.tasks import Sum
from vit_jax.workdir import files
from vit_jax.workdir.mirror import Mirror

# Fields that depend on time: the only ones that differ between two runs of the same command.
TIMINGS = ("examples_per_second", "input_wait", "seconds")
NO_IDS = np.zeros(0, np.int32)


class Metrics:
    """Writes the metrics of a run in process 0. Every process may call it.

    On resuming, rows of `metrics.jsonl` after `first_step` are removed, because those steps will be repeated. So are
    lines that cannot be read, which are named.

    Args:
      kept: Returns the steps of the checkpoints, newest first, for the message if a value is not finite.
      config: The config. If its key `wandb` names a project, the rows are mirrored there: see `mirror.Mirror`.

    Attributes:
      rows: All rows of `metrics.jsonl`, as dicts.

    Raises:
      RunError: The workdir cannot be written.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        first_step: int,
        total_steps: int,
        quiet: bool = False,
        kept: Callable[[], list[int]] = list,
        config: Any = None,
    ):
        self._workdir, self._kept = epath.Path(workdir), kept
        self._path = self._workdir / "metrics.jsonl"
        rows, unreadable = _read(self._path)
        self.rows = [row for row in rows if row["step"] <= first_step]
        self._main = jax.process_index() == 0
        self._console = Console(stderr=False, quiet=quiet or not self._main, highlight=False, soft_wrap=True)
        self._total_steps = total_steps
        self._board: Any = None
        self._board_directory = ""
        self._mirror = None
        if self._main:
            with _explained(self._path):
                files.replace(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
                self._board = self._open_board(first_step)
            if config is not None and config.wandb:
                self._mirror = Mirror(self._workdir, config.wandb, json.loads(config.to_json()), rows)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self._console, disable=not self._console.is_terminal, transient=True,
        )  # fmt: skip
        self._bar = self._progress.add_task("train", total=total_steps, completed=first_step)
        self._progress.start()
        self._started, self._first_step = time.monotonic(), first_step
        if unreadable and first_step:
            lines = f"line {unreadable[0]}" if len(unreadable) == 1 else f"lines {', '.join(map(str, unreadable))}"
            self.say(f"{self._path}: {lines} cannot be read and is removed; rows of steps to be repeated come again")

    def _open_board(self, first_step: int) -> Any:
        """Opens TensorBoard's writer, which writes local files; `close` copies them to a workdir that is not local."""
        from tensorboardX import SummaryWriter

        if files.is_local(self._workdir):
            self._board_directory = os.fspath(self._workdir / "tensorboard")
        else:
            self._board_directory = tempfile.mkdtemp(prefix="vit_jax_tensorboard_")
        # purge_step hides what an interrupted run wrote about steps that will be repeated
        return SummaryWriter(self._board_directory, purge_step=first_step + 1)

    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Appends a row to `metrics.jsonl` and prints it as a line.

        Strings, such as the signature of a metric, are written to the row but not printed.

        Raises:
          RunError: A number is not finite, or the row cannot be written.
        """
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise RunError(self.not_finite(name if split == "train" else f"{split} {name}", value, step))
        row = {"step": step, "split": split, **values}
        self.rows.append(row)
        if not self._main:
            return
        with _explained(self._path):
            files.append(self._path, json.dumps(row))
        for name, value in numbers.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        self._board.flush()
        if self._mirror:
            self._mirror.send(row)
        self.say(f"step {step:>6}/{self._total_steps}  {split:<5}  {_pretty(numbers)}{self._eta(step, split)}")

    def say(self, message: str) -> None:
        """Prints a line above the progress bar."""
        self._console.print(message, markup=False)

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._progress.update(self._bar, completed=step)

    def has(self, step: int, split: str) -> bool:
        """Returns whether there is a row for this step and split."""
        return any(row["step"] == step and row["split"] == split for row in self.rows)

    def last(self, split: str) -> dict[str, float] | None:
        """Returns the newest row of a split; None if there is none."""
        return next((row for row in reversed(self.rows) if row["split"] == split), None)

    def not_finite(self, name: str, value: float, step: int, *details: str) -> str:
        """Returns the message of a run that stops because a value is not finite."""
        steps, kept = self._kept(), "There is no checkpoint yet."
        if steps:
            kept = f"The checkpoint of step {steps[0]} is kept; resuming from it repeats the same steps."
        remedy = (
            "Use another --workdir and try config.optimizer.clip_norm=1 or lower, a lower "
            "config.optimizer.schedule.peak, or a longer config.optimizer.schedule.warmup."
        )
        return " ".join([f"{name} is {float(value)} at step {step}.", *details, kept, remedy])

    def close(self) -> None:
        self._progress.stop()
        if self._mirror:
            self._mirror.close()
        if self._board:
            self._board.close()
            if not files.is_local(self._workdir):
                files.copy_tree(epath.Path(self._board_directory), self._workdir / "tensorboard")
                shutil.rmtree(self._board_directory)

    def _eta(self, step: int, split: str) -> str:
        done = step - self._first_step
        if split != "train" or self._console.is_terminal or not done:
            return ""
        left = (time.monotonic() - self._started) / done * (self._total_steps - step)
        return f"  left {int(left // 3600)}:{int(left // 60 % 60):02}:{int(left % 60):02}"


class _Pending(NamedTuple):
    """The metrics of a step that the devices may not have finished yet."""

    step: int
    sums: dict[str, Sum]
    rate: Any
    examples: int
    ids: np.ndarray


class Window:
    """Means of the training metrics over the steps since the last row.

    The sums of a step are copied to the host only after the next step has been given to the devices, so that the
    devices never wait for the host.

    Timings of a row cover the time from the end of the previous row's last step to the end of its own last step:
    `examples_per_second` counts the examples of the steps that ended in this time, and `input_wait` is the share of it
    that the host spent waiting for input.

    Attributes:
      sums: The sums so far, which are saved in checkpoints so that a resumed run writes the same rows.
    """

    def __init__(self, parallel: Parallel, metrics: Metrics, schedule: optax.Schedule, log_every: int, saved=None):
        self._parallel, self._metrics, self._schedule, self._every = parallel, metrics, schedule, log_every
        self._pending: _Pending | None = None
        self._last_loss = ""
        self.sums: dict[str, list[float]] = dict(saved or {})
        self.clear_clock()

    def clear_clock(self) -> None:
        """Restarts the timings, to exclude what came before (an evaluation, compilation)."""
        self._clock, self._waited, self._examples = time.monotonic(), 0.0, 0

    def add(self, step: int, sums: dict[str, Sum], *, examples: int, waited: float, ids: np.ndarray = NO_IDS) -> None:
        """Takes the sums of `step`, which are still being computed, and fetches those of the step before.

        Args:
          examples: Examples of `step`, over all devices.
          waited: Seconds that the host has waited for the batch of `step`.
          ids: Positions of this process's examples in their split, for the message if a sum is not finite.

        Raises:
          RunError: A sum of the step before is not finite. The message names the examples and the last finite loss.
        """
        # The learning rate is computed on the devices right after `step`, so that reading it later does not block.
        rate = self._schedule(step - 1) if step % self._every == 0 else None
        previous, self._pending = self._pending, _Pending(step, sums, rate, examples, ids)
        self._waited += waited
        self._fetch(previous)

    def flush(self) -> None:
        """Fetches the sums of the last step, and blocks until the devices have finished it.

        Raises:
          RunError: A sum is not finite.
        """
        previous, self._pending = self._pending, None
        self._fetch(previous)

    def _fetch(self, pending: _Pending | None) -> None:
        if pending is None:
            return
        for name, (value, weight) in sorted(self._parallel.fetch(pending.sums).items()):
            if not math.isfinite(value):
                raise RunError(self._metrics.not_finite(name, value, pending.step, *self._details(pending)))
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += float(value)
            total[1] += float(weight)
            if name == "loss" and weight:
                self._last_loss = f"The loss of step {pending.step} was {float(value) / float(weight):.6g}."
        self._examples += pending.examples
        self._metrics.advance(pending.step)
        if pending.step % self._every == 0:
            self._write(pending.step, np.asarray(pending.rate).item())

    def _details(self, pending: _Pending) -> list[str]:
        """Returns sentences about a step that is not finite: the examples of its batch, and the last finite loss."""
        ids = [int(i) for i in pending.ids if i >= 0]
        shown = ", ".join(map(str, ids[:32])) + (f", ... ({len(ids)} in all)" if len(ids) > 32 else "")
        whose = "" if jax.process_count() == 1 else f" in process {jax.process_index()}"
        batch = [f"The ids of the examples in its batch{whose} are {shown}."] if ids else []
        return [*batch, self._last_loss] if self._last_loss else batch

    def _write(self, step: int, rate: float) -> None:
        seconds = max(time.monotonic() - self._clock, 1e-9)
        means = {name: value / weight for name, (value, weight) in self.sums.items()}
        timings = {"examples_per_second": self._examples / seconds, "input_wait": self._waited / seconds}
        self._metrics.write(step, "train", {**means, "learning_rate": rate, **timings})
        self.sums = {}
        self.clear_clock()


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the rows of a workdir's `metrics.jsonl`, without lines that cannot be read; see `files.read_rows`."""
    return _read(epath.Path(workdir) / "metrics.jsonl")[0]


def _read(path: epath.Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the rows of `metrics.jsonl`, and the numbers of the lines that are none."""
    return files.read_rows(path, lambda row: isinstance(row.get("step"), int) and isinstance(row.get("split"), str))


@contextlib.contextmanager
def _explained(path: epath.Path) -> Iterator[None]:
    """Turns a failure to write into a RunError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"cannot write {path}: {reason}. The same command resumes from the last checkpoint.") from error


def _pretty(values: dict[str, float]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
