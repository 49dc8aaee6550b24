"""The command `data check`: the status of each clip, and the manifest."""

import csv
import os
import signal

import pytest
from PIL import Image
from tiny_clips import write_clip, write_sound

from vit_jax.data.scan import Record, manifest_files, read_manifest, write_manifest
from vit_jax.data.video import check as video_check
from vit_jax.data.video.check import Check, examine, examine_all
from vit_jax.data.video.source import VideoSource
from vit_jax.errors import UserError


def run(path, **kwargs):
    """Returns the statuses by path, and the paths that were decoded."""
    check = Check(path, **kwargs)
    done = [record.path for record in check.run(0)]
    assert sorted(done) == check.todo
    return {record.path: record.status for record in check.records}, done


@pytest.fixture
def clips(tmp_path):
    """One of each kind."""
    folder = tmp_path / "train" / "a"
    write_clip(folder / "fine.avi", 12)
    write_clip(folder / "two.mp4", 2)
    write_clip(folder / "uneven.mkv", times=[0, 100, 200, 300, 350, 600, 700, 800, 1000, 1100])
    whole = write_clip(folder / "index_lost.mp4", 30)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole = write_clip(folder / "cut.mkv", 60)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    write_sound(folder / "sound.mp4")
    (folder / "empty.webm").touch()
    (folder / "text.mov").write_text("no video at all\n" * 100)
    for index in range(10):
        (folder / "frames").mkdir(exist_ok=True)
        Image.new("L", (20, 10)).save(folder / "frames" / f"{index}.png")
    (folder / "few").mkdir()
    Image.new("L", (20, 10)).save(folder / "few" / "1.png")
    (folder / "holed").mkdir()
    (folder / "holed" / "1.png").write_bytes(b"\x89PNG")
    return tmp_path


KINDS = {
    "train/a/cut.mkv": "truncated",
    "train/a/empty.webm": "empty",
    "train/a/few": "few-frames",
    "train/a/fine.avi": "ok",
    "train/a/frames": "ok",
    "train/a/holed": "unreadable",
    "train/a/index_lost.mp4": "truncated",
    "train/a/sound.mp4": "audio-only",
    "train/a/text.mov": "unreadable",
    "train/a/two.mp4": "few-frames",
    "train/a/uneven.mkv": "variable-rate",
}


