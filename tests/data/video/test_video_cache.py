"""Copies of clips in the cache: what they hold, and that nothing but time depends on them."""

import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tiny_clips import grey, levels, write_clip

from vit_jax.config import default_config, differences
from vit_jax.data.video import cache as video_cache
from vit_jax.data.video.decode import VideoFile
from vit_jax.data.video.source import open_videos
from vit_jax.errors import UserError
from vit_jax.experiment import open_split


def near(values, expected):
    return np.abs(np.subtract(values, expected, dtype=float)).max() <= 3


def test_a_cached_clip_is_the_clip(tmp_path, monkeypatch):
    monkeypatch.setattr(video_cache, "BLOCK_BYTES", 3 * 32 * 48 * 3)
    file = write_clip(tmp_path / "set" / "a" / "1.mkv", times=[0, 100, 150, 400, 900, 950, 1300, 1400])
    original, cache = VideoFile(file), tmp_path / "cache"

    def open_cached():
        return open_videos(tmp_path / "set", "train", cache=str(cache)).__getitems__([0])[0]["video"]

    for _ in range(2):  # made, and found
        video = open_cached()
        assert (video.num_frames, video.fps, video.seconds) == (8, original.fps, original.seconds)
        times = np.arange(0, 1.6, 0.01)
        assert [video.index_at(time) for time in times] == [original.index_at(time) for time in times]
        for copy, image in zip(video.read([6, 0, 6]), original.read([6, 0, 6]), strict=True):
            assert copy.size == image.size
            assert np.abs(np.asarray(copy, int) - np.asarray(image, int)).max() <= 2
    assert [entry.suffix for entry in cache.iterdir()] == [".zip"]

    write_clip(file, 5)
    assert open_cached().num_frames == 5
    assert len(list(cache.iterdir())) == 2


def test_the_cache_shrinks_and_mends_itself(tmp_path):
    write_clip(tmp_path / "set" / "a" / "1.avi", 3, size=(64, 96))
    source = open_videos(tmp_path / "set", "train", cache=str(tmp_path / "cache"), cache_side=16)
    assert source.__getitems__([0])[0]["video"].read([1])[0].size == (24, 16)
    (copy,) = (tmp_path / "cache").iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(whole[: len(whole) // 2])
    assert near(levels(source.__getitems__([0])[0]["video"].read([1])), [grey(1)])
    assert len(copy.read_bytes()) == len(whole)


def test_a_cache_serves_several_at_once(tmp_path):
    for index in range(2):
        write_clip(tmp_path / "set" / "a" / f"{index}.avi", 12)
    sources = [open_videos(tmp_path / "set", "train", cache=str(tmp_path / "cache")) for _ in range(8)]

    def read(place):
        return levels(sources[place].__getitems__([place % 2])[0]["video"].read([11]))

    with ThreadPoolExecutor(8) as pool:
        assert near(list(pool.map(read, range(8))), [[grey(11)]] * 8)
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".zip", ".zip"]


def test_a_full_cache_says_so_once(tmp_path, capsys):
    for index in range(4):
        write_clip(tmp_path / "set" / "a" / f"{index}.avi", 6)
    source = open_videos(tmp_path / "set", "train", cache=str(tmp_path / "cache"))
    source.__getitems__([0])[0]["video"].read([0])
    (copy,) = (tmp_path / "cache").iterdir()
    room = 2.5 * copy.stat().st_size / 1e9
    source = open_videos(tmp_path / "set", "train", cache=str(tmp_path / "cache"), cache_gb=room)
    for example in source.__getitems__(range(4)):
        assert near(levels(example["video"].read([2])), [grey(2)])
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert capsys.readouterr().err.count("nothing more is put into it") == 1


def test_pixels_do_not_depend_on_the_room_in_the_cache(tmp_path):
    write_clip(tmp_path / "set" / "a" / "1.mkv", times=[0, 100, 150, 400, 900, 950, 1300, 1400], size=(64, 96))
    frames = tmp_path / "set" / "a" / "2"
    frames.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 30), np.uint8)
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(frames / f"{index}.png")
    (tmp_path / "set" / "train.csv").write_text("a/1.mkv,0,0,9\na/1.mkv,0,0.12,1.1\na/2,0,0,9\n")

    def examples(name, room):
        source = open_videos(
            tmp_path / "set", "train", cache=str(tmp_path / name), cache_gb=room, cache_side=16, frames_fps=7.0
        )
        return [example["video"] for example in source.__getitems__(range(3))]

    times = np.arange(-0.1, 1.6, 0.0037)
    for copied, full in zip(examples("roomy", 1.0), examples("full", 0.0), strict=True):
        assert (copied.num_frames, copied.fps, copied.seconds) == (full.num_frames, full.fps, full.seconds)
        assert [copied.index_at(time) for time in times] == [full.index_at(time) for time in times]
        wanted = [copied.num_frames - 1, *range(copied.num_frames)]
        images = list(zip(copied.read(wanted), full.read(wanted), strict=True))
        assert all((one.size, one.mode, one.tobytes()) == (two.size, two.mode, two.tobytes()) for one, two in images)
        assert min(images[0][0].size) == 16
    assert len(list((tmp_path / "roomy").iterdir())) == 3
    assert list((tmp_path / "full").iterdir()) == []


