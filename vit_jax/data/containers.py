"""What PyAV tells of a file of video: its frames' time stamps, and the frames as upright RGB images."""

import bisect
import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av.container
import av.error
import av.filter
import numpy as np
from av.stream import Disposition
from PIL import Image

from vit_jax.errors import UserError


class BrokenVideo(UserError):
    """A video that cannot be used. `problem` is empty, no video, truncated or unreadable; `reason` says it in words."""

    def __init__(self, name: str, problem: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.problem, self.reason = problem, reason

    def __reduce__(self):
        return type(self), (str(self).removesuffix(f": {self.reason}"), self.problem, self.reason)


class FrameTable(NamedTuple):
    """What the packets say of the frames in order of display: their time stamps, in `unit` seconds, and the key frames'
    numbers, at which decoding may begin; `seconds` is the whole length."""

    stamps: list[int]
    keys: list[int]
    unit: float
    seconds: float


@contextlib.contextmanager
def opened(path: Path, name: str) -> Iterator[tuple[Any, Any]]:
    """Yields the container and its stream of video."""
    if not path.is_file():
        raise UserError(f"{name}: there is no such file" if not path.exists() else f"{name} is not a file")
    if path.stat().st_size == 0:
        raise BrokenVideo(name, "empty", "empty (0 bytes)")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        with path.open("rb") as file:
            is_mp4 = file.read(8)[4:] == b"ftyp"
        if is_mp4:
            raise BrokenVideo(name, "truncated", "truncated: the index of an MP4, at its end, is missing") from None
        raise BrokenVideo(name, "unreadable", f"cannot be read as a video ({_reason(error)})") from None
    with container:
        videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not videos or videos[0].codec_context is None:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise BrokenVideo(name, "no video", f"no video in it, only {kinds}")
        yield container, videos[0]


def read_table(container: Any, stream: Any, name: str) -> FrameTable:
    stamps, keys, last, count, end, torn = [], [], (-math.inf, 0), 0, 0.0, False
    try:
        for packet in container.demux():
            if packet.dts is None and packet.pts is None and not packet.size:
                continue  # says that a stream is at its end
            torn = packet.is_corrupt
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            count += 1
            if not packet.size or packet.is_discard:
                continue  # shows nothing
            stamps.append(packet.pts)
            if packet.pts is not None:
                last = max(last, (packet.pts, packet.duration or 0))
                keys += [packet.pts] * packet.is_keyframe
    except av.error.FFmpegError:
        torn = True
    if not stamps:
        raise BrokenVideo(name, "truncated", "truncated: it has no frame")
    if torn or _is_short(container, stream, count, end):
        raise BrokenVideo(name, "truncated", f"truncated: it ends after {len(stamps)} frames, {end:.1f} s")
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    unit = float(stream.time_base)
    if None in stamps:  # a bare stream: equal durations
        return FrameTable(list(range(len(stamps))), [0], 1 / rate, len(stamps) / rate)
    stamps.sort()
    duration = last[1] or (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1) or 1 / rate / unit
    distinct = len(set(stamps)) == len(stamps)
    numbers = sorted({0, *(bisect.bisect_left(stamps, key) for key in keys if distinct)})
    return FrameTable(stamps, numbers, unit, (stamps[-1] - stamps[0] + duration) * unit)


def _is_short(container: Any, stream: Any, packets: int, end: float) -> bool:
    """Whether a file that ends between two packets lacks some: by its index (MP4), or the length stated (Matroska)."""
    if container.format.name.startswith("mov"):
        return packets < len(stream.index_entries)
    if container.format.name.startswith("matroska") and container.duration:
        return end < container.duration / av.time_base - 1 - 2 / float(stream.average_rate or 25)
    return False


def decoded(container: Any, stream: Any, name: str, from_stamp: int | None = None) -> Iterator[Any]:
    """Yields the frames from here on, or from that time stamp on."""
    time = 0.0
    try:
        for packet in container.demux(stream):
            if not packet.size and packet.dts is not None:
                continue  # of Theora: the last frame once more
            for frame in packet.decode():
                time = frame.time or time
                if from_stamp is None or (frame.pts is not None and frame.pts >= from_stamp):
                    yield frame
    except av.error.FFmpegError as error:
        raise BrokenVideo(name, "unreadable", f"cannot be decoded after {time:.1f} s ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class Converter:
    """Frames to upright RGB images, by the filter that the program ffmpeg inserts for `-pix_fmt rgb24`."""

    def __init__(self):
        self._kind, self._graph = None, None

    def __call__(self, frame: Any) -> Image.Image:
        kind = (frame.width, frame.height, frame.format.name)
        if self._graph is None or kind != self._kind:
            self._kind, self._graph = kind, _rgb_graph(frame)
        self._graph.push(frame)
        return _upright(self._graph.pull().to_image(), frame)


def _rgb_graph(frame: Any) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1  # frames are small and clips many
    buffer = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base
    )
    graph.link_nodes(buffer, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
    return graph


def _upright(image: Image.Image, frame: Any) -> Image.Image:
    """Applies a display matrix (a, b, .; c, d, .; ...), which takes (x, y) to (a x + c y, b x + d y)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.transpose(Image.Transpose.TRANSPOSE), c, b
    if a < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if d < 0:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image
