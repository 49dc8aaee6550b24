import concurrent.futures
import pickle
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from vit_jax.data.video import decode
from vit_jax.data.video.decode import ArrayVideo, BrokenVideo, FrameFolder, VideoFile
from vit_jax.errors import UserError

BITS = 8
FORMATS = {
    "mp4": ("libx264", {"bf": "3", "g": "12"}),
    "mpeg4.mp4": ("mpeg4", {"g": "12"}),
    "mov": ("libx264", {"bf": "2", "g": "30"}),
    "mkv": ("libx264", {"bf": "3", "g": "20", "x264-params": "open-gop=1:scenecut=0"}),
    "vp8.webm": ("libvpx", {"b": "400k", "cpu-used": "8", "deadline": "realtime"}),
    "vp9.webm": ("libvpx-vp9", {"b": "400k", "cpu-used": "8", "deadline": "realtime", "g": "16"}),
    "mjpeg.avi": ("mjpeg", {}),
    "mpeg4.avi": ("mpeg4", {"bf": "2", "g": "12"}),
    "ffv1.mkv": ("ffv1", {"g": "1"}),
    "flv": ("flv", {"g": "12"}),
    "ts": ("mpeg2video", {"bf": "2", "g": "12", "b": "1M"}),
    "mpg": ("mpeg2video", {"bf": "2", "g": "12", "b": "1M"}),
    "gif": ("gif", {}),
    "h264": ("libx264", {"bf": "0", "g": "12"}),
}
PIXELS = {"mjpeg": "yuvj420p", "gif": "gray"}


def picture(number):
    """16 x 64 pixels in which the bits of a number are bars, black or white."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    return np.tile(np.repeat(np.array(bits, np.uint8) * 255, 8)[None, :, None], (16, 1, 3))


def number_of(image):
    means = np.asarray(image.convert("L"), float).reshape(16, BITS, 8).mean((0, 2))
    return sum(int(mean > 128) << bit for bit, mean in enumerate(means))


def write(path, pictures, times=None, codec="libx264", options=None, pixels=None, rate=25, setup=lambda stream: None):
    """Encodes pictures, at `times` in milliseconds if given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels or PIXELS.get(codec, "yuv420p")
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        setup(stream)
        for place, values in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(values, "rgb24").reformat(format=stream.pix_fmt)
            frame.pts = place if times is None else times[place]
            frame.time_base = Fraction(1, rate if times is None else 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_numbers(path, count, kind="mp4", **changes):
    codec, options = FORMATS[kind]
    return write(path, [picture(number) for number in range(count)], codec=codec, options=options, **changes)


def remuxed(path, other, options=None, change=lambda packet: packet):
    """Copies the packets, each changed, or left out if None."""
    with av.open(str(path)) as old, av.open(str(other), "w", options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            changed = change(packet) if packet.size else None
            if changed is not None:
                changed.stream = stream
                new.mux(changed)
    return other


def cut(path, fraction, name):
    stored = path.read_bytes()
    short = path.with_name(name)
    short.write_bytes(stored[: int(len(stored) * fraction)])
    return short


@pytest.mark.parametrize("kind", FORMATS)
def test_frames_come_by_number_in_any_order(tmp_path, kind):
    video = VideoFile(write_numbers(tmp_path / f"clip.{kind}", 70, kind))
    assert video.num_frames == 70
    assert [number_of(image) for image in video.read(range(70))] == list(range(70))
    for wanted in ([69], [0], [35, 3, 3, 68, 20], [24, 12, 25], [51, 52], []):
        images = video.read(wanted)
        assert [number_of(image) for image in images] == wanted
        assert all(image.mode == "RGB" for image in images)
        assert all(image.size == (64, 16) for image in images)


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"h264"}))
def test_times_are_the_containers(tmp_path, kind):
    video = VideoFile(write_numbers(tmp_path / f"clip.{kind}", 40, kind))
    assert video.fps == pytest.approx(25, rel=0.01)
    assert video.seconds == pytest.approx(1.6, rel=0.01)
    assert [video.index_at(number / 25 + 0.002) for number in range(40)] == list(range(40))
    assert [video.index_at(seconds) for seconds in (-1.0, 0.0, 0.079, 1.55, 1.7, 100.0)] == [0, 0, 1, 38, 39, 39]


