"""Where a number came from: commit, device and versions; and CSV files that only grow."""

import csv
import datetime
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "timm", "transformers", "pillow")


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def commit() -> str:
    """Returns the variable `COMMIT`, or the commit of this checkout, `-dirty` if it is changed."""
    if given := os.environ.get("COMMIT"):
        return given
    git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def processor() -> str:
    """Returns the name of the CPU."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Iterable[str] = PACKAGES) -> str:
    """Returns the versions of Python and of those packages that are installed."""
    found = [f"python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


class Table:
    """A CSV file with a fixed header, to which rows are appended one by one, so that a stopped run keeps its rows.

    Raises:
      SystemExit: The file exists with another header.
    """

    def __init__(self, path: str | pathlib.Path, columns: Sequence[str]):
        self.path, self.columns = pathlib.Path(path), tuple(columns)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open(newline="") as file:
                header = tuple(next(csv.reader(file), ()))
            if header != self.columns:
                raise SystemExit(f"{self.path} has other columns than this benchmark writes. Choose another file.")
        else:
            self._append(dict(zip(self.columns, self.columns, strict=True)))

    def add(self, **values: Any) -> None:
        """Appends a row; columns left out stay empty."""
        if unknown := set(values) - set(self.columns):
            raise ValueError(f"{self.path} has no columns {sorted(unknown)}")
        self._append(values)

    def _append(self, values: dict[str, Any]) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(_text(values.get(column)) for column in self.columns)


def _text(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value
