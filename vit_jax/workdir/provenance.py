"""Provenance: the command, commit, package versions and machine behind the numbers of a run.

`WORKDIR/runs.jsonl` has one line for every start of the run.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from etils import epath

from vit_jax.workdir import files
from vit_jax.workdir.checkpoint import saved_steps

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "pillow",
    "av", "sentencepiece", "sacrebleu",
)  # fmt: skip


@contextmanager
def recorded(workdir: epath.PathLike) -> Iterator[None]:
    """A context that appends a line to `runs.jsonl` when it ends, with the status and the wall time in seconds.

    A process that is killed leaves no line. The next line then shows it by `resumed_from`, the step of the newest
    checkpoint at its start.
    """
    entry = {
        "resumed_from": max(saved_steps(workdir), default=0),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "hardware": hardware(),
    }
    start, status = time.monotonic(), "finished"
    try:
        yield
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"
        raise
    finally:
        path = epath.Path(workdir) / "runs.jsonl"
        if jax.process_index() == 0 and path.parent.is_dir():
            entry |= {"status": status, "seconds": round(time.monotonic() - start, 1)}
            try:
                files.append(path, json.dumps(entry))
            except OSError:
                if status == "finished":  # otherwise it would hide the error that ended the run
                    raise


def command() -> str:
    """Returns the command line, quoted for a shell."""
    return "python -m vit_jax " + shlex.join(sys.argv[1:])


def commit() -> str:
    """Returns the git commit of the package's checkout, with `-dirty` if files differ; else the package's version."""
    here = pathlib.Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return importlib.metadata.version("vit_jax")


def hardware() -> str:
    """Returns the devices and the CPU in words."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores {processor()}"


def processor() -> str:
    """Returns the name of the CPU."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def read_runs(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a workdir's `runs.jsonl`, without those that cannot be read."""
    return files.read_rows(epath.Path(workdir) / "runs.jsonl")[0]
