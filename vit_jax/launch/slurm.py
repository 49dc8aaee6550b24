"""Running the jobs of a sweep on Slurm, through submitit: one Slurm job for each run.

Before the time limit and on preemption, the run saves its state and the job is put back into the queue; it then resumes
from its newest checkpoint. A job that Slurm itself puts back, after the failure of a node or by `scontrol requeue`,
resumes likewise. With several tasks, JAX joins the processes of all nodes.
"""

import contextlib
import dataclasses
import importlib.util
import io
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vit_jax.errors import RunError, UserError, counted
from vit_jax.launch.jobs import Job
from vit_jax.launch.sweep import Sweep
from vit_jax.workdir.lock import Lock

_SAVE_SECONDS = 120  # before the time limit, for saving the state


@dataclasses.dataclass(frozen=True)
class Resources:
    """What each run asks of Slurm.

    Attributes:
      minutes: Time limit; a run that takes longer is put back into the queue as often as it needs.
      nodes: Number of nodes.
      gpus: GPUs per node. Each has a process of its own; without GPUs, each node has one process.
      cpus: Cores per process.
      memory: Memory per node, as Slurm writes it: "64G"; "" for the default of the cluster.
      partition, account, qos: As Slurm names them; "" for the default of the cluster.
    """

    minutes: int = 60
    nodes: int = 1
    gpus: int = 0
    cpus: int = 1
    memory: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""

    @property
    def tasks(self) -> int:
        """Processes per node."""
        return max(self.gpus, 1)

    def parameters(self, after: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the arguments of submitit's executor for a run that starts after other jobs have succeeded."""
        order = {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"} if after else {}
        named = {"slurm_mem": self.memory, "slurm_partition": self.partition, "slurm_account": self.account}
        named |= {"slurm_qos": self.qos, "gpus_per_node": self.gpus}
        return {
            "timeout_min": self.minutes,
            "nodes": self.nodes,
            "tasks_per_node": self.tasks,
            "cpus_per_task": self.cpus,
            "stderr_to_stdout": True,
            "slurm_signal_delay_s": min(_SAVE_SECONDS, self.minutes * 30),
            "slurm_additional_parameters": {"requeue": True, **order},
            **{name: value for name, value in named.items() if value},
        }

    def cost(self, runs: int) -> str:
        """Returns in words what all runs take at most until their first time limit."""
        devices = self.nodes * (self.gpus or self.tasks * self.cpus)
        hours = runs * devices * self.minutes / 60
        unit = "GPU" if self.gpus else "core"
        limit = f"{self.minutes // 60}:{self.minutes % 60:02} h"
        each = f"{counted(runs, 'runs')} x {counted(devices, f'{unit}s')} x {limit}"
        return f"{each} = {hours:,.4g} {unit}-hours until the time limit"


class Train:
    """The function that Slurm runs: trains one run in a process of its own, and lets it save when the job must end."""

    def __init__(self, command: Sequence[str], output: str):
        self._command, self._output = list(command), output
        self._process: Any = None

    def __call__(self) -> None:
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        output = self._output if rank == 0 else f"{self._output}.{rank}"
        with open(output, "ab") as file:
            self._process = subprocess.Popen(
                self._command, stdout=file, stderr=subprocess.STDOUT, preexec_fn=_ignore_warnings_of_slurm
            )
        if (code := self._end()) and not (rank and code == 128 + signal.SIGTERM):  # process 0 puts the job back
            raise RuntimeError(f"exit status {code}; see {output}")

    def _end(self) -> int:
        """Waits for the process. `Popen.wait` would block the signal handler, which waits as well."""
        while self._process.poll() is None:
            time.sleep(0.2)
        return self._process.returncode

    def checkpoint(self) -> Any:
        """Called by submitit when the job is about to end: returns what is put back into the queue."""
        from submitit.core.utils import DelayedSubmission  # pyright: ignore[reportMissingImports]

        self._process.send_signal(signal.SIGTERM)
        self._end()
        return DelayedSubmission(Train(self._command, self._output))


def _ignore_warnings_of_slurm() -> None:
    """Called in the process of the run: Slurm signals all processes of a job, and the run would end without saving."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # submitit asks for one of them
        signal.signal(number, signal.SIG_IGN)


def check_cluster() -> None:
    """Checks that jobs can be submitted from here.

    Raises:
      UserError: submitit is not installed, or there is no Slurm, or it does not answer.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UserError("--slurm needs the package submitit. Run pip install 'vit_jax[launch]'.")
    if shutil.which("sbatch") is None:
        raise UserError(
            "--slurm: there is no Slurm here, because the command sbatch is not found. Log in to its cluster."
        )
    _ask("sinfo", "--noheader")


def submit(job: Job, sweep: Sweep, resources: Resources) -> str:
    """Submits a run; returns the number of its Slurm job, or "" if another launcher is just submitting it.

    The job starts when those of the runs that it needs, which must have been submitted, have succeeded.

    Raises:
      RunError: Slurm refuses the job.
    """
    try:
        lock = Lock(job.own)
    except UserError:
        return ""
    with contextlib.closing(lock), _explained():
        job.make_folders()
        after = [need.recorded()["slurm"] for need in job.lacking()]
        submitted = _executor(job, resources, after).submit(_train(job, sweep))
        job.record(slurm=submitted.job_id)
    return submitted.job_id


def script(job: Job, sweep: Sweep, resources: Resources) -> str:
    """Returns the batch script that would be submitted for a run, preceded by the command that it runs."""
    executor = _executor(job, resources)._executor
    lines = [f"# {job.point.name}: {shlex.join(sweep.command(job.point, job.folder, sys.executable))}"]
    lines += [f"# It starts after {', '.join(job.point.needs)}."] if job.point.needs else []
    return "\n".join([*lines, executor._make_submission_file_text(executor._submitit_command_str, "run")])


def queue(numbers: Iterable[str]) -> dict[str, str]:
    """Returns the state of those Slurm jobs that are in the queue: "PENDING", "RUNNING", "REQUEUED", ...

    Raises:
      UserError: There is no Slurm here, or it does not answer.
    """
    numbers = set(numbers)
    if not numbers:
        return {}
    lines = _ask("squeue", "--noheader", "--format=%i %T", "--me").splitlines()
    found = dict(line.split(maxsplit=1) for line in lines if line.strip())
    return {number: state for number, state in found.items() if number in numbers}


def cancel(numbers: Sequence[str]) -> None:
    """Ends Slurm jobs; their runs receive SIGTERM first."""
    if numbers:
        _ask("scancel", *numbers)


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError:
        raise UserError(
            f"the sweep runs on Slurm, but the command {command[0]} is not found. Log in to its cluster."
        ) from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (getattr(error, "stderr", "") or "no answer").strip().splitlines()[-1]
        raise UserError(f"Slurm does not answer: {said}") from None


def _train(job: Job, sweep: Sweep) -> Train:
    return Train(sweep.command(job.point, job.folder, sys.executable), str(job.output))


def _executor(job: Job, resources: Resources, after: Sequence[str] = ()) -> Any:
    import submitit  # pyright: ignore[reportMissingImports]

    executor = submitit.AutoExecutor(pathlib.Path(job.own, "slurm"), cluster="slurm", slurm_max_num_timeout=10_000)
    executor.update_parameters(name=job.point.name[:100] or "run", **resources.parameters(after))
    return executor


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    from submitit.core.utils import FailedJobError  # pyright: ignore[reportMissingImports]

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints there what it raises as well
            yield
    except FailedJobError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise RunError(f"Slurm refuses the job: {said}") from None
