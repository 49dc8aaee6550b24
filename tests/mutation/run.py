"""Tries small wrong changes of the package, each on a copy of the checkout, and says which of them no test sees.

  python -m tests.mutation.run                       # all, by hand: it takes the better part of an hour
  python -m tests.mutation.run --only=train.py --jobs=4

The lists are in `mutants/`, one file a package: which file, the exact old text, the new one, and the tests that should
see it. Changes that make no difference to what is computed are left out. A mutant whose old text is not in its file
exactly once is stale: the code has changed, and the list should follow. The exit status is 1 if any is stale or unseen.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib
import os
import pathlib
import pkgutil
import queue
import shutil
import subprocess
import sys
import tempfile
import time

from tests.mutation import mutants

ROOT = pathlib.Path(__file__).parent.parent.parent
TIMEOUT = 600  # seconds for the tests of one mutant: one that hangs is seen, too
FAILED = (1, 2)  # of pytest: a test failed, or its file could not be imported


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
        path = ROOT / self.file
        return not path.exists() or path.read_text().count(self.old) != 1


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


def run_tests(checkout: pathlib.Path, tests: tuple[str, ...], *options: str) -> tuple[int, str]:
    """Returns the exit status of pytest and its output; -1 if it took too long."""
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",  # a mutant may be as old and as long as the file before it
        "TMPDIR": str(checkout / "tmp"),
    }
    (checkout / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *tests]
    try:
        done = subprocess.run(
            command, cwd=checkout, env=environment, timeout=TIMEOUT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, "too long"
    finally:
        shutil.rmtree(checkout / "tmp", ignore_errors=True)
    return done.returncode, done.stdout


def try_mutant(checkout: pathlib.Path, mutant: Mutant) -> str:
    """Returns `seen`, `UNSEEN`, or `ERROR` if the tests could not be run."""
    path = checkout / mutant.file
    original = path.read_text()
    try:
        path.write_text(original.replace(mutant.old, mutant.new))
        status, output = run_tests(checkout, mutant.tests, "-x")
    finally:
        path.write_text(original)
    if status in FAILED or status == -1:
        return "seen"
    if status == 0:
        return "UNSEEN"
    print(output, file=sys.stderr)
    return "ERROR"


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
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        checkouts: queue.Queue[pathlib.Path] = queue.Queue()
        for job in range(args.jobs):
            checkouts.put(copy_checkout(pathlib.Path(folder) / f"{job}"))
        first = checkouts.get()
        status, output = run_tests(first, tuple(sorted({test for mutant in fresh for test in mutant.tests})))
        checkouts.put(first)
        if status:
            print(f"{output}\nthe tests fail without any mutant")
            return 1

        def one(mutant: Mutant) -> str:
            checkout, started = checkouts.get(), time.monotonic()
            try:
                outcome = try_mutant(checkout, mutant)
            finally:
                checkouts.put(checkout)
            print(f"{outcome:6}  {mutant}  ({time.monotonic() - started:.0f} s)", flush=True)
            return outcome

        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            found = list(pool.map(one, fresh))
    missed = [mutant for mutant, outcome in zip(fresh, found, strict=True) if outcome != "seen"]
    print(f"{len(found) - len(missed)} of {len(found)} seen, {len(stale)} stale")
    for mutant in missed:
        print(f"not seen by {' '.join(mutant.tests)}:\n  {mutant}")
    return 1 if missed or stale else 0


if __name__ == "__main__":
    sys.exit(main())
