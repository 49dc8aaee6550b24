"""Every mutant fails a test: `pytest -m slow tests/mutation`, or `python -m tests.mutation.run`."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_every_mutant_is_seen():
    done = subprocess.run([sys.executable, "-m", "tests.mutation.run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
