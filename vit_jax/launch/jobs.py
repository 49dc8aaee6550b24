"""The runs of a sweep as jobs: what became of each, and what its workdir says."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

from vit_jax.launch.sweep import RESERVED, Point, Sweep, load_sweep
from vit_jax.workdir import files
from vit_jax.workdir.lock import is_alive

WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"
_STEP = re.compile(r"step +(\d+)/(\d+) ")
_TAIL = 64 * 1024  # bytes at the end of an output that are read
_INTERRUPTED = (130, 143)  # exit statuses after Ctrl-C and SIGTERM


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
      folder: Folder of the sweep.
      point: The run.
    """

    folder: pathlib.Path
    point: Point

    @property
    def workdir(self) -> pathlib.Path:
        return self.folder / self.point.name

    @property
    def own(self) -> pathlib.Path:
        """The launcher's files about the run: `job.json`, `output.log` and the launcher's lock."""
        return self.folder / RESERVED / self.point.name

    @property
    def output(self) -> pathlib.Path:
        return self.own / "output.log"

    @property
    def needs(self) -> list["Job"]:
        """The runs that must be finished before this one starts."""
        return [Job(self.folder, Point(name, {})) for name in self.point.needs]

    def lacking(self) -> list["Job"]:
        """Returns those of `needs` that are not finished."""
        return [job for job in self.needs if not job.is_finished()]

    def make_folders(self) -> None:
        """Creates the workdir, which the commands before the training may write to, and the launcher's own folder."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.own.mkdir(parents=True, exist_ok=True)

    def record(self, **values: Any) -> None:
        """Replaces what is known about the run's process: `pid`, `host`, `started`, `exit` or `slurm`."""
        self.own.mkdir(parents=True, exist_ok=True)
        files.replace(files.absolute(self.own / "job.json"), json.dumps(values) + "\n")

    def recorded(self) -> dict[str, Any]:
        """Returns what `record` wrote last; nothing if the run has not been started."""
        with contextlib.suppress(OSError, ValueError):
            saved = json.loads((self.own / "job.json").read_text())
            return saved if isinstance(saved, dict) else {}
        return {}

    def is_finished(self) -> bool:
        """Returns whether the last start of the run came to its end."""
        starts = files.read_rows(files.absolute(self.workdir / "runs.jsonl"))[0]
        return bool(starts) and starts[-1].get("status") == "finished"

    def progress(self) -> tuple[int, int]:
        """Returns the last step in the output, and the number of steps; (0, 0) before the first."""
        found = _STEP.findall(_tail(self.output))
        return (int(found[-1][0]), int(found[-1][1])) if found else (0, 0)

    def scores(self) -> dict[str, Any]:
        """Returns the newest evaluation in `metrics.jsonl`, else the newest row; nothing if there is none."""
        rows = files.read_rows(files.absolute(self.workdir / "metrics.jsonl"))[0]
        evaluations = [row for row in rows if row.get("split") == "eval"]
        return (evaluations or rows or [{}])[-1]

    def state(self, queue: dict[str, str]) -> tuple[str, str]:
        """Returns the state of the run, and the reason if it has failed or waits in a queue.

        Args:
          queue: State of each Slurm job that is in the queue; see `slurm.queue`.
        """
        saved = self.recorded()
        if saved.get("slurm") in queue:
            word = queue[saved["slurm"]]
            return (RUNNING if word in ("RUNNING", "COMPLETING") else WAITING), f"Slurm job {saved['slurm']}: {word}"
        if self.is_finished():
            return FINISHED, ""
        if not saved:
            return WAITING, ""
        if "pid" in saved and is_alive(saved):
            return RUNNING, f"process {saved['pid']} on {saved['host']}"
        if saved.get("exit") in _INTERRUPTED or ("slurm" not in saved and "exit" not in saved):
            return STOPPED, ""
        reason = self.reason()
        return (STOPPED, "") if reason.startswith("stopped after step") else (FAILED, reason)

    def reason(self) -> str:
        """Returns the last line that says why a run has failed: the message of vit_jax, else the last of all."""
        if lacking := self.lacking():
            return f"{lacking[0].point.name}, which it starts from, is not finished"
        code = self.recorded().get("exit")
        if isinstance(code, int) and code < 0:
            return f"ended by signal {-code}"
        logs = sorted((self.own / "slurm").glob("*.out"), key=lambda path: path.stat().st_mtime)
        for path in (self.output, *reversed(logs)):
            lines = [line.strip() for line in _tail(path).splitlines() if line.strip()]
            ours = [line.removeprefix("vit_jax: ") for line in lines if line.startswith("vit_jax: ")]
            if lines:
                return (ours or lines)[-1]
        return "it has no output"


def jobs_of(folder: pathlib.Path, sweep: Sweep | None = None) -> list[Job]:
    """Returns the runs of the sweep in a folder."""
    return [Job(folder, point) for point in (sweep or load_sweep(folder)).points]


def _tail(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
