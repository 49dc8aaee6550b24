"""Tries small wrong changes of the package, each on a copy of the checkout, and says which of them no test sees.

  python -m tests.mutation.run                       # all, by hand: it takes the better part of an hour
  python -m tests.mutation.run --only=train.py --jobs=4

The lists are in `mutants/`, one file a package: which file, the exact old text, the new one, and the tests that should
see it. Changes that make no difference to what is computed are left out. A mutant whose old text is not in its file
exactly once, or whose new text is no Python there, is stale: the code has changed, and the list should follow. The exit
status is 1 if any is stale or unseen.
"""

import argparse
import ast
import dataclasses
import importlib
import os
import pathlib
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tests.mutation import mutants

ROOT = pathlib.Path(__file__).parent.parent.parent
TIMEOUT = 600  # seconds for the tests of one mutant: one that hangs is seen, too
FAILED = (1, 2)  # of pytest: a test failed, or its file could not be imported
# loaded once; every mutant is tried in a fork of this process, which has loaded nothing of the package's own
PRELOADED = (
    "beartype", "flax.linen", "jax.numpy", "jaxtyping", "ml_collections", "numpy", "optax", "orbax.checkpoint",
    "PIL.Image", "pytest", "rich.progress", "tensorboardX",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant:
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self):
        old, new = (text.strip().splitlines() or ["nothing"] for text in (self.old, self.new))
        return f"{self.file}: {old[0][:60]}  ->  {new[0][:60]}"

    @property
    def is_stale(self) -> bool:
        """Whether the old text does not occur exactly once, or the file with the new text cannot be parsed."""
        path = ROOT / self.file
        text = path.read_text() if path.exists() else ""
        if text.count(self.old) != 1:
            return True
        try:
            ast.parse(text.replace(self.old, self.new))
        except SyntaxError:
            return True
        return False


def load(only: str = "") -> list[Mutant]:
    """Returns the mutants of the files whose path contains `only`."""
    found = []
    for module in pkgutil.iter_modules(mutants.__path__):
        table = importlib.import_module(f"{mutants.__name__}.{module.name}").MUTANTS
        for (file, tests), changes in table.items():
            found += [Mutant(file, old, new, tuple(tests.split())) for old, new in changes]
    return [mutant for mutant in found if only in mutant.file]


def copy_checkout(folder: pathlib.Path) -> pathlib.Path:
    """Copies the files that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@dataclasses.dataclass
class Trial:
    """The tests of a mutant, running in a copy of the checkout; those of None are run on the code as it is."""

    checkout: pathlib.Path
    mutant: Mutant | None
    original: str
    pid: int
    started: float

    @property
    def log(self) -> pathlib.Path:
        return self.checkout.with_suffix(".log")

    def finish(self, status: int) -> str:
        """Undoes the change; returns `seen`, `UNSEEN`, or `ERROR` if the tests could not be run."""
        if self.mutant:
            (self.checkout / self.mutant.file).write_text(self.original)
        shutil.rmtree(self.checkout / "tmp", ignore_errors=True)
        if status < 0 or status in FAILED:
            return "seen"
        return "UNSEEN" if status == 0 else "ERROR"


def start(checkout: pathlib.Path, mutant: Mutant | None, tests: tuple[str, ...]) -> Trial:
    """Makes the change and starts pytest in a fork, which an alarm ends if it takes too long."""
    original = ""
    if mutant:
        original = (checkout / mutant.file).read_text()
        (checkout / mutant.file).write_text(original.replace(mutant.old, mutant.new))
    (checkout / "tmp").mkdir(exist_ok=True)
    pid = os.fork()
    if not pid:
        status = 3
        try:
            status = _run_pytest(checkout, ["-q", "-p", "no:cacheprovider", *(["-x"] if mutant else []), *tests])
        finally:
            os._exit(status)
    return Trial(checkout, mutant, original, pid, time.monotonic())


def _run_pytest(checkout: pathlib.Path, arguments: list[str]) -> int:
    """Runs in the fork."""
    os.setsid()
    signal.alarm(TIMEOUT)
    log = os.open(checkout.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(checkout)
    os.environ |= {
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",  # a mutant may be as old and as long as the file before it
        "TMPDIR": str(checkout / "tmp"),
    }
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    sys.path[:] = [str(checkout), *(path for path in sys.path if path and pathlib.Path(path).resolve() != ROOT)]
    import pytest

    return int(pytest.main(arguments))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="FILE", help="only mutants of files whose path contains FILE")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="copies of the checkout to work in at once")
    parser.add_argument("--stale", action="store_true", help="only look for stale mutants; runs no test")
    args = parser.parse_args(argv)
    chosen = load(args.only)
    stale = [mutant for mutant in chosen if mutant.is_stale]
    for mutant in stale:
        print(f"STALE   {mutant}", flush=True)
    if args.stale or not chosen:
        print(f"{len(chosen)} mutants, {len(stale)} stale")
        return 1 if stale or not chosen else 0

    fresh = [mutant for mutant in chosen if not mutant.is_stale]
    outcomes = {}
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name in PRELOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        idle = [copy_checkout(pathlib.Path(folder) / f"{job}") for job in range(args.jobs)]
        trial = start(idle[0], None, tuple(sorted({test for mutant in fresh for test in mutant.tests})))
        status = os.waitstatus_to_exitcode(os.waitpid(trial.pid, 0)[1])
        trial.finish(status)
        if status:
            print(f"{trial.log.read_text()}\nthe tests fail without any mutant")
            return 1
        left, running = list(reversed(fresh)), {}
        while left or running:
            while left and idle:
                trial = start(idle.pop(), left[-1], left.pop().tests)
                running[trial.pid] = trial
            pid, status = os.wait()
            trial = running.pop(pid)
            outcomes[trial.mutant] = outcome = trial.finish(os.waitstatus_to_exitcode(status))
            print(f"{outcome:6}  {trial.mutant}  ({time.monotonic() - trial.started:.0f} s)", flush=True)
            if outcome == "ERROR":
                print(trial.log.read_text())
            idle.append(trial.checkout)
    missed = [mutant for mutant in fresh if outcomes[mutant] != "seen"]
    print(f"{len(fresh) - len(missed)} of {len(fresh)} seen, {len(stale)} stale")
    for mutant in missed:
        print(f"not seen by {' '.join(mutant.tests)}:\n  {mutant}")
    return 1 if missed or stale else 0


if __name__ == "__main__":
    sys.exit(main())
