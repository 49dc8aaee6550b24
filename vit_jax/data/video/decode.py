"""Frames of videos by index: files read through PyAV, folders of numbered images, and arrays.

Frames are numbered in the order in which the decoder returns them, which is the order of display. Their times are the
sorted time stamps of the file's packets: all packets of a video are read once and none is decoded, which takes about a
hundredth of the time of decoding it. The length in the header of a container is only used to detect a missing part.
"""

import bisect
import functools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from vit_jax.data.image.reading import read_image
from vit_jax.data.image.transforms import to_channels
from vit_jax.data.layout import named
from vit_jax.data.video.containers import BrokenVideo, Converter, FrameTable, decoded, opened, read_table, skips
from vit_jax.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
SEEK_FRAMES = 16  # seek to a key frame at least this far ahead; seeking costs about as much as decoding these frames

_NUMBER = re.compile(r"([0-9]+)")
_FLOW = re.compile(r"(flow|(flow_)?[xyuv])[_-]?#")  # names of optical flow as TSN writes them, with "#" for numbers


class Video(Protocol):
    """Random access to frames, in the order of display.

    Attributes:
      name: The file or the example, for messages.
      num_frames: Number of frames.
      fps: Average frames per second; 0 if it is not known.
      seconds: Time from the beginning of the first frame to the end of the last; needs `fps`.
    """

    name: str

    @property
    def num_frames(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def seconds(self) -> float: ...

    def index_at(self, seconds: float) -> int:
        """Returns the index of the frame shown at a time: the last that begins no later. The first begins at 0."""
        ...

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        """Returns frames in the order of `indices`, which may repeat: upright, of mode "RGB" or "L" (grey)."""
        ...


class VideoFile:
    """A file that PyAV can decode. Each call of `read` opens it again, so that threads and processes can share it.

    Frames are rotated and mirrored according to the file's display matrix, and converted to RGB as ffmpeg does. Pixels
    that are not square stay as they are, as in the authors' code.

    The first use of the object raises `BrokenVideo` if the file is empty, has no video or is truncated. In AVI and
    Flash, truncation shows only if it cuts a frame; in MPEG streams and Ogg it does not show. `read` raises
    `BrokenVideo` for frames that cannot be decoded.
    """

    def __init__(self, path: str | Path, name: str | None = None):
        self.path, self.name = Path(path), name or str(path)

    @property
    def num_frames(self) -> int:
        return len(self._table.stamps)

    @property
    def fps(self) -> float:
        return self.num_frames / self.seconds

    @property
    def seconds(self) -> float:
        return self._table.seconds

    def index_at(self, seconds: float) -> int:
        stamps = self._table.stamps
        # Tolerate rounding errors of up to a thousandth of the file's unit of time.
        return max(bisect.bisect_right(stamps, stamps[0] + seconds / self._table.unit + 1e-3) - 1, 0)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        wanted = sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.num_frames:
            raise IndexError(f"{self.name}: frames {wanted[0]} to {wanted[-1]} of {self.num_frames}")
        try:
            images = self._read_by_stamps(wanted)
        except _UnexpectedStampError:
            images = self._read_by_count(wanted)
        return [images[index] for index in indices]

    @functools.cached_property
    def _table(self) -> FrameTable:
        with opened(self.path, self.name) as (container, stream):
            return read_table(container, stream, self.name)

    def _read_by_stamps(self, wanted: list[int]) -> dict[int, Image.Image]:
        """Decodes from key frames; raises `_UnexpectedStampError` if a frame lacks the time stamp of its packet."""
        stamps, keys = self._table.stamps, self._table.keys
        images, next_one, needed = {}, 0, {stamps[index] for index in wanted}
        with opened(self.path, self.name) as (container, stream):
            convert, frames = Converter(), decoded(container, stream, self.name, wanted=needed)
            for index in wanted:
                key = keys[bisect.bisect_right(keys, index) - 1]
                if key - next_one >= SEEK_FRAMES:
                    container.seek(stamps[key], stream=stream)
                    frames = decoded(container, stream, self.name, from_stamp=stamps[key], wanted=needed)
                    next_one = key
                while next_one <= index:
                    frame = next(frames, None)
                    if frame is None or frame.pts is None:
                        raise _UnexpectedStampError
                    place = bisect.bisect_left(stamps, frame.pts, next_one)  # `decoded` may leave out frames before it
                    if place > index or stamps[place] != frame.pts or (place > next_one and not skips(stream)):
                        raise _UnexpectedStampError
                    next_one = place + 1
                images[index] = convert(frame)
        return images

    def _read_by_count(self, wanted: list[int]) -> dict[int, Image.Image]:
        """Decodes from the beginning, counting frames."""
        images, places = {}, [self._places[index] for index in wanted]
        with opened(self.path, self.name) as (container, stream):
            convert, shown = Converter(), {}
            for place, frame in enumerate(decoded(container, stream, self.name)):
                if place in places:
                    shown[place] = convert(frame)
                if place == places[-1]:
                    break
        for index, place in zip(wanted, places, strict=True):
            images[index] = shown[place]
        return images

    @functools.cached_property
    def _places(self) -> list[int]:
        """For each frame, its index among those that the decoder returns, which may leave some out."""
        with opened(self.path, self.name) as (container, stream):
            given = [frame.pts for frame in decoded(container, stream, self.name)]
        stamps = self._table.stamps
        if len(given) == len(stamps):
            return list(range(len(given)))
        if not given or None in given or given != sorted(given) or given[-1] < stamps[-1]:
            raise BrokenVideo(
                self.name, "truncated", f"truncated: only {len(given)} of {len(stamps)} frames can be decoded"
            )
        return [max(bisect.bisect_right(given, stamp) - 1, 0) for stamp in stamps]


class _UnexpectedStampError(Exception):
    """The decoder returned another frame than the packets announce."""


class FrameFolder:
    """A folder of images, one per frame, in the order of the numbers in their names: frame_9 precedes frame_10.

    A folder does not store its frame rate, so `fps` must be given. Images of optical flow, `flow_x_00001.jpg` or
    `x_00001.jpg` as in TSN's folders, are left out; see `frame_files`.
    """

    def __init__(self, path: str | Path, fps: float = 30.0, name: str | None = None):
        self.path, self.fps, self.name = Path(path), fps, name or str(path)

    @functools.cached_property
    def files(self) -> list[Path]:
        files = frame_files(self.path, self.name)
        if not files:
            raise BrokenVideo(self.name, "empty", f"no images ({', '.join(IMAGE_SUFFIXES)}) in the folder")
        return files

    @property
    def num_frames(self) -> int:
        return len(self.files)

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps

    def index_at(self, seconds: float) -> int:
        return _index_at(seconds, self.fps, self.num_frames)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        images = {index: self._read(self.files[index]) for index in set(indices)}
        return [images[index] for index in indices]

    def _read(self, file: Path) -> Image.Image:
        try:
            image = read_image(file)
            return to_channels(image, 1 if image.mode in ("1", "L") else 3)
        except UserError as error:
            raise BrokenVideo(self.name, "unreadable", f"frame {file.name} cannot be read ({error})") from None


def frame_files(folder: Path, name: str = "") -> list[Path]:
    """Returns the frames in a folder: its images, sorted by the numbers in their names.

    If the names are alike but for their numbers, all images are frames. Otherwise those whose names say that they are
    optical flow are left out, and the names of the others must be alike.

    Raises:
      BrokenVideo: It is not clear which of the images are the frames.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name[0] != "." and is_image(entry.name)]
    kinds = Counter(_kind(file) for file in names)
    frames = [kind for kind in kinds if not _FLOW.fullmatch(kind)] or [kind for kind in kinds if kind[0] != "f"]
    if names and len(frames) != 1:
        found = named(f"{kind} ({kinds[kind]:,})" for kind in sorted(frames or kinds))
        reason = f"it is not clear which of its images are the frames, found {found}: keep one kind"
        raise BrokenVideo(name or str(folder), "unreadable", reason)
    kept = [file for file in names if _kind(file) in frames]
    numbers = Counter(tuple(_NUMBER.findall(os.path.splitext(file)[0])) for file in kept)
    if twice := [" ".join(number) for number, count in numbers.items() if count > 1]:
        raise BrokenVideo(name or str(folder), "unreadable", f"several images have the number {named(twice)}: keep one")
    return [folder / file for file in sorted(kept, key=_in_order)]


def is_image(name: str) -> bool:
    """Returns whether the name of a file has the suffix of an image format in which frames are stored."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def _kind(file: str) -> str:
    """Returns the name of an image without its suffix, with "#" for numbers."""
    return _NUMBER.sub("#", os.path.splitext(file)[0].lower())


def _in_order(file: str) -> list[str | int]:
    return [int(part) if index % 2 else part for index, part in enumerate(_NUMBER.split(file.lower()))]


class ArrayVideo:
    """The frames of a uint8 array (frames, height, width, channels) with 1 or 3 channels."""

    def __init__(self, frames: np.ndarray, fps: float, name: str = ""):
        if frames.ndim != 4 or frames.shape[3] not in (1, 3) or not len(frames) or frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 (frames, height, width, 1 or 3), not {frames.dtype} {frames.shape}")
        self.frames, self.fps, self.name = frames, fps, name

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps

    def index_at(self, seconds: float) -> int:
        return _index_at(seconds, self.fps, len(self.frames))

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        frames = self.frames[..., 0] if self.frames.shape[3] == 1 else self.frames
        return [Image.fromarray(frames[index]) for index in indices]


def _index_at(seconds: float, fps: float, num_frames: int) -> int:
    """Returns the frame at a time if all have equal duration; a frame begins a millionth of a frame early."""
    return min(max(int(seconds * fps + 1e-6), 0), num_frames - 1)
