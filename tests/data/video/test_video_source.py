"""Folders and lists of clips: which clips are found, which are refused, and excerpts."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image
from tiny_clips import grey, levels, write_clip

from vit_jax.data.source import Source
from vit_jax.data.video.check import Check
from vit_jax.data.video.decode import ArrayVideo, VideoFile
from vit_jax.data.video.source import Excerpt, VideoSource, list_clips, split_names
from vit_jax.errors import UserError


@pytest.fixture
def touch(tmp_path):
    """Makes files that are only looked for, not decoded."""

    def make(*names, text="x"):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def check(path):
    for _ in Check(path, min_frames=1).run(0):
        pass


def near(values, expected):
    return np.abs(np.subtract(values, expected, dtype=float)).max() <= 3


def test_a_folder_of_classes(touch, tmp_path):
    touch("train/b/1.mp4", "train/a/deep/2.MKV", "train/a/1.avi", "train/a/1.srt", "train/a/.hidden.mp4", "val/b/9.mov")
    touch("train/b/frames/0002.png", "train/b/frames/0001.jpg", "train/b/.x/1.mp4")
    source: Source = VideoSource(tmp_path, "train")
    assert (source.name, source.kind, source.labels, source.skipped) == ("video", "video", ("a", "b"), [])
    assert source.files == ["a/1.avi", "a/deep/2.MKV", "b/1.mp4", "b/frames"]
    assert source.all_labels().tolist() == [0, 0, 1, 1]
    assert source.class_counts() == [2, 2]
    assert VideoSource(tmp_path, "validation").all_labels().tolist() == [1]
    assert split_names(tmp_path) == ["train", "val"]


def test_slices_are_those_of_images(touch, tmp_path, write_images):
    from vit_jax.data.image.folder import FolderSource

    touch(*(f"clips/{label}/{index}.mp4" for label in "ab" for index in range(10)))
    write_images(tmp_path / "images" / "a", 10)
    write_images(tmp_path / "images" / "b", 10)
    for split in ("train", "train[:30%]", "train[-5:]", "train[2:4]+train[8:9]"):
        images, clips = FolderSource(tmp_path / "images", split), VideoSource(tmp_path / "clips", split)
        assert clips._ids == images._ids
        assert clips.all_labels().tolist() == images.all_labels().tolist()


def test_examples_are_decoded_when_asked_for(tmp_path):
    write_clip(tmp_path / "a" / "x.avi", 6)
    frames = tmp_path / "b" / "y"
    frames.mkdir(parents=True)
    for index in range(12):
        Image.new("RGB", (20, 10), (grey(index),) * 3).save(frames / f"img_{index}.png")
    source = VideoSource(tmp_path, "train")
    source = pickle.loads(pickle.dumps(source))
    second, first = source.__getitems__([1, 0])
    assert (first["id"], first["label"], second["id"], second["label"]) == (0, 0, 1, 1)
    video = first["video"]
    assert (video.name, video.num_frames) == ("a/x.avi", 6)
    assert (video.fps, video.seconds) == (pytest.approx(10), pytest.approx(0.6))
    assert [video.index_at(time) for time in (0, 0.19, 0.2, 5)] == [0, 1, 2, 5]
    assert near(levels(video.read([4, 0])), [grey(4), grey(0)])
    assert second["video"].name == "b/y"
    assert levels(second["video"].read([10, 2])) == [grey(10), grey(2)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.csv", "a b.mp4 1\nc.mp4 0\n"),
        ("train.txt", "a b.mp4\t1\r\n\r\nc.mp4\t0"),
        ("train.tsv", "\ufeffa b.mp4\t1\nc.mp4\t0\n"),
        ("train.csv", '"a b.mp4",1\nc.mp4,0\n'),
        ("train.csv", "label, path\n1, a b.mp4\n0, c.mp4\n"),
        ("train.txt", "path label\na b.mp4 1\nc.mp4 0\n"),
        ("train.csv", "id,file,CLASS\n7,a b.mp4,1\n8,c.mp4,0\n"),
    ],
)
def test_lists_in_every_dress(touch, tmp_path, name, text):
    touch("a b.mp4", "c.mp4")
    touch(name, text=text)
    source = VideoSource(tmp_path, "train")
    assert source.files == ["a b.mp4", "c.mp4"]
    assert source.all_labels().tolist() == [1, 0]
    assert source.labels == ("0", "1")


def test_labels_by_name_are_those_of_train(touch, tmp_path):
    touch("1.mp4", "2.mp4", "3.mp4")
    touch("train.csv", text="1.mp4,to the left\n2.mp4,up\n")
    touch("val.csv", text="3.mp4,up\n")
    assert VideoSource(tmp_path, "val").labels == ("to the left", "up")
    assert VideoSource(tmp_path, "val").all_labels().tolist() == [1]
    touch("val.csv", text="3.mp4,up\n2.mp4,down\n")
    with pytest.raises(UserError, match=r"val\.csv has labels that are not in train\.csv \(2 names\): line 2 'down'"):
        VideoSource(tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "x\ny\nz\n"),
        ("labels.json", '["x", "y", "z"]'),
        ("labels.json", '{"z": "2", "x": 0, "y": 1}'),
    ],
)
def test_a_file_of_labels(touch, tmp_path, name, text):
    touch("1.mp4", "2.mp4")
    touch("train.txt", text="1.mp4 2\n2.mp4 0\n")
    touch("test.txt", text="1.mp4 y\n")
    touch(name, text=text)
    source = VideoSource(tmp_path, "train")
    assert (source.labels, source.all_labels().tolist()) == (("x", "y", "z"), [2, 0])
    assert VideoSource(tmp_path, "test").all_labels().tolist() == [1]


def test_parts_of_clips(tmp_path, touch):
    write_clip(tmp_path / "1.avi", 10)
    touch("train.csv", text="path,label,start,end\n1.avi,0,0.3,0.7\n1.avi,1,0.8,\n1.avi,1,,0.2\n1.avi,0,,\n")
    videos = [example["video"] for example in VideoSource(tmp_path, "train").__getitems__(range(4))]
    assert [video.num_frames for video in videos] == [4, 2, 2, 10]
    assert [round(video.seconds, 6) for video in videos] == [0.4, 0.2, 0.2, 1.0]
    assert all(video.fps == pytest.approx(10) for video in videos)
    assert near(levels(videos[0].read(range(4))), [grey(index) for index in (3, 4, 5, 6)])
    assert [videos[0].index_at(time) for time in (-1, 0, 0.09, 0.1, 0.3, 9)] == [0, 0, 0, 1, 3, 3]


def test_folders_of_frames_have_the_rate_that_is_said(tmp_path, touch, write_images):
    write_images(tmp_path / "1", 12)
    touch("train.csv", text="1,0,,\n1,0,0.5,1\n1,0,1.1,9\n1,0,2,3\n")
    for checked in range(2):
        source = VideoSource(tmp_path, "train", frames_fps=10.0)
        videos = [example["video"] for example in source.__getitems__(range(3))]
        assert [(video.num_frames, round(video.seconds, 6)) for video in videos] == [(12, 1.2), (5, 0.5), (1, 0.1)]
        assert levels(videos[1].read(range(5))) == [5, 6, 7, 8, 9]
        assert source.skipped == ([("1", "starts at 2 s, but the video lasts 1.2 s")] if checked else [])
        check(tmp_path)
    assert VideoSource(tmp_path, "train", frames_fps=5.0).skipped == []
    assert [file for file, _ in VideoSource(tmp_path, "train").skipped] == ["1"] * 3  # 0.4 s of 30 a second
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"config\.data\.frames_fps must be above 0, not {wrong}"):
            VideoSource(tmp_path, "train", frames_fps=wrong)


def test_an_excerpt_by_brute_force():
    video = ArrayVideo(np.zeros((40, 2, 2, 1), np.uint8), fps=8)
    starts = np.arange(40) / 8
    for start in np.arange(0, 5, 0.0625):
        for end in (start + 0.01, start + 0.125, start + 1.0, start + 100):
            part = Excerpt(video, start, end)
            shown = [i for i in range(40) if starts[i] < end and (starts[i] >= start or i == int(start * 8))]
            assert (part._first, part.num_frames) == (shown[0], len(shown)), (start, end)


def test_kinetics_own_lists(touch, tmp_path):
    touch("train/abc_000010_000020.mp4", "-x_000000_000010.mp4")
    touch("train.csv", text="label,youtube_id,time_start,time_end,split\nrun,abc,10,20,train\nhop,-x,0,10,train\n")
    source = VideoSource(tmp_path, "train")
    assert source.files == ["train/abc_000010_000020.mp4", "-x_000000_000010.mp4"]
    assert all(clip.is_whole for clip in source._clips)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1.mp4|0\n", "line 1: '1.mp4|0' is not a path and a label separated by a space, a comma or a tab"),
        (b"1.mp4,0\n1.mp4 0\n", "line 2: '1.mp4 0' is not a path and a label separated by a comma"),
        (b"1.mp4\t0\n1.mp4,0\n", "line 2: '1.mp4,0' is not a path and a label separated by a tab"),
        (b"path,label\n1.mp4,0,3\n", "line 2 has 3 columns, but the header has 2"),
        (b"path,action\n1.mp4,0\n", "line 1: no column is called label or class; found path, action"),
        (b"1.mp4 0\n1.mp4 0\ncaf\xe9.mp4 0\n", "line 3: not valid UTF-8 at byte 4"),
        (b"1.mp4,0,5,5\n", "line 1: the end of a clip (5 s) must be later than its start (5 s)"),
        (b"1.mp4,0,a,5\n", "line 1: start must be a number of seconds, 0 or more, not 'a'"),
        (b"1.mp4 -1\n", "has labels that are not in train.csv (0 to -1): line 1 '-1'"),
        (b" \n", "is empty"),
    ],
)
def test_lists_that_are_wrong(tmp_path, touch, text, message):
    touch("1.mp4")
    (tmp_path / "train.csv").write_bytes(text)
    with pytest.raises(UserError) as caught:
        VideoSource(tmp_path, "train")
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "train.csv"))
    assert "\n" not in str(caught.value)


def test_labels_beyond_the_names(touch, tmp_path):
    touch("1.mp4", "labels.txt", text="a\nb\n")
    touch("train.txt", text="".join(f"1.mp4 {label}\n" for label in range(14)))
    with pytest.raises(UserError) as caught:
        VideoSource(tmp_path, "train")
    assert "has labels that are not in labels.txt (0 to 1): line 3 '2', line 4 '3'" in str(caught.value)
    assert "line 12 '11' and 2 more" in str(caught.value)
    touch("labels.txt", text="a\nb\na\n")
    with pytest.raises(UserError, match=r"labels\.txt names these classes more than once: a$"):
        VideoSource(tmp_path, "train")


def test_missing_files_are_named_until_they_are_checked(tmp_path, touch):
    write_clip(tmp_path / "here.avi", 4)
    touch("train.txt", text="here.avi 0\n" + "".join(f"gone{index}.avi 0\n" for index in range(12)))
    with pytest.raises(UserError) as caught:
        VideoSource(tmp_path, "train")
    assert "12 of 13 clips of 'train' are missing: gone0.avi, gone1.avi" in str(caught.value)
    assert f"gone9.avi and 2 more. Run `python -m vit_jax data check {tmp_path}`" in str(caught.value)
    check(tmp_path)
    source = VideoSource(tmp_path, "train")
    assert len(source) == 1
    assert source.skipped[0] == ("gone0.avi", "missing: no such file")
    assert len(source.skipped) == 12


def test_the_manifest_says_what_is_skipped(tmp_path, touch, capsys):
    write_clip(tmp_path / "train" / "a" / "1.avi", 8)
    write_clip(tmp_path / "train" / "b" / "1.avi", 8)
    touch("train/a/0.mp4", "train/b/2.mp4", text="no video")
    assert len(VideoSource(tmp_path, "train")) == 4
    assert capsys.readouterr().err == ""
    check(tmp_path)
    source = VideoSource(tmp_path, "train")
    assert [file for file, _ in source.skipped] == ["a/0.mp4", "b/2.mp4"]
    assert source.skipped[0][1].startswith("unreadable: ")
    assert [example["id"] for example in source.__getitems__([0, 1])] == [1, 2]
    assert source.all_labels().tolist() == [0, 1]
    with pytest.raises(UserError, match=r"2 of 4 clips that cannot be used: a/0\.mp4"):
        VideoSource(tmp_path, "train", strict=True)

    write_clip(tmp_path / "train" / "b" / "3.avi", 8)  # new
    os.replace(tmp_path / "train" / "a" / "1.avi", tmp_path / "train" / "a" / "0.mp4")  # mended, and another gone
    source = VideoSource(tmp_path, "train")
    assert source.files == ["a/0.mp4", "b/1.avi", "b/2.mp4", "b/3.avi"]
    assert [file for file, _ in source.skipped] == ["b/2.mp4"]
    assert "2 of 4 clips of 'train' are new or have changed" in capsys.readouterr().err


def test_slices_count_only_their_own_skipped(tmp_path, touch):
    touch(*(f"a/{index}.mp4" for index in range(10)), text="no video")
    write_clip(tmp_path / "a" / "good.avi", 8)
    check(tmp_path)
    halves = [VideoSource(tmp_path, split) for split in ("train", "train[:6]+train[6:]")]
    assert [len(half.skipped) for half in halves] == [10, 10]
    place = np.random.Generator(np.random.PCG64(0)).permutation(11).tolist().index(10)
    assert len(VideoSource(tmp_path, f"train[{place}:]").skipped) == 10 - place
    with pytest.raises(UserError, match="none left: a/"):
        VideoSource(tmp_path, f"train[:{place}]" if place else "train[1:]")


def test_a_start_beyond_the_end_is_skipped_once_known(tmp_path, touch):
    write_clip(tmp_path / "1.avi", 10)
    touch("train.csv", text="1.avi,0,0.5,0.8\n1.avi,0,5,6\n")
    video = VideoSource(tmp_path, "train").__getitems__([1])[0]["video"]
    with pytest.raises(
        UserError, match=r"1\.avi: the clip starts at 5 s, but the video lasts 1 s; run `python -m vit_jax data"
    ):
        _ = video.num_frames
    check(tmp_path)
    source = VideoSource(tmp_path, "train")
    assert (len(source), source.skipped) == (1, [("1.avi", "starts at 5 s, but the video lasts 1 s")])


def test_a_broken_clip_met_in_training_is_named_with_the_way_out(tmp_path):
    path = write_clip(tmp_path / "a" / "1.mkv", 30)
    path.write_bytes(path.read_bytes()[:300])
    video = VideoSource(tmp_path, "train").__getitems__([0])[0]["video"]
    with pytest.raises(UserError, match=r"^a/1\.mkv: .*; run `python -m vit_jax data check .*` to find all such clips"):
        video.read([0])


def test_a_clip_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write_clip(tmp_path / "a" / "1.avi", 3)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(VideoFile, "read", refuse)
    (example,) = VideoSource(tmp_path, "train").__getitems__([0])
    with pytest.raises(UserError, match=r"^a/1\.avi: Permission denied; run `python -m vit_jax data check"):
        example["video"].read([0])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "has no split 'test'"),
        ("train+val", "ids count within one split"),
        ("train[", "is not of the form"),
    ],
)
def test_wrong_splits(touch, tmp_path, split, message):
    touch("train/a/1.mp4", "val/a/1.mp4")
    with pytest.raises(UserError, match=message):
        VideoSource(tmp_path, split)


def test_folders_that_are_none(touch, tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        VideoSource(tmp_path / "nothing", "train")
    touch("train.csv", "train.txt", "1.mp4", text="1.mp4 0")
    with pytest.raises(UserError, match=r"is not a folder\. Give the folder of the list"):
        VideoSource(tmp_path / "train.csv", "train")
    with pytest.raises(UserError, match=r"several lists of split 'train', keep one: train\.csv, train\.txt"):
        VideoSource(tmp_path, "train")
    os.remove(tmp_path / "train.txt")
    with pytest.raises(UserError, match=r"has no list val\.csv"):
        VideoSource(tmp_path, "val")
    touch("empty/a/notes.txt")
    with pytest.raises(UserError, match="no videos and no folders of frames"):
        list_clips(tmp_path / "empty", "train")
