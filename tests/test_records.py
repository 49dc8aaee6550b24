"""Tables in files: what is added batch by batch is read back, whatever the format and however writing ends."""

import csv
import importlib.util
import json

import numpy as np
import pytest

from vit_jax import records
from vit_jax.errors import UserError

LOGITS = np.arange(10, dtype=np.float32).reshape(5, 2) / 3
ROWS = {
    "id": [0, 1, 2, 3, 4],
    "file": ["a.png", "ü,b.png", "", 'q"q', "e"],
    "correct": [True, False, None, None, True],
    "classes": [["x", "y"], ["y", "x"], ["x", "y"], ["x", "y"], ["y", "x"]],
    "probabilities": [[0.75, 0.25]] * 5,
    "logits": LOGITS,
}


def batches():
    for part in (slice(0, 2), slice(2, 4), slice(4, 5)):
        yield {name: column[part] for name, column in ROWS.items()}


def write(path, most=3):
    with records.open_table(str(path)) as table:
        for number, batch in enumerate(batches()):
            if number == most:
                raise KeyboardInterrupt
            table.add(batch)


def test_a_csv_has_a_line_per_row_and_json_in_lists(tmp_path):
    write(tmp_path / "x.csv")
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(ROWS)
    assert [row["file"] for row in rows] == ROWS["file"]
    assert [row["correct"] for row in rows] == ["True", "False", "", "", "True"]
    assert [json.loads(row["classes"]) for row in rows] == ROWS["classes"]
    np.testing.assert_allclose([json.loads(row["logits"]) for row in rows], LOGITS, rtol=1e-5)


def test_an_npz_has_an_array_per_column(tmp_path):
    write(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["logits"], LOGITS)
        np.testing.assert_array_equal(arrays["correct"], [1, 0, np.nan, np.nan, 1])
        assert arrays["file"].tolist() == ROWS["file"]
        assert arrays["classes"].tolist() == ROWS["classes"]
        assert arrays["id"].dtype.kind == "i"


needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="the extra parquet")


@needs_pyarrow
def test_parquet_has_typed_columns(tmp_path):
    from pyarrow import parquet

    write(tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    assert {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)} == {
        "id": "int64", "file": "string", "correct": "bool", "classes": "list<element: string>",
        "probabilities": "list<element: double>", "logits": "list<element: float>",
    }  # fmt: skip
    found = table.to_pydict()
    for name in ("id", "file", "correct", "classes", "probabilities"):
        assert found[name] == ROWS[name]
    np.testing.assert_array_equal(found["logits"], LOGITS)


@pytest.mark.parametrize("suffix", ["csv", "npz", pytest.param("parquet", marks=needs_pyarrow)])
def test_what_was_added_before_an_interruption_can_be_read(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    with pytest.raises(KeyboardInterrupt):
        write(path, most=2)
    if suffix == "csv":
        ids = [int(row["id"]) for row in csv.DictReader(path.read_text().splitlines())]
    elif suffix == "npz":
        ids = np.load(path)["id"].tolist()
    else:
        from pyarrow import parquet

        ids = parquet.read_table(path)["id"].to_pylist()
    assert ids == [0, 1, 2, 3]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_single_rows_are_added_in_batches(tmp_path):
    with records.open_table(str(tmp_path / "x.csv")) as table:
        buffered = records.Buffered(table, 2)
        for i in range(3):
            buffered.add({"id": i, "name": str(i)})
        assert (tmp_path / "x.csv").read_text() == "id,name\n0,0\n1,1\n"
        buffered.flush()
    assert buffered.rows == 3
    assert (tmp_path / "x.csv").read_text() == "id,name\n0,0\n1,1\n2,2\n"


def test_mistakes_in_the_name_of_a_table(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"--predictions=x\.parqet has an unknown suffix '\.parqet'; did you mean '\.parquet'"
    ):
        records.check_table("x.parqet")
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/no"):
        records.check_table(f"{tmp_path}/no/x.csv")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--output=x\.parquet: Parquet needs the package pyarrow\. Run pip install"):
        records.check_table("x.parquet", "--output")
    records.check_table(str(tmp_path / "x.csv"))


def test_rows_are_appended_to_a_csv_of_the_same_columns_only(tmp_path):
    path = str(tmp_path / "scores.csv")
    records.append_row(path, {"set": "digits, small", "top1": 0.5})
    records.append_row(path, {"set": "digits", "top1": 0.75})
    assert (tmp_path / "scores.csv").read_text() == 'set,top1\n"digits, small",0.5\ndigits,0.75\n'
    with pytest.raises(UserError, match=r"is a CSV of another version.*lacks \['top5'\] and also has \['top1'\]"):
        records.append_row(path, {"set": "digits", "top5": 1})
    with pytest.raises(UserError, match="they are in another order"):
        records.append_row(path, {"top1": 1, "set": "digits"})
