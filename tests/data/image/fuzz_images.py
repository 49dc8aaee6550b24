"""Damages images of every format at random and reads them; run as a process of its own, whose memory is measured.

  python tests/data/image/fuzz_images.py SEED COUNT

prints one JSON object: how many files were read and refused, by format, the largest growth of memory in bytes, and the
exceptions that are not ours. A file that takes longer than two minutes ends the process with a traceback.
"""

import collections
import faulthandler
import gzip
import io
import json
import pathlib
import re
import struct
import sys
import tempfile
import warnings

import numpy as np
from PIL import Image

PIXELS = 2**18  # set as Pillow's limit, so that the bound on memory shows in small files
HANG = 120  # seconds
NOT_WRITTEN = ("ICNS", "MPO", "PALM", "PDF")  # Pillow does not read the last two, and writes only large icons
MODES = ("RGB", "RGBA", "L", "P", "1", "F", "I;16", "CMYK", "LA", "YCbCr")
OPTIONS = {
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "jpeg"}],
    "PNG": [{}, {"save_all": True}],
    "GIF": [{}, {"save_all": True}],
    "WEBP": [{}, {"lossless": True}, {"save_all": True}],
    "DDS": [{}, {"pixel_format": "DXT1"}, {"pixel_format": "DXT5"}],
}


def picture(mode, size=(16, 12)):
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    if mode in ("F", "I;16"):
        return Image.fromarray(
            (values[..., 0] / 255).astype(np.float32) if mode == "F" else values[..., 0] * np.uint16(9)
        )
    return Image.fromarray(values, "RGBA").convert("RGB").convert(mode) if mode != "RGBA" else Image.fromarray(values)


def seeds():
    """Returns undamaged files as (format, bytes): what Pillow writes, in every mode, and some made by hand."""
    Image.init()
    files = []
    for name in sorted(set(Image.SAVE) - set(NOT_WRITTEN)):
        for mode in MODES:
            for options in OPTIONS.get(name, [{}]):
                more = {"append_images": [picture(mode)]} if options.get("save_all") else {}
                content = io.BytesIO()
                try:
                    picture(mode).save(content, name, **options, **more)
                except (OSError, ValueError, KeyError):
                    continue  # the format does not have this mode
                files.append((name, content.getvalue()))
    return files + [(name, content) for name, content in by_hand().items()]


def by_hand():
    """Files of formats that Pillow reads and does not write, and some that try to take memory, time or a program."""
    pixels = bytes(range(192))
    fits = b"".join(card.ljust(80).encode() for card in ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 16",
                                                         "NAXIS2  = 12", "END")).ljust(2880)  # fmt: skip
    table = b"".join(card.ljust(80).encode() for card in ("XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2",
        "NAXIS1  = 8", "NAXIS2  = 1", "ZIMAGE  = T", "ZCMPTYPE= 'GZIP_1  '", "ZBITPIX = 8", "ZNAXIS  = 2",
        "ZNAXIS1 = 16", "ZNAXIS2 = 12", "END")).ljust(2880)  # fmt: skip
    bomb = gzip.compress(bytes(2**26), 1)
    icon = io.BytesIO()
    picture("RGBA", (16, 16)).save(icon, "PNG")
    icon = b"icp4" + struct.pack(">I", len(icon.getvalue()) + 8) + icon.getvalue()
    return {
        "SUN": struct.pack(">8I", 0x59A66A95, 16, 12, 8, 192, 1, 0, 0) + pixels,
        "PSD": b"8BPS" + struct.pack(">H6xHIIHHIIIH", 1, 3, 12, 16, 8, 3, 0, 0, 0, 0) + pixels * 3,
        "FITS": fits + pixels,
        "FITS bomb": fits.replace(b"NAXIS   = 2", b"NAXIS   = 0") + table + bytes(8) + bomb,
        "ICNS": b"icns" + struct.pack(">I", len(icon) + 8) + icon,
        "XPM": b'/* XPM */\nstatic char *a[] = {\n"2 2 2 1",\n"a c #ff0000",\n"b c #00ff00",\n"ab",\n"ba"};\n',
        "FLI": struct.pack("<IHHHHHHI", 150, 0xAF11, 1, 16, 12, 8, 3, 5).ljust(128, b"\0")
        + struct.pack("<IHH8x", 22, 0xF1FA, 1) + struct.pack("<IH", 6, 13),
        "XVTHUMB": b"P7 332\n#XVVERSION\n#END_OF_COMMENTS\n16 12 255\n" + pixels,
        "GBR": struct.pack(">5I", 20, 1, 16, 12, 1) + pixels,
        "DCX": struct.pack("<III", 987654321, 12, 0),
        "IMT": b"*IMAGE\nwidth 16\nheight 12\npixel n8\n\x0c" + pixels,
        "PCD": bytes(2048) + b"PCD_" + bytes(8192),
        "MCIDAS": bytes(3) + b"\x04" + bytes(252),
        "FTEX": struct.pack("<4sIIIIIIII", b"FTEX", 1, 16, 12, 1, 1, 1, 36, 0) + struct.pack("<I", 576) + pixels * 3,
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n",
        "GRIB": b"GRIB\0\0\0\x01", "HDF5": b"\x89HDF\r\n\x1a\n", "BUFR": b"BUFR\0\0", "MPEG": b"\0\0\x01\xb3" + pixels,
        "PPM plain": b"P3 4 4 999\n" + b"12 34 567\n" * 16,
        "PGM large": b"P5 40000 40000 255\n" + pixels,
    }  # fmt: skip


