"""A disk that is or becomes full ends a run in one line, and the same command goes on afterwards."""

import pathlib
import subprocess

import pytest
import tiny

MEGABYTES = {"at the start": 0, "before the first checkpoint": 0.05, "later": 0.6}


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 16 MB, which only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: pathlib.Path, free: float) -> pathlib.Path:
    """Writes a file that leaves `free` megabytes."""
    path = folder / "filler"
    with open(path, "wb") as file:
        file.write(b"x" * int((16 - free) * 2**20))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("when", MEGABYTES)
def test_a_full_disk_ends_the_run_in_one_line_and_the_same_command_goes_on(tmp_path, disk, when):
    workdir, flags = (
        disk / "run",
        {"compilation_cache": str(tmp_path / "xla"), "data__data_dir": str(tmp_path / "data")},
    )
    filler = fill(disk, MEGABYTES[when])
    process = tiny.start(workdir, **flags)
    output, _ = process.communicate()
    assert process.returncode in (1, 2), output
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("vit_jax: ")]
    assert "No space left on device" in line or "ENOSPC" in line, output
    assert output.splitlines()[-1] == line, output
    filler.unlink()
    tiny.finish(tiny.start(workdir, **flags))
    reference = tmp_path / "whole"
    tiny.finish(tiny.start(reference, **flags))
    assert tiny.rows(workdir) == tiny.rows(reference)
    ours, theirs = tiny.state(workdir, 30), tiny.state(reference, 30)
    assert {name: value.tobytes() for name, value in ours.items()} == {
        name: value.tobytes() for name, value in theirs.items()
    }