def test_a_run_does_not_resume_with_other_pixels():
    config, other = default_config(), default_config()
    other.data.cache_gb = 1.0
    assert differences(config, other) == []
    other.data.cache = "/scratch"
    assert differences(config, other) == ["data.cache: None -> '/scratch'"]
    config.data.cache = "/elsewhere"
    assert differences(config, other) == []


def test_copies_smaller_than_the_image_are_refused(tmp_path):
    config = default_config()
    config.data.name, config.data.cache, config.data.image_size = "video", str(tmp_path), (448, 448)
    with pytest.raises(UserError, match=r"cache_side=320 is below config\.data\.image_size"):
        open_split(config, "train")


def test_a_clip_that_may_not_be_read_is_not_the_fault_of_the_cache(tmp_path, monkeypatch):
    write_clip(tmp_path / "set" / "a" / "1.avi", 3)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(VideoFile, "read", refuse)
    for cache in (None, str(tmp_path / "cache")):
        (example,) = open_videos(tmp_path / "set", "train", cache=cache).__getitems__([0])
        with pytest.raises(UserError, match=r"^a/1\.avi: Permission denied; `python -m vit_jax data check"):
            example["video"].read([0])
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_fails_is_the_fault_of_the_cache(tmp_path, monkeypatch):
    write_clip(tmp_path / "set" / "a" / "1.avi", 3)
    (example,) = open_videos(tmp_path / "set", "train", cache=str(tmp_path / "cache")).__getitems__([0])

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(UserError, match=r"^config\.data\.cache='.*cache': No space left on device"):
        example["video"].read([0])
    assert list((tmp_path / "cache").iterdir()) == []


def test_copies_of_folders_of_frames_are_of_one_rate(tmp_path, write_images):
    write_images(tmp_path / "set" / "a" / "1", 6)
    for rate in (3.0, 6.0, 3.0):
        source = open_videos(tmp_path / "set", "train", cache=str(tmp_path / "cache"), frames_fps=rate)
        video = source.__getitems__([0])[0]["video"]
        assert (video.fps, video.seconds) == (rate, 6 / rate)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_cache_that_cannot_be(tmp_path):
    write_clip(tmp_path / "set" / "a" / "1.mp4", 3)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"config\.data\.cache="):
        open_videos(tmp_path / "set", "train", cache=str(tmp_path / "file"))
    with pytest.raises(UserError, match="cache_side"):
        open_videos(tmp_path / "set", "train", cache=str(tmp_path / "cache"), cache_side=0)
