"""Clips of a few small frames, written by the tests that need them; frame i has the grey level 10 + 20 i."""

import fractions

import av
import numpy as np


def grey(index):
    return (10 + 20 * index) % 250


def write_clip(path, num_frames=10, *, fps=10, times=None, size=(32, 48), codec="mpeg4"):
    """Writes a clip of `size` (height, width); `times`, in milliseconds, make its rate a variable one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        unit = stream.codec_context.time_base = fractions.Fraction(1, fps if times is None else 1000)
        for index in range(num_frames if times is None else len(times)):
            pixels = np.full((*size, 3), grey(index), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = unit
            frame.pts = index if times is None else times[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(images):
    """The grey level at the middle of each image."""
    return [np.asarray(image.convert("L"))[image.height // 2, image.width // 2] for image in images]