def damaged(content, other, rng):
    """Returns a file with a few bytes, a field or a part changed, or only its beginning."""
    data, kind = bytearray(content), rng.integers(6)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:  # a field of two or four bytes near the beginning, where headers are
        value = int(rng.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, rng.integers(2**32)]))
        place, order = int(rng.integers(min(len(data), 160))), str(rng.choice([">I", "<I", ">H", "<H"]))
        field = struct.pack(order, value & (2**16 - 1 if "H" in order else 2**32 - 1))
        data[place : place + len(field)] = field
    elif kind == 2:  # a part is left out or repeated
        start, stop = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        data[start:stop] = data[start:stop] * int(rng.choice([0, 2]))
    elif kind == 3:  # the end of another file
        data[rng.integers(len(data)) :] = other[rng.integers(len(other)) :]
    else:
        for _ in range(rng.integers(1, 9)):
            near = rng.random() < 0.5
            place = int(rng.integers(min(len(data), 160) if near else len(data)))
            data[place] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    return bytes(data)


def peak():
    """Returns the largest size of this process since `forget_peak`, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def forget_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def main(seed, count):
    from vit_jax.data.image.reading import read_image
    from vit_jax.data.image.transforms import to_channels
    from vit_jax.errors import UserError

    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = PIXELS
    files, rng = seeds(), np.random.default_rng(seed)
    outcomes, strange = collections.Counter(), []
    forget_peak()
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "image")
        for index in range(len(files) + count):
            name, content = files[index] if index < len(files) else files[rng.integers(len(files))]
            if index >= len(files):
                content = damaged(content, files[rng.integers(len(files))][1], rng)
            file.write_bytes(content)
            faulthandler.dump_traceback_later(HANG, exit=True)
            try:
                image = read_image(file)
                for channels in (1, 3):
                    to_channels(image, channels)
                outcome = "read"
            except UserError as error:
                outcome = "refused"
                if "\n" in str(error) or not str(error):
                    strange.append([name, index, repr(error)])
            except Exception as error:  # is what this looks for
                outcome = "strange"
                strange.append([name, index, repr(error)])
            kind = "undamaged" if index < len(files) else "damaged"
            outcomes[f"{kind} {outcome}"] += 1
            if kind == "undamaged":
                outcomes[f"{name} {outcome}"] += 1
    faulthandler.cancel_dump_traceback_later()
    largest = max(len(content) for _, content in files)
    print(json.dumps({"outcomes": outcomes, "strange": strange, "grown": peak() - before, "largest": largest}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
