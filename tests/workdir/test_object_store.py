"""A workdir in an object store: files cannot grow or be renamed into place there, and Python's `open` does not see it.

The store is fsspec's memory file system in place of Google's. Checkpoints are not tested here: Orbax writes them to an
object store through TensorStore, which does not use `etils.epath`.
"""

import json

import fsspec
import jax
import pytest
from etils import epath
from etils.epath import backend, gpath

from vit_jax.workdir import files
from vit_jax.workdir.checkpoint import saved_steps
from vit_jax.workdir.metrics import Metrics, read_metrics
from vit_jax.workdir.provenance import read_runs, recorded


class Store(type(backend.fsspec_backend)):
    """Google's file system in memory: whole objects, written once."""

    def fs(self, path):
        return fsspec.filesystem("memory")

    def open(self, path, mode):
        if "a" in mode:
            raise NotImplementedError("objects cannot be appended to")
        return super().open(path, mode)

    def rename(self, *_):
        raise NotImplementedError("renaming is copying")

    replace = rename


@pytest.fixture
def workdir(monkeypatch, tmp_path):
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Store())
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    workdir = epath.Path("gs://bucket/run")
    workdir.mkdir(parents=True)
    yield workdir
    assert not list(tmp_path.iterdir()), "a path was taken for a local one"
    workdir.rmtree()


def test_paths_are_told_apart():
    assert files.is_local("runs/a")
    assert files.is_local(epath.Path("/runs/a"))
    assert not files.is_local("gs://bucket/run")
    assert not files.is_local(epath.Path("gs://bucket/run"))
    assert files.absolute("runs/a").is_absolute()
    assert str(files.absolute("gs://bucket/run")) == "gs://bucket/run"


def test_metrics_and_tensorboard_reach_the_store(workdir):
    metrics = Metrics(str(workdir), first_step=0, total_steps=4, quiet=True)
    metrics.write(2, "train", {"loss": 0.5})
    assert [row["step"] for row in read_metrics(workdir)] == [2]
    metrics.write(4, "eval", {"loss": 0.25})
    metrics.close()
    assert [row["loss"] for row in read_metrics(workdir)] == [0.5, 0.25]
    events = list((workdir / "tensorboard").iterdir())
    assert len(events) == 1
    assert events[0].read_bytes()

    resumed = Metrics(workdir, first_step=2, total_steps=4, quiet=True)
    resumed.write(4, "eval", {"loss": 0.125})
    resumed.close()
    assert [row["loss"] for row in read_metrics(workdir)] == [0.5, 0.125]


def test_provenance_reaches_the_store(workdir):
    for _ in range(2):
        with recorded(str(workdir)):
            pass
    assert [run["status"] for run in read_runs(workdir)] == ["finished", "finished"]
    assert all(json.dumps(run) for run in read_runs(workdir))
    assert jax.process_count() == 1


def test_steps_of_checkpoints_are_found(workdir):
    assert saved_steps(workdir) == []
    for name in ("3", "10", "damaged_7"):
        (workdir / "checkpoints" / name).mkdir(parents=True)
    assert saved_steps(str(workdir)) == [10, 3]