@pytest.mark.parametrize("kind", ["mp4", "mkv", "vp9.webm"])
def test_a_variable_rate_is_read_by_time_stamps(tmp_path, kind):
    steps = np.random.default_rng(0).integers(20, 400, 30)
    times = np.concatenate([[0], np.cumsum(steps)]).tolist()
    video = VideoFile(write_numbers(tmp_path / f"clip.{kind}", 31, kind, times=times))
    assert video.num_frames == 31
    assert video.seconds == pytest.approx(times[-1] / 1000, abs=0.5)
    assert video.fps == video.num_frames / video.seconds
    assert [video.index_at(time / 1000) for time in times] == list(range(31))
    for seconds in np.random.default_rng(1).uniform(0, times[-1] / 1000, 50):
        shown = [number for number, time in enumerate(times) if time / 1000 <= seconds][-1]
        assert video.index_at(seconds) == shown
        assert number_of(video.read([shown])[0]) == shown


def test_time_starts_at_the_first_frame(tmp_path):
    path = write_numbers(tmp_path / "late.mkv", 10, "mkv", times=[5000 + 100 * number for number in range(10)])
    video = VideoFile(path)
    assert video.index_at(0.35) == 3
    assert video.seconds == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "vp9.webm", "mpeg4.avi"])
def test_far_frames_are_reached_from_their_key_frames(tmp_path, kind, monkeypatch):
    video = VideoFile(write_numbers(tmp_path / f"clip.{kind}", 100, kind))
    decoded, passed = decode.decoded, []
    monkeypatch.setattr(decode, "decoded", lambda *a, **k: (passed.append(1) or frame for frame in decoded(*a, **k)))
    wanted = [95, 5, 50]
    sought = video.read(wanted)
    assert len(passed) < 60
    passed.clear()
    monkeypatch.setattr(decode, "SEEK_FRAMES", 1000)
    in_order = video.read(wanted)
    assert len(passed) == 96
    assert [image.tobytes() for image in sought] == [image.tobytes() for image in in_order]
    assert [number_of(image) for image in sought] == wanted


def test_frames_that_no_other_refers_to_are_left_out_if_nobody_needs_them(tmp_path, monkeypatch):
    path, options = tmp_path / "a.mp4", {"bf": "3", "g": "60", "x264-params": "b-adapt=0:scenecut=0"}
    write(path, [picture(number) for number in range(60)], options=options)  # three in four frames lie between others
    with av.open(str(path)) as container:
        every = [np.asarray(frame.to_image()) for frame in container.decode(video=0)]
    given, original = [], decode.decoded
    monkeypatch.setattr(
        decode,
        "decoded",
        lambda *args, **kinds: (given.append(frame.pts) or frame for frame in original(*args, **kinds)),
    )
    for wanted in ([50], [3, 19, 35, 51], list(range(7, 60, 5)), list(range(60))):
        given.clear()
        video = VideoFile(path)
        for index, image in zip(wanted, video.read(wanted), strict=True):
            assert number_of(image) == index
            assert np.abs(np.asarray(image).astype(int) - every[index]).max() <= 3  # two conversions from YUV
        assert len(given) < 0.8 * max(wanted) or len(wanted) == 60
    assert len(given) == 60


def test_time_stamps_out_of_order_do_not_change_the_order_of_display(tmp_path):
    """As cameras write them that stamp packets of B-frames in the order of decoding."""

    def stamp_as_decoded(packet):
        packet.pts = packet.dts
        return packet

    source = write_numbers(tmp_path / "right.mp4", 60, "mp4")
    video = VideoFile(remuxed(source, tmp_path / "wrong.mkv", change=stamp_as_decoded))
    for wanted in ([3], [40, 7], range(60)):
        assert [number_of(image) for image in video.read(wanted)] == list(wanted)
    assert video.index_at(1.0) == 25


