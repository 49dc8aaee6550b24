"""Image files: levels of more than 8 bits, what is refused, and files damaged at random."""

import gzip
import io
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import fuzz_images
import numpy as np
import pytest
from PIL import Image, ImageCms

from vit_jax.data.image import reading
from vit_jax.data.image.folder import examine
from vit_jax.data.image.modality import MODALITY
from vit_jax.data.image.reading import read_image
from vit_jax.data.image.transforms import to_channels
from vit_jax.errors import UserError


def tiff(levels, bits, *, inverted=False, sample_format=1, data=None):
    """A little-endian TIFF, uncompressed; `inverted`: 0 is white; `sample_format`: 1 unsigned, 2 signed, 3 float."""
    data = levels.tobytes() if data is None else data
    height, width = levels.shape
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, int(not inverted)), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format)]
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    directory = struct.pack("<H", len(entries)) + fields + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory


@pytest.fixture
def grey(tmp_path):
    """Returns the 8-bit grey levels that a file with the given content is read as."""

    def read(content):
        (tmp_path / "x").write_bytes(content)
        return np.asarray(to_channels(read_image(tmp_path / "x"), 1)).tolist()

    return read


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_levels_of_more_than_8_bits_are_scaled(grey):
    deep = np.array([[0, 256, 32768, 65535]], np.uint16)
    assert grey(tiff(deep, 16)) == [[0, 1, 128, 255]]
    assert grey(tiff(deep, 16, inverted=True)) == [[255, 254, 127, 0]]
    twelve = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])  # 0, 2048, 4095, 16
    assert grey(tiff(deep, 12, data=twelve)) == [[0, 128, 255, 1]]
    floats = np.array([[0, 0.5, 1, 0.25]], np.float32)
    assert grey(tiff(floats, 32, sample_format=3)) == [[0, 128, 255, 64]]
    assert grey(tiff(floats, 32, sample_format=3, inverted=True)) == [[255, 127, 0, 191]]
    assert grey(b"P5 4 1 65535\n" + deep.byteswap().tobytes()) == [[0, 1, 128, 255]]
    assert grey(b"P2 3 1 1023\n0 512 1023") == [[0, 128, 255]]
    big_endian = io.BytesIO()
    Image.fromarray(deep.byteswap().view(">u2")).save(big_endian, "TIFF")
    assert grey(big_endian.getvalue()) == [[0, 1, 128, 255]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 255]], np.float32), r"float levels from 0 to 255: only levels from 0 \(black\) to 1 \(white\)"),
        (np.array([[-0.1, 1]], np.float32), r"float levels from -0\.1 to 1"),
        (np.array([[0, np.nan]], np.float32), r"float levels from nan to nan"),
        (np.array([[0, np.inf]], np.float32), r"float levels from 0 to inf"),
        (np.array([[0, 255]], np.int32), "TIFF of signed or 32-bit integers, whose brightest level is not known"),
        (np.array([[0, 2**32 - 1]], np.uint32), "TIFF of signed or 32-bit integers"),
        (np.array([[-5, 255]], np.int16), "TIFF of signed or 32-bit integers"),
    ],
)
def test_levels_without_a_known_scale_are_refused(tmp_path, values, message):
    kind = {"f": 3, "i": 2, "u": 1}[values.dtype.kind]
    (tmp_path / "x.tif").write_bytes(tiff(values, 8 * values.dtype.itemsize, sample_format=kind))
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / "x.tif")
    record = examine(tmp_path / "x.tif")
    assert (record.status, record.detail) == ("unreadable", refusal(tmp_path / "x.tif"))


def test_arrays_with_other_levels_are_refused():
    assert np.asarray(to_channels(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), 1)).tolist() == [[0, 128, 255]]
    for values in (np.array([[0, 65536]], np.int32), np.array([[-1, 5]], np.int32)):
        with pytest.raises(UserError, match=r"only levels from 0 \(black\) to 65535 \(white\) are understood"):
            to_channels(Image.fromarray(values), 3)
    with pytest.raises(UserError, match="float levels from 0 to 2"):
        to_channels(Image.fromarray(np.array([[0, 2]], np.float32)), 3)


