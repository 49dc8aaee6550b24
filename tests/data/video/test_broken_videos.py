"""Files that are not complete videos are recognised, and never read as complete ones."""

import pickle

import av
import numpy as np
import pytest
from test_decode import cut, number_of, remuxed, write_numbers

from vit_jax.data.video.decode import BrokenVideo, VideoFile


def audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def head_alone(path):
    write_numbers(path, 30, "vp8.webm")
    return cut(path, 0.05, path.name)


@pytest.mark.parametrize(
    ("name", "make", "problem", "reason"),
    [
        ("empty.mp4", lambda path: path.touch(), "empty", "empty (0 bytes)"),
        ("sound.mp4", audio, "no video", "contains no video, only audio"),
        ("page.mp4", lambda path: path.write_bytes(b"<html>not found</html>" * 50), "unreadable", "cannot be read"),
        ("head.webm", head_alone, "truncated", "truncated: "),
    ],
)
def test_broken_files_are_told_apart(tmp_path, name, make, problem, reason):
    make(tmp_path / name)
    for ask in (lambda video: video.num_frames, lambda video: video.read([0]), lambda video: video.index_at(1.0)):
        with pytest.raises(BrokenVideo) as caught:
            ask(VideoFile(tmp_path / name, name))
        assert caught.value.problem == problem
        assert str(caught.value).startswith(f"{name}: {reason}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "vp8.webm", "mjpeg.avi"])
def test_truncated_files_are_refused(tmp_path, kind, fraction):
    whole = write_numbers(tmp_path / f"whole.{kind}", 100, kind)
    if kind == "mp4":
        whole = remuxed(whole, tmp_path / "fast.mp4", {"movflags": "faststart"})
    assert VideoFile(whole).num_frames == 100
    short = VideoFile(cut(whole, fraction, f"short.{kind}"), "short")
    with pytest.raises(BrokenVideo, match=r"^short: truncated: ") as caught:
        short.read([0])
    assert caught.value.problem == "truncated"


def test_a_file_cut_between_two_packets_is_refused(tmp_path):
    path = remuxed(write_numbers(tmp_path / "clip.mp4", 60), tmp_path / "fast.mp4", {"movflags": "faststart"})
    with av.open(str(path)) as container:
        ends = sorted(entry.pos + entry.size for entry in container.streams.video[0].index_entries)
    short = tmp_path / "short.mp4"
    short.write_bytes(path.read_bytes()[: ends[40]])
    with pytest.raises(BrokenVideo, match="truncated: it ends after 41 frames"):
        VideoFile(short).read([0])


def test_an_mp4_without_its_end_is_called_truncated(tmp_path):
    short = cut(write_numbers(tmp_path / "clip.mp4", 60), 0.7, "short.mp4")
    with pytest.raises(BrokenVideo, match="truncated: the index of the MP4, usually at its end, is missing") as caught:
        VideoFile(short).read([0])
    assert caught.value.problem == "truncated"


def test_damage_in_the_middle_is_refused_by_its_time(tmp_path):
    def damage(packet):
        if 0.9 < packet.pts * packet.time_base < 1.1:
            packet.update(b"\xff" * packet.size)
        return packet

    path = remuxed(write_numbers(tmp_path / "clip.avi", 50, "mjpeg.avi"), tmp_path / "bad.avi", change=damage)
    video = VideoFile(path)
    assert number_of(video.read([10])[0]) == 10
    with pytest.raises(BrokenVideo, match=r"bad.avi: cannot be decoded after 0.9 s") as caught:
        video.read(range(50))
    assert caught.value.problem == "unreadable"


def test_broken_videos_cross_processes():
    error = pickle.loads(pickle.dumps(BrokenVideo("a: b.mp4", "empty", "empty (0 bytes)")))
    assert (str(error), error.problem, error.reason) == ("a: b.mp4: empty (0 bytes)", "empty", "empty (0 bytes)")