def test_each_kind_is_told_apart(clips):
    assert run(clips)[0] == KINDS
    records = read_manifest(clips)
    fine = records["train/a/fine.avi"]
    assert (fine.frames, fine.fps, fine.seconds, fine.width, fine.height, fine.detail) == (12, 10.0, 1.2, 48, 32, "")
    frames = records["train/a/frames"]
    assert (frames.frames, frames.fps, frames.seconds, frames.width, frames.height) == (10, 0.0, 0.0, 20, 10)
    assert records["train/a/uneven.mkv"].detail == "0.05 to 0.25 seconds per frame"
    assert "frame 1.png" in records["train/a/holed"].detail
    assert records["train/a/two.mp4"].detail == "2 of at least 8"
    with (clips / "manifest.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["path"] for row in rows] == sorted(KINDS)
    assert list(rows[0])[:8] == ["path", "frames", "fps", "seconds", "width", "height", "status", "detail"]


def test_what_can_be_used_agrees_with_what_is_read(clips):
    """Every clip that the check lets through decodes to its last frame, and none that it holds back."""
    unchecked = VideoSource(clips, "train")
    readable = []
    for file, example in zip(unchecked.files, unchecked.__getitems__(range(len(unchecked))), strict=True):
        try:
            example["video"].read([0, example["video"].num_frames - 1])
            readable.append(file)
        except UserError:
            pass
    run(clips)
    source = VideoSource(clips, "train")
    skipped = {file for file, _ in source.skipped}
    assert readable == [file for file in source.files if file not in skipped]
    assert len(source) == 5


DOUBTFUL = [name for name in KINDS if KINDS[name] in ("truncated", "unreadable")]  # these are decoded every time


def test_only_what_has_changed_is_decoded_again(clips):
    assert len(run(clips)[1]) == len(KINDS)
    assert run(clips)[1] == DOUBTFUL
    write_clip(clips / "train" / "a" / "text.mov", 9)
    os.utime(clips / "train" / "a" / "fine.avi", (1e9, 1e9))
    statuses, done = run(clips)
    assert sorted(done) == sorted(["train/a/fine.avi", *DOUBTFUL])
    assert statuses["train/a/text.mov"] == "ok"
    (clips / "train" / "a" / "empty.webm").unlink()
    assert run(clips)[1] == [name for name in DOUBTFUL if name != "train/a/text.mov"]
    assert "train/a/empty.webm" not in read_manifest(clips)


def test_an_error_that_passes_leaves_the_manifest(clips, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(video_check, "opened", refuse)
        assert run(clips)[0]["train/a/fine.avi"] == "unreadable"
    assert read_manifest(clips)["train/a/fine.avi"].detail == "[Errno 13] Permission denied"
    assert run(clips)[0] == KINDS


def test_another_least_number_of_frames(clips):
    run(clips)
    statuses, done = run(clips, min_frames=11)
    assert sorted(done) == sorted(["train/a/frames", "train/a/uneven.mkv", *DOUBTFUL])
    assert statuses["train/a/uneven.mkv"] == "few-frames"
    statuses, done = run(clips, min_frames=2)
    assert sorted(done) == sorted(["train/a/frames", "train/a/two.mp4", "train/a/uneven.mkv", *DOUBTFUL])
    assert statuses["train/a/two.mp4"] == "ok"
    assert statuses["train/a/uneven.mkv"] == "variable-rate"


def test_splits_by_themselves_and_lists(tmp_path):
    write_clip(tmp_path / "1.avi", 9)
    (tmp_path / "train.csv").write_text("1.avi 0\n1.avi 0\ngone.avi 0\n")
    (tmp_path / "val.csv").write_text("1.avi 0\nempty.avi 0\n")
    (tmp_path / "empty.avi").touch()
    assert run(tmp_path, split="val") == ({"1.avi": "ok", "empty.avi": "empty"}, ["1.avi", "empty.avi"])
    assert run(tmp_path, split="train") == ({"1.avi": "ok", "gone.avi": "missing"}, ["gone.avi"])
    assert set(read_manifest(tmp_path)) == {"1.avi", "empty.avi", "gone.avi"}
    write_clip(tmp_path / "gone.avi", 9)
    assert run(tmp_path) == ({"1.avi": "ok", "empty.avi": "empty", "gone.avi": "ok"}, ["gone.avi"])


def test_checks_of_two_splits_at_once_keep_each_others_records(tmp_path):
    for split in ("train", "val"):
        write_clip(tmp_path / split / "a" / "1.avi", 9)
        write_clip(tmp_path / split / "a" / "2.avi", 9)
    train, val = Check(tmp_path, "train"), Check(tmp_path, "val")
    for check in (train, val):
        assert len(list(check.run(0))) == 2
    train.save()
    assert list(read_manifest(tmp_path)) == ["train/a/1.avi", "train/a/2.avi", "val/a/1.avi", "val/a/2.avi"]
    assert [record.path for record in train.records] == ["train/a/1.avi", "train/a/2.avi"]


def test_an_interrupted_check_goes_on(clips, monkeypatch):
    def interrupt(file, name, min_frames):
        if name == "train/a/sound.mp4":
            raise KeyboardInterrupt
        return examine(file, name, min_frames)

    monkeypatch.setattr(video_check, "examine", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(clips)
    monkeypatch.undo()
    before = [name for name in sorted(KINDS) if name < "train/a/sound.mp4"]
    assert sorted(read_manifest(clips)) == before
    statuses, done = run(clips)
    assert sorted(done) == [name for name in sorted(KINDS) if name not in before or name in DOUBTFUL]
    assert statuses == KINDS


def test_processes_find_the_same(clips):
    check = Check(clips)
    records = list(check.run(2))
    assert {record.path: record.status for record in records} == KINDS
    assert read_manifest(clips) == {record.path: record for record in records}


def crash(file, name, min_frames):
    """A decoder that takes its process with it."""
    if name == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return Record(name)


def test_a_clip_that_crashes_the_decoder_is_unreadable(tmp_path):
    names = ["a", "b", "bad", "c", "d"]
    records = list(examine_all(iter([(tmp_path / name, name, 1) for name in names]), 1, crash))
    assert sorted(record.path for record in records) == names
    assert [record.reason for record in records if record.path == "bad"] == ["unreadable: the decoder crashes"]
    assert {record.status for record in records if record.path != "bad"} == {"ok"}


def note(file, name, min_frames):
    return Record(name)


def test_a_process_may_die_between_two_records(tmp_path, monkeypatch):
    pools, make = [], video_check._pool
    monkeypatch.setattr(video_check, "_pool", lambda workers: pools.append(make(workers)) or pools[-1])
    monkeypatch.setattr(video_check, "_examine_alone", lambda job, examine: examine(*job))
    names = [f"{number:02d}" for number in range(12)]
    records = examine_all(iter([(tmp_path / name, name, 1) for name in names]), 1, note)
    found = [next(records)]
    (process,), manager = pools[0]._processes.values(), pools[0]._executor_manager_thread
    process.kill()
    manager.join()  # has marked the pool as broken
    assert sorted(record.path for record in [*found, *records]) == names
    assert len(pools) > 1


def test_errors_of_no_known_kind_are_of_the_clip(clips, monkeypatch):
    def fail(*_):
        raise RuntimeError("codec of the\nmoon")

    monkeypatch.setattr(video_check, "read_table", fail)
    assert examine(clips / "train" / "a" / "fine.avi", "x").reason == "unreadable: codec of the moon"


def test_a_folder_that_cannot_be_written_has_its_manifest_among_the_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    beside, elsewhere = manifest_files(tmp_path)
    record = Record("a,b\n.mp4", 3, 1.5, 2.0, 4, 5, "ok", 'says "so"', 7, 8)
    assert write_manifest(tmp_path, [record]) == elsewhere
    assert not beside.exists()
    assert read_manifest(tmp_path) == {record.path: record}
    assert [file.name for file in elsewhere.parent.iterdir()] == [elsewhere.name]


def test_of_two_manifests_the_newer_record_counts(tmp_path, monkeypatch):
    beside, elsewhere = manifest_files(tmp_path)
    write_manifest(tmp_path, [Record("old.mp4", 1), Record("changed.mp4", 1)])
    os.utime(beside, (1e9, 1e9))
    monkeypatch.setattr(os, "access", lambda *_: False)
    write_manifest(tmp_path, [Record("changed.mp4", 2), Record("new.mp4", status="empty")])
    frames = {"old.mp4": 1, "changed.mp4": 2, "new.mp4": 0}
    assert {name: record.frames for name, record in read_manifest(tmp_path).items()} == frames
    os.utime(elsewhere, (1e8, 1e8))
    assert read_manifest(tmp_path)["changed.mp4"].frames == 1


def test_new_broken_clips_of_a_folder_that_cannot_be_written_are_skipped(tmp_path, monkeypatch):
    write_clip(tmp_path / "a" / "1.avi", 9)
    run(tmp_path)
    os.utime(tmp_path / "manifest.csv", (1e9, 1e9))
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / "a" / "2.avi").touch()
    assert run(tmp_path)[1] == ["a/2.avi"]
    assert [file for file, _ in VideoSource(tmp_path, "train").skipped] == ["a/2.avi"]
    assert run(tmp_path)[1] == []


@pytest.mark.parametrize("text", ["video,label\na,1\n", "", None])
def test_a_foreign_manifest_is_not_changed(tmp_path, text):
    write_clip(tmp_path / "a" / "1.avi", 9)
    run(tmp_path)
    manifest = tmp_path / "manifest.csv"
    text = manifest.read_text().replace(",ok,", ",fine,") if text is None else text
    manifest.write_text(text)
    for use in (Check, lambda path: VideoSource(path, "train")):
        with pytest.raises(UserError, match=r"manifest\.csv .*: move (it|the file) away and check again"):
            use(tmp_path)
    assert manifest.read_text() == text


def test_the_manifest_is_written_now_and_then(clips, monkeypatch):
    monkeypatch.setattr(video_check, "SAVE_SECONDS", -1)
    check = Check(clips)
    for done, _ in enumerate(check.run(0), 1):
        assert len(read_manifest(clips)) == done
