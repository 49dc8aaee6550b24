"""Reading video files by PyAV: the time stamps of the frames, and the frames as upright RGB images."""

import bisect
import contextlib
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import av.filter
import numpy as np
from av.stream import Disposition
from PIL import Image

from vit_jax.errors import UserError

# A title in another encoding must not make a video unreadable. From version 19 on, PyAV ignores it by itself.
LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
OPTIONS = {"protocol_whitelist": "file"}  # a playlist must not make FFmpeg connect to a server
NO_INDEX = "truncated: the index of the MP4, usually at its end, is missing"


class BrokenVideo(UserError):
    """A video that cannot be used.

    Attributes:
      problem: "empty", "no video", "truncated" or "unreadable".
      reason: The problem in words.
    """

    def __init__(self, name: str, problem: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.problem, self.reason = problem, reason

    def __reduce__(self):
        return type(self), (str(self).removesuffix(f": {self.reason}"), self.problem, self.reason)


class FrameTable(NamedTuple):
    """The frames of a video in order of display, according to its packets.

    Attributes:
      stamps: Time stamp of each frame, in units of `unit` seconds.
      keys: Indices of the key frames, at which decoding can begin.
      unit: Unit of the time stamps, in seconds.
      seconds: Length of the video.
    """

    stamps: list[int]
    keys: list[int]
    unit: float
    seconds: float


@contextlib.contextmanager
def opened(path: Path, name: str) -> Iterator[tuple[Any, Any]]:
    """Opens a video file; yields the container and its first video stream.

    Raises:
      UserError: There is no such file.
      BrokenVideo: The file is empty, truncated, not a video, or has no video stream.
    """
    if not path.is_file():
        raise UserError(f"{name}: there is no such file" if not path.exists() else f"{name} is not a file")
    _check_size(path, name)
    try:
        container = av.open(str(path.absolute()), options=OPTIONS, **LENIENT)  # "a:b.mp4" would be a protocol
    except (av.error.FFmpegError, OSError) as error:
        if _head(path)[4:8] == b"ftyp":
            raise BrokenVideo(name, "truncated", NO_INDEX) from None
        raise BrokenVideo(name, "unreadable", f"cannot be read as a video ({_reason(error)})") from None
    with container:
        if _is_image(container):
            raise BrokenVideo(name, "no video", "a single image, not a video. Frames are given as a folder of images")
        streams = [stream for stream in container.streams if stream.codec_context is not None]
        if not streams and container.format.name.startswith("mov"):
            raise BrokenVideo(name, "truncated", NO_INDEX)
        videos = [
            stream
            for stream in streams
            if stream.type == "video" and not stream.disposition & Disposition.attached_pic  # a cover image
        ]
        if not videos:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise BrokenVideo(name, "no video", f"contains no video, only {kinds}")
        _limit_pixels(videos[0].codec_context, name)
        videos[0].codec_context.thread_count = 1  # several clips are decoded at the same time
        yield container, videos[0]


def _limit_pixels(codec: Any, name: str) -> None:
    """Raises `BrokenVideo` for frames with more pixels than an image may have, and makes the decoder refuse them."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None:
        if codec.width * codec.height > most:
            size = f"{codec.width:,} x {codec.height:,} pixels"
            raise BrokenVideo(name, "unreadable", f"frames of {size}, more than the {most:,} that are read")
        codec.options = {"max_pixels": str(2 * most)}  # a later frame may be larger; sizes are rounded up


def _is_image(container: Any) -> bool:
    """Whether FFmpeg took a file for one image: `png_pipe`, `image2`, an icon, or an AVIF or HEIC of one frame."""
    format = container.format.name
    return (
        format.endswith("_pipe")
        or format in ("image2", "ico")
        or container.metadata.get("major_brand") in ("avif", "heic", "mif1")
    )


def _check_size(path: Path, name: str) -> None:
    """Raises `BrokenVideo` for an empty file, and for a Matroska (WebM) file shorter than the size in its header."""
    size, head = path.stat().st_size, _head(path)
    if size == 0:
        raise BrokenVideo(name, "empty", "empty (0 bytes)")
    segment = head.find(b"\x18\x53\x80\x67") + 4 if head.startswith(b"\x1a\x45\xdf\xa3") else 0
    if segment < 4 or len(head) < segment + 8:
        return
    width = 9 - head[segment].bit_length()  # bytes of the size that follows; all ones mean unknown
    unknown = (1 << 7 * width) - 1
    stated = int.from_bytes(head[segment : segment + width]) & unknown
    if stated != unknown and size < segment + width + stated:
        reason = f"truncated: only {size:,} of {segment + width + stated:,} bytes are there"
        raise BrokenVideo(name, "truncated", reason)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)


def read_table(container: Any, stream: Any, name: str) -> FrameTable:
    """Reads all packets of a video, decoding none.

    Raises:
      BrokenVideo: The file is truncated: a packet is damaged, or fewer are there than the index of the file lists.
    """
    stamps, keys, last, count, end, torn = [], [], (-math.inf, 0), 0, 0.0, False
    try:
        for packet in container.demux():
            if packet.dts is None and packet.pts is None and not packet.size:
                continue  # marks the end of a stream
            torn = packet.is_corrupt
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            count += 1
            if not packet.size or packet.is_discard:
                continue  # is not displayed
            stamps.append(packet.pts)
            if packet.pts is not None:
                last = max(last, (packet.pts, packet.duration or 0))
                keys += [packet.pts] * packet.is_keyframe
    except av.error.FFmpegError:
        torn = True
    if not stamps:
        raise BrokenVideo(name, "truncated", "truncated: it has no frames")
    if container.format.name.startswith("mov"):
        torn = torn or count < len(stream.index_entries)
    if torn:
        raise BrokenVideo(name, "truncated", f"truncated: it ends after {len(stamps)} frames, {end:.1f} s")
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    unit = float(stream.time_base)
    if None in stamps:  # a raw stream without time stamps: frames of equal duration
        return FrameTable(list(range(len(stamps))), [0], 1 / rate, len(stamps) / rate)
    stamps.sort()
    duration = last[1] or (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1) or 1 / rate / unit
    distinct = len(set(stamps)) == len(stamps)
    numbers = sorted({0, *(bisect.bisect_left(stamps, key) for key in keys if distinct)})
    return FrameTable(stamps, numbers, unit, (stamps[-1] - stamps[0] + duration) * unit)


def decoded(
    container: Any, stream: Any, name: str, from_stamp: int | None = None, wanted: Collection[int] | None = None
) -> Iterator[Any]:
    """Decodes the frames from the current position, or those from time stamp `from_stamp` on.

    Args:
      wanted: Time stamps of the frames that are needed; of the others, those that no frame refers to may be left out.

    Raises:
      BrokenVideo: A frame cannot be decoded.
    """
    time, codec = 0.0, stream.codec_context
    try:
        for packet in container.demux(stream):
            if not packet.size and packet.dts is not None:
                continue  # Theora repeats the last frame in this way
            if wanted is not None and skips(stream):
                codec.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
            for frame in packet.decode():
                time = frame.time or time
                if from_stamp is None or (frame.pts is not None and frame.pts >= from_stamp):
                    yield frame
    except av.error.FFmpegError as error:
        raise BrokenVideo(name, "unreadable", f"cannot be decoded after {time:.1f} s ({_reason(error)})") from None


def skips(stream: Any) -> bool:
    """Returns whether a decoder can leave out frames that no other refers to: H.264, by far the commonest.

    In HEVC, frames marked like this may be referred to by higher layers.
    """
    return stream.codec_context.name == "h264"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class Converter:
    """Converts frames to upright RGB images, by the filter that the ffmpeg program inserts for `-pix_fmt rgb24`."""

    def __init__(self):
        self._format, self._graph = None, None

    def __call__(self, frame: Any) -> Image.Image:
        format = (frame.width, frame.height, frame.format.name)
        if self._graph is None or format != self._format:
            self._format, self._graph = format, _rgb_graph(frame)
        self._graph.push(frame)
        return _upright(self._graph.pull().to_image(), frame)


def _rgb_graph(frame: Any) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1  # several clips are decoded at the same time
    buffer = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base
    )
    graph.link_nodes(buffer, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
    return graph


def _upright(image: Image.Image, frame: Any) -> Image.Image:
    """Applies the display matrix of a frame, (a, b, .; c, d, .; ...), which maps (x, y) to (a x + c y, b x + d y)."""
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