ALPHA = (40, 80, 120, 51)  # a fifth is visible on white: 255 - (255 - v) / 5
ON_WHITE = [212, 220, 228]


@pytest.mark.parametrize(
    ("image", "rgb"),
    [
        (Image.new("1", (1, 1), 1), [255] * 3),
        (Image.new("L", (1, 1), 7), [7] * 3),
        (Image.new("I;16", (1, 1), 7 << 8), [7] * 3),
        (Image.new("I;16B", (1, 1), 7 << 8), [7] * 3),
        (Image.new("I", (1, 1), 7 << 8), [7] * 3),
        (Image.new("F", (1, 1), 0.2), [51] * 3),
        (Image.new("LA", (1, 1), (40, 51)), [212] * 3),
        (Image.new("La", (1, 1), (8, 51)), [212] * 3),
        (Image.new("RGBA", (1, 1), ALPHA), ON_WHITE),
        (Image.new("RGBa", (1, 1), (8, 16, 24, 51)), ON_WHITE),
        (Image.new("RGBX", (1, 1), (40, 80, 120, 0)), [40, 80, 120]),
        (Image.new("CMYK", (1, 1), (255, 0, 0, 0)), [0, 255, 255]),
        (Image.new("YCbCr", (1, 1), (90, 128, 128)), [90] * 3),
        (Image.new("HSV", (1, 1), (0, 255, 200)), [200, 0, 0]),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_has_its_colours(image, rgb):
    assert np.abs(np.subtract(to_channels(image, 3).getpixel((0, 0)), rgb)).max() <= 1
    luma = to_channels(Image.new("RGB", (1, 1), tuple(rgb)), 1).getpixel((0, 0))
    assert abs(to_channels(image, 1).getpixel((0, 0)) - luma) <= 1


def test_colours_of_a_lab_file(tmp_path):
    spaces = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
    colour = Image.new("RGB", (1, 1), (200, 30, 60))
    ImageCms.profileToProfile(colour, *spaces, outputMode="LAB").save(tmp_path / "x.tif")
    image = read_image(tmp_path / "x.tif")
    assert image.mode == "LAB"
    assert np.abs(np.subtract(to_channels(image, 3).getpixel((0, 0)), (200, 30, 60))).max() <= 1


def test_colours_of_a_palette_and_of_transparent_ones():
    for mode, palette in (("RGB", [0, 0, 0, 40, 80, 120]), ("RGBA", [0, 0, 0, 0, *ALPHA])):
        image = Image.new("P", (1, 1), 1)
        image.putpalette(palette, mode)
        wanted = [40, 80, 120] if mode == "RGB" else ON_WHITE
        assert np.abs(np.subtract(to_channels(image, 3).getpixel((0, 0)), wanted)).max() <= 1
    for transparency, wanted in ((1, [255] * 3), (b"\xff\x33", ON_WHITE), (0, [40, 80, 120])):
        image = Image.new("P", (1, 1), 1)
        image.putpalette([0, 0, 0, 40, 80, 120])
        image.info["transparency"] = transparency
        assert np.abs(np.subtract(to_channels(image, 3).getpixel((0, 0)), wanted)).max() <= 1
    key = Image.new("RGB", (1, 1), (1, 2, 3))
    key.info["transparency"] = (1, 2, 3)
    assert to_channels(key, 3).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["gif", "png", "tiff", "webp", "avif"])
def test_the_first_frame_is_used(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    red, green, _ = to_channels(read_image(tmp_path / f"x.{suffix}"), 3).getpixel((4, 4))
    assert red > 150 > 50 > green


def test_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").size == (8, 4)


def test_what_is_not_a_file_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "gone.png").symlink_to("/nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind("socket.png")
    assert refusal(tmp_path / "pipe.png") == refusal(tmp_path / "socket.png") == "not a regular file"
    assert refusal("/dev/zero") == "not a regular file"
    assert refusal(tmp_path / "folder.jpg") == "a folder"
    assert refusal(tmp_path / "empty.png") == "empty (0 bytes)"
    assert refusal(tmp_path / "gone.png") == "a link to a file that does not exist"
    assert "levels of symbolic links" in refusal(tmp_path / "loop.png")
    assert refusal(tmp_path / "missing.png") == "No such file or directory"
    assert "embedded null" in refusal(tmp_path / "nul\0.png")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    Image.new("L", (2, 2)).save(tmp_path / "x.png")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "x.png")

    monkeypatch.setattr(Image, "open", refuse)
    assert refusal(tmp_path / "x.png") == "Permission denied"


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    def decode(*_):
        raise AssertionError

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side, message in ((10, None), (11, "11 x 11 pixels, more than the 100 that are read of PNG")):
        Image.new("L", (side, side)).save(tmp_path / "x.png")
        if message:
            monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decode)
            assert refusal(tmp_path / "x.png") == message
        else:
            assert read_image(tmp_path / "x.png").size == (side, side)
    Image.new("L", (50, 50)).save(tmp_path / "x.png")
    assert refusal(tmp_path / "x.png") == "more than 100 pixels, the most that are read"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(reading, "MOST_SLOW_PIXELS", 24)
    (tmp_path / "x.ppm").write_bytes(b"P2 5 5 9\n" + b"1 " * 25)
    assert refusal(tmp_path / "x.ppm") == "5 x 5 pixels, more than the 24 that are read of PPM"


