"""The walk over class folders, and the manifest that images and clips share."""

import os

import pytest

from vit_jax.data import scan
from vit_jax.data.scan import (
    Record,
    file_state,
    file_states,
    list_classes,
    read_manifest,
    read_records,
    walk,
    write_records,
)
from vit_jax.errors import UserError

RECORDS = [
    Record("b/1.mp4", 12, 10.0, 1.2, 48, 32, "ok", "", 999, 1_700_000_000),
    Record("a/x.png", width=6, height=5, mode="RGB", bytes=80, modified=1_700_000_000.125),
    Record("a/\udcff,\n.png", status="unreadable", detail='says "so"', bytes=3, modified=5),
]


def test_records_are_written_in_order_and_read_back(tmp_path):
    file = tmp_path / "below" / "records.csv"
    write_records(file, RECORDS)
    assert list(read_records(file).values()) == sorted(RECORDS, key=lambda record: record.path)
    assert os.listdir(file.parent) == ["records.csv"]


def test_a_manifest_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "manifest.csv").write_text(
        "path,frames,fps,seconds,width,height,status,detail,bytes,modified\n"
        "a/1.mp4,12,10.0,1.2,48,32,ok,,999,1700000000\n"
        "a/2.mp4,0,0.0,0.0,0,0,empty,0 bytes,0,1700000000\n"
    )
    first, second = read_manifest(tmp_path).values()
    assert first == Record("a/1.mp4", 12, 10.0, 1.2, 48, 32, "ok", "", 999, 1_700_000_000)
    assert second.reason == "empty: 0 bytes"
    assert not second.is_usable


@pytest.mark.parametrize(
    "line", ["a,1,1,1,1,1,ok,,1", "a,1,1,1,1,1,ok,,1,1,RGB,more", "a,x,1,1,1,1,ok,,1,1,", "a,1,1,1,1,1,fine,,1,1,"]
)
def test_a_line_that_is_not_a_record_is_named(tmp_path, line):
    file = tmp_path / "records.csv"
    write_records(file, RECORDS[:1])
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(UserError, match=r"records\.csv line 3 is not a record"):
        read_records(file)


def test_a_record_holds_until_size_or_time_change(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(b"123")
    os.utime(file, (0, 1000.5))
    exact, whole = (Record("x.png", bytes=3, modified=modified) for modified in (1000.5, 1000))
    assert file_state(file) == (3, 1000.5)
    assert exact.is_current(file_state(file))
    assert whole.is_current(file_state(file))
    os.utime(file, (0, 1000.25))
    assert not exact.is_current(file_state(file))
    assert whole.is_current(file_state(file))
    file.write_bytes(b"1234")
    os.utime(file, (0, 1000))
    assert not whole.is_current(file_state(file))
    assert file_state(tmp_path) == (0, tmp_path.stat().st_mtime)
    assert file_state(tmp_path / "gone") is None
    assert Record("gone", status="missing").is_current(None)
    assert not exact.is_current(None)


def test_classes_are_listed_to_any_depth_without_what_is_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "CHUNK", 2)
    for name in ("b/2", "b/1", "a/deep/er/3", "a/4", "a/.hidden", ".c/5", "b/.d/6", "not/listed"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")

    def find(folder):
        return (os.path.join(parent, file) for parent, _, files in walk(folder) for file in files)

    files, numbers = list_classes(tmp_path, ["a", "b", "empty"], find)
    assert files == ["a/4", "a/deep/er/3", "a/link/1", "a/link/2", "b/1", "b/2"]
    assert numbers == [0, 0, 0, 0, 1, 1]
    assert [found and found[0] for found in file_states(tmp_path, [*files, "a/gone"])] == [3, 11, 3, 3, 3, 3, None]
    monkeypatch.chdir(tmp_path)
    assert list_classes(scan.Path("."), ["a", "b"], find) == (files, numbers)