@pytest.mark.parametrize("kind", ["ts", "mpeg4.avi"])
def test_packets_without_a_frame_show_a_neighbour(tmp_path, kind):
    """As the decoder leaves out what it cannot make: here B-frames that need what was cut off before them."""
    keys = []

    def without_beginning(packet):
        keys.extend([packet.pts] * packet.is_keyframe)
        return packet if len(keys) > 1 else None

    source = write_numbers(tmp_path / f"whole.{kind}", 40, kind)
    video = VideoFile(remuxed(source, tmp_path / f"part.{kind}", change=without_beginning))
    assert video.num_frames == 30
    numbers = [number_of(image) for image in video.read(range(30))]
    assert numbers == [12, 12, *range(12, 40)]
    assert [number_of(image) for image in video.read([0, 2, 9])] == [12, 12, 19]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_turned_videos_are_upright(tmp_path, degrees, mirrored):
    values = np.zeros((32, 48, 3), np.uint8)
    values[:8, :12] = 255
    values[:8, 36:] = 120
    path = write(
        tmp_path / "phone.mp4",
        [values] * 3,
        options={"crf": "4"},
        setup=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    (image,) = VideoFile(path).read([1])
    upright = np.rot90(values, degrees // 90)
    upright = upright[:, ::-1] if mirrored else upright
    assert image.size == (upright.shape[1], upright.shape[0])
    assert np.abs(np.asarray(image, float) - upright).mean() < 5


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["mp4", "vp8.webm", "mjpeg.avi", "gif"])
def test_very_short_videos(tmp_path, kind, count):
    video = VideoFile(write_numbers(tmp_path / f"clip.{kind}", count, kind))
    assert video.num_frames == count
    assert [number_of(image) for image in video.read([count - 1, 0])] == [count - 1, 0]
    assert video.seconds > 0
    assert video.index_at(10.0) == count - 1


def test_frames_outside_are_refused(tmp_path):
    video = VideoFile(write_numbers(tmp_path / "clip.mp4", 5))
    for wanted in ([5], [-1, 2]):
        with pytest.raises(IndexError, match="of 5"):
            video.read(wanted)


def test_threads_and_copies_share_a_file(tmp_path):
    video = VideoFile(write_numbers(tmp_path / "clip.mp4", 60), "clip.mp4")
    copy = pickle.loads(pickle.dumps(video))
    assert copy.name == "clip.mp4"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: number_of(video.read([number])[0]), range(60)))
    assert found == list(range(60))
    assert pickle.loads(pickle.dumps(video)).read([7])[0] == copy.read([7])[0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone.mp4: there is no such file"):
        VideoFile(tmp_path / "gone.mp4", "gone.mp4").read([0])
    with pytest.raises(UserError, match=r"is not a file"):
        VideoFile(tmp_path).read([0])


@pytest.mark.parametrize(("space", "wide"), [(1, True), (1, False), (5, True), (5, False), (2, False)])
def test_colours_follow_the_matrix_and_range_of_the_file(tmp_path, space, wide):
    """A lossless file of known Y, Cb and Cr; unspecified (2) is read as ITU-R 601, as ffmpeg does."""
    planes = np.array([[[90]], [[110]], [[160]]], np.uint8).repeat(16, 1).repeat(16, 2)
    with av.open(str(tmp_path / "colour.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 2 if wide else 1
        frame = av.VideoFrame.from_ndarray(planes, "yuv444p")
        frame.colorspace, frame.color_range, frame.pts = space, 2 if wide else 1, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    red, blue = (0.2126, 0.0722) if space == 1 else (0.299, 0.114)
    light, cb, cr = (90, -18, 32) if wide else ((90 - 16) * 255 / 219, -18 * 255 / 224, 32 * 255 / 224)
    r, b = light + 2 * (1 - red) * cr, light + 2 * (1 - blue) * cb
    expected = (r, (light - red * r - blue * b) / (1 - red - blue), b)
    found = VideoFile(tmp_path / "colour.mkv").read([0])[0].getpixel((5, 5))
    np.testing.assert_allclose(found, expected, atol=1.1)


@pytest.mark.parity
@pytest.mark.parametrize("kind", [*sorted(set(FORMATS) - {"h264"}), "variable", "turned", "deep"])
def test_frames_at_time_stamps_are_those_of_ffmpeg(tmp_path, kind):
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    across, down = np.meshgrid(np.arange(98), np.arange(66))
    pictures = [
        np.stack([across * 2 + number, down * 3, 200 - across - number], -1).astype(np.uint8) for number in range(60)
    ]
    codec, options = FORMATS.get(kind, FORMATS["mp4"])
    changes = {
        "variable": {"times": np.cumsum(np.random.default_rng(0).integers(20, 200, 60)).tolist()},
        "turned": {"setup": lambda stream: stream.set_display_rotation(90)},
        "deep": {"pixels": "yuv420p10le"},
    }.get(kind, {})
    path = write(
        tmp_path / f"clip.{kind if kind in FORMATS else 'mp4'}", pictures, codec=codec, options=options, **changes
    )
    video = VideoFile(path)
    with av.open(str(path)) as container:
        begin = container.start_time / av.time_base  # where ffmpeg begins to count, in AVI before the first frame
        times = sorted(float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.size)
    for number in (0, 1, 17, 40, 59):
        shown = video.read([video.index_at(times[number] - times[0])])[0]
        place = f"{times[number] - begin - 0.001:.4f}"
        command = [ffmpeg, "-v", "error", "-i", str(path), "-ss", place, "-frames:v", "1"]
        command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        theirs = np.frombuffer(raw, np.uint8).reshape(shown.height, shown.width, 3)
        assert np.abs(np.asarray(shown, int) - theirs).max() <= 1


def test_a_folder_of_frames_is_in_the_order_of_its_numbers(tmp_path):
    for number in (10, 9, 1, 100):
        Image.new("L", (6, 4), number).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".frame_0.png").write_bytes(b"")
    video = FrameFolder(tmp_path, fps=10.0, name="a")
    assert (video.num_frames, video.seconds, video.name) == (4, 0.4, "a")
    images = video.read([3, 0, 0, 1, 2])
    assert [image.getpixel((0, 0)) for image in images] == [100, 1, 1, 9, 10]
    assert {image.mode for image in images} == {"L"}
    assert [video.index_at(seconds) for seconds in (-1, 0, 0.1, 0.19, 0.3, 9)] == [0, 0, 1, 1, 3, 3]


def test_a_folder_gives_grey_or_colour(tmp_path):
    Image.new("RGBA", (6, 4), (10, 20, 30, 0)).save(tmp_path / "1.png")
    Image.new("P", (6, 4), 3).save(tmp_path / "2.png")
    Image.new("RGB", (6, 4), "red").save(tmp_path / "3.jpg")
    images = FrameFolder(tmp_path).read([0, 1, 2])
    assert [image.mode for image in images] == ["RGB"] * 3
    assert images[0].getpixel((0, 0)) == (255, 255, 255)


def test_bad_folders_of_frames_are_named(tmp_path):
    with pytest.raises(BrokenVideo, match="a: no images"):
        FrameFolder(tmp_path, name="a").read([0])
    (tmp_path / "2.jpg").write_bytes(b"no image")
    with pytest.raises(BrokenVideo, match=r"a: frame 2.jpg cannot be read") as caught:
        FrameFolder(tmp_path, name="a").read([0])
    assert caught.value.problem == "unreadable"


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_is_a_video(channels):
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    video = ArrayVideo(frames, fps=10.0, name="a")
    assert (video.num_frames, video.fps, video.seconds, video.name) == (5, 10.0, 0.5, "a")
    images = video.read([4, 0, 0])
    assert [image.mode for image in images] == ["L" if channels == 1 else "RGB"] * 3
    for image, index in zip(images, (4, 0, 0), strict=True):
        np.testing.assert_array_equal(np.asarray(image).reshape(4, 6, channels), frames[index])
    assert [video.index_at(number / 10) for number in range(5)] == list(range(5))


def test_other_arrays_are_refused():
    for frames in (np.zeros((5, 4, 6), np.uint8), np.zeros((5, 4, 6, 2), np.uint8), np.zeros((1, 4, 6, 3))):
        with pytest.raises(ValueError, match="uint8"):
            ArrayVideo(frames, 10.0)