def test_programs_and_archives_are_refused(tmp_path):
    files = fuzz_images.by_hand()
    for name, message in (("EPS", "EPS is not read, because it is a program"), ("FITS bomb", "compressed FITS")):
        (tmp_path / "x").write_bytes(files[name])
        assert refusal(tmp_path / "x").startswith(message)
    (tmp_path / "x.png.gz").write_bytes(gzip.compress(b"x"))
    assert refusal(tmp_path / "x.png.gz") == "not an image"


@pytest.mark.parametrize("suffix", ["avif", "dds", "tiff", "jp2", "png", "jpg", "webp", "gif"])
def test_a_file_cut_short_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"x.{suffix}")
    content = (tmp_path / f"x.{suffix}").read_bytes()
    for part in (20, len(content) // 2, len(content) - 40):
        (tmp_path / f"x.{suffix}").write_bytes(content[:part])
        if not (suffix == "jp2" and part > len(content) // 2):  # JPEG 2000 is progressive
            assert refusal(tmp_path / f"x.{suffix}")


def test_prediction_skips_what_cannot_be_read(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "b.avif").write_bytes(b"\0\0\0\x20ftypavif" + bytes(40))
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / "d.png").symlink_to("/nowhere.png")
    Image.new("L", (2, 2)).save(os.path.join(os.fsencode(tmp_path), b"e\xe9.png"))
    found = list(MODALITY.read_inputs([str(tmp_path)], [], None))
    assert [Path(name).name for name, _ in found] == ["a.png", "b.avif", "c.png", "d.png", r"e\xe9.png"]
    assert [isinstance(stored, Image.Image) for _, stored in found] == [True, False, False, False, True]
    assert all(isinstance(stored, UserError | Image.Image) for _, stored in found)


def fuzz(seed, count):
    """Runs `fuzz_images` in a process of its own; fails on other exceptions than ours and above the bound on memory."""
    command = [sys.executable, fuzz_images.__file__, str(seed), str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["strange"] == []
    bound = fuzz_images.PIXELS * reading.BYTES_PER_PIXEL + 10 * found["largest"] + 2**25  # the last is of libraries
    assert found["grown"] < bound
    return found["outcomes"]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="measures memory as Linux does")
@pytest.mark.parametrize(("seed", "count"), [(0, 1000), pytest.param(1, 100_000, marks=pytest.mark.slow)])
def test_damaged_images_are_read_or_refused(seed, count):
    outcomes = fuzz(seed, count)
    assert outcomes["undamaged read"] > 150
    assert outcomes["damaged read"] > count / 10
    assert outcomes["damaged refused"] > count / 10
    assert outcomes["damaged read"] + outcomes["damaged refused"] == count
