"""Features in files: every row, whatever its batch, and what is not such a file is refused."""

import sys

import numpy as np
import pytest

from vit_jax.analysis.embedding import stored_features
from vit_jax.errors import UserError

RNG = np.random.default_rng(0)


def batches(sizes=(3, 4, 1), labels=True):
    start = 0
    for size in sizes:
        ids = np.arange(start, start + size)[::-1]  # out of order within a batch
        batch = {"id": ids, "features": np.outer(ids, [1, 10, 100]).astype(np.float32)}
        yield {**batch, "label": ids % 2} if labels else batch
        start += size


@pytest.mark.parametrize("suffix", stored_features.SUFFIXES)
@pytest.mark.parametrize("labels", [True, False])
def test_rows_are_read_as_they_were_written(tmp_path, suffix, labels):
    path = tmp_path / f"features{suffix}"
    assert stored_features.write(path, batches(labels=labels), ("even", "odd")) == 8
    found = stored_features.read(path)
    np.testing.assert_array_equal(found["id"], np.arange(8))
    np.testing.assert_array_equal(found["features"], np.outer(np.arange(8), [1, 10, 100]))
    assert found["features"].dtype == np.float32
    assert found["classes"] == ("even", "odd")
    assert ("label" in found) == labels
    if labels:
        np.testing.assert_array_equal(found["label"], np.arange(8) % 2)


def test_batches_are_written_as_they_come(tmp_path):
    alive = []

    def rows():
        for batch in batches():
            alive.append(batch)
            yield batch
            batch.clear()  # whoever still needs it would fail

    stored_features.write(tmp_path / "features.npz", rows())
    assert len(stored_features.read(tmp_path / "features.npz")["features"]) == 8


def test_numpy_alone_reads_the_file(tmp_path):
    stored_features.write(tmp_path / "features.npz", batches(), ("even", "odd"))
    with np.load(tmp_path / "features.npz") as archive:
        assert archive["features"].shape == (8, 3)
        assert archive["classes"].tolist() == ["even", "odd"]


def test_what_cannot_be_written_or_read_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"must end in .npz or .parquet"):
        stored_features.write(tmp_path / "features.csv", batches())
    with pytest.raises(UserError, match=r"--out=nowhere/f\.npz: there is no folder nowhere"):
        stored_features.check_path("nowhere/f.npz", "--out")
    with pytest.raises(UserError, match="no examples to write"):
        stored_features.write(tmp_path / "features.npz", [])
    with pytest.raises(UserError, match="no such file"):
        stored_features.read(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for name in ("other.npz", "broken.npz"):
        with pytest.raises(UserError, match=f"{name}: not a file of features"):
            stored_features.read(tmp_path / name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'vit_jax\[parquet\]'; or use .npz"):
        stored_features.check_path(tmp_path / "features.parquet")
