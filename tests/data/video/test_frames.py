"""Folders of frames with optical flow, single images, and other files that are not videos."""

import os

import pytest
from PIL import Image
from tiny_clips import levels, write_clip

from vit_jax.config import default_config
from vit_jax.data.video.check import examine
from vit_jax.data.video.containers import BrokenVideo
from vit_jax.data.video.decode import FrameFolder, VideoFile
from vit_jax.data.video.modality import MODALITY
from vit_jax.data.video.source import list_clips
from vit_jax.errors import UserError


@pytest.fixture
def frames(tmp_path):
    """Makes a folder of grey frames, given by their names without a suffix, each of the level of its place."""

    def make(*names, folder="clip", suffix="png"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for level, name in enumerate(names):
            Image.new("L", (6, 4), 10 + level).save(tmp_path / folder / f"{name}.{suffix}")
        return tmp_path / folder

    return make


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("img_00002", "img_00001", "flow_x_00001", "flow_y_00001", "flow_x_00002", "flow_y_00002"), [11, 10]),
        (("image_1", "x_1", "y_1"), [10]),
        (("IMG_2", "img_1", "Flow_X_1"), [11, 10]),
        (("frame000010", "frame000009", "u_9", "v_9"), [11, 10]),
        (("0002", "0001"), [11, 10]),
        (("a1_f2", "a1_f10", "a1_f1"), [12, 10, 11]),
        (("x_2", "x_1"), [11, 10]),
        (("0001_left", "0002_left"), [10, 11]),
    ],
)
def test_optical_flow_is_left_out(frames, names, kept):
    video = FrameFolder(frames(*names))
    assert levels(video.read(range(video.num_frames))) == kept


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("img_1", "depth_1"), r"it is not clear which of its images are the frames, found depth_# \(1\), img_# \(1\)"),
        (
            ("flow_x_1", "flow_y_1"),
            r"not clear which of its images are the frames, found flow_x_# \(1\), flow_y_# \(1\)",
        ),
        (("flow_1", "flow_2"), r"not clear which of its images are the frames, found flow_# \(2\)"),
        (("cat", "dog"), r"not clear which of its images are the frames, found cat \(1\), dog \(1\): keep one kind"),
        (("x_1", "y_1"), r"not clear which of its images are the frames, found x_# \(1\), y_# \(1\)"),
    ],
)
def test_folders_that_may_mean_two_things_are_refused(frames, names, message):
    folder = frames(*names)
    with pytest.raises(BrokenVideo, match=message):
        FrameFolder(folder).read([0])
    assert examine(folder, "clip").status == "unreadable"


def test_a_frame_that_is_there_twice_is_refused(frames):
    frames("1", "2")
    with pytest.raises(BrokenVideo, match="several images have the number 2: keep one"):
        FrameFolder(frames("2", suffix="jpg")).read([0])


def test_folders_of_flow_are_no_clips(frames, tmp_path):
    frames("1", folder="a/clip/img")
    assert [clip.file for clip in list_clips(tmp_path, "train").clips] == ["a/clip/img"]
    frames("1", folder="a/clip/flow_x")
    with pytest.raises(UserError, match=r"a/clip/flow_x holds optical flow, not frames: move it out"):
        list_clips(tmp_path, "train")


def test_a_frame_with_unknown_levels_is_named(tmp_path):
    (tmp_path / "clip").mkdir()
    Image.new("F", (4, 4), 9.0).save(tmp_path / "clip" / "1.tif")
    with pytest.raises(BrokenVideo, match=r"frame 1\.tif cannot be read \(float levels from 9 to 9"):
        FrameFolder(tmp_path / "clip").read([0])


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "avif", "ico", "mp4"])
def test_a_single_image_is_no_video(tmp_path, suffix):
    file = tmp_path / f"x.{suffix}"
    Image.new("RGB", (32, 32)).save(file, "PNG" if suffix == "mp4" else None)
    with pytest.raises(BrokenVideo, match=r"a single image, not a video\. Frames are given as a folder of images"):
        VideoFile(file).read([0])
    ((name, error),) = MODALITY.read_inputs([str(file)], [], default_config())
    assert (name, type(error)) == (str(file), BrokenVideo)
    assert examine(file, "x").status == "unreadable"


def test_frames_of_too_many_pixels_are_refused(tmp_path, monkeypatch):
    file = write_clip(tmp_path / "a.avi", 4, size=(256, 320))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 81_920)
    assert VideoFile(file).read([3])[0].size == (320, 256)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 81_919)
    with pytest.raises(BrokenVideo, match="frames of 320 x 256 pixels, more than the 81,919 that are read"):
        VideoFile(file).read([3])


def test_a_name_like_a_protocol_is_a_file(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.avi", 4).rename(tmp_path / "http:clip.avi")
    monkeypatch.chdir(tmp_path)
    assert VideoFile("http:clip.avi").num_frames == 4


def test_a_playlist_opens_nothing_else(tmp_path):
    write_clip(tmp_path / "a.avi", 4)
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(BrokenVideo):
        VideoFile(tmp_path / "list.mp4").read([0])


def test_prediction_skips_what_is_no_video(tmp_path):
    write_clip(tmp_path / "a.avi", 9)
    (tmp_path / "b.mp4").write_bytes(os.urandom(3000))
    os.mkfifo(tmp_path / "c.mp4")
    (tmp_path / "d.mp4").symlink_to("/nowhere.mp4")
    (tmp_path / "e").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "e" / "img_1.png")
    Image.new("L", (4, 4)).save(tmp_path / "e" / "other_1.png")
    found = dict(MODALITY.read_inputs([str(tmp_path)], [], default_config()))
    assert [os.path.basename(name) for name in found] == ["a.avi", "b.mp4", "c.mp4", "d.mp4", "e"]
    assert [isinstance(stored, UserError) for stored in found.values()] == [False, True, True, True, True]
    messages = [str(stored) for stored in found.values()]
    assert messages[2].endswith("c.mp4 is not a file")
    assert messages[3].endswith("d.mp4: there is no such file")
