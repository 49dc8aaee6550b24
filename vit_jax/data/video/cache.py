"""Decoded, resized copies of clips: a ZIP of JPEGs each, so that any frame is one read away."""

import bisect
import contextlib
import hashlib
import io
import json
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from vit_jax.data.video.decode import Video
from vit_jax.errors import UserError

VERSION = 1  # of the copies' form: part of their names
QUALITY = 95
BLOCK_BYTES = 2**28  # of frames that are in memory at a time while a copy is made
TICKS = 1_000_000  # a second: to so much the times of frames are kept


class VideoCache:
    """A folder of copies, made when a clip is first opened.

    The shorter side of a copy is at most `side` pixels; frames are JPEGs of quality 95 without colour subsampling,
    under their numbers: at 320 pixels 30 to 100 kB each, 1 or 2 levels from the original on average. A copy is of one
    state of its file (its size and time), and another is made once that changes; old ones are never deleted here. When
    the folder has `gigabytes` (1e9 bytes) nothing more is put into it. Several processes may share it: copies appear
    whole.

    A clip without a copy gives what the copy would: pixels, and so batches, never depend on what the cache holds.

    Raises `UserError` if the folder cannot be written.
    """

    def __init__(self, folder: str | Path, gigabytes: float = 50.0, side: int = 320):
        self.folder, self.limit, self.side = Path(folder).expanduser(), int(gigabytes * 1e9), side
        if side < 1:
            raise UserError(f"config.data.cache_side must be pixels, above 0, not {side}")
        with self._blamed():
            self.folder.mkdir(parents=True, exist_ok=True)
        self._is_full = False

    def open(self, key: Sequence[object], open_original: Callable[[], Video], name: str) -> Video:
        """Returns the copy, made now if need be and if there is room; `key` is all that decides it."""
        digest = hashlib.sha256(repr((VERSION, self.side, *map(str, key))).encode()).hexdigest()
        file = self.folder / f"{digest[:32]}.zip"
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, or damaged
            return CachedVideo(file, name)
        original = open_original()
        if self._is_full or not self._add(file, original):
            return UncachedVideo(original, self.side)
        return CachedVideo(file, name)

    def _add(self, file: Path, video: Video) -> bool:
        """Returns whether there was room for a copy of the video."""
        with self._blamed():
            room = self.limit - _size(self.folder)
        partial = file.with_name(f".{file.name}.partial{os.getpid()}-{threading.get_ident()}")
        try:
            if room > 0 and self._write(partial, video, room):
                with self._blamed():
                    partial.replace(file)
                return True
        finally:
            partial.unlink(missing_ok=True)
        self._is_full = True
        print(
            f"{self.folder} has its {self.limit / 1e9:g} GB (config.data.cache_gb): nothing more is put into it",
            file=sys.stderr,
        )
        return False

    def _write(self, file: Path, video: Video, room: int) -> bool:
        first = video.read([0])[0]
        block = max(BLOCK_BYTES // (first.width * first.height * 3), 1)
        for start in range(0, video.num_frames, block):
            numbers = range(start, min(start + block, video.num_frames))
            frames = _jpegs(video, numbers, self.side)
            with self._blamed():
                with zipfile.ZipFile(file, "a" if start else "w") as archive:
                    for number, frame in zip(numbers, frames, strict=True):
                        archive.writestr(_frame_name(number), frame)
                if file.stat().st_size > room:
                    return False
        about = {"fps": video.fps, "seconds": video.seconds, "times": _times(video)}
        with self._blamed(), zipfile.ZipFile(file, "a") as archive:
            archive.writestr("clip.json", json.dumps(about))
        return True

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Around what is done to the folder, and to nothing else: an error while a clip is read is the clip's."""
        try:
            yield
        except OSError as error:
            raise UserError(f"config.data.cache={str(self.folder)!r}: {error.strerror}") from None


class CachedVideo:
    """A copy of a clip; the file is opened anew for every reading, so that threads and processes may share it."""

    def __init__(self, file: Path, name: str):
        self.file, self.name = file, name
        with zipfile.ZipFile(file) as archive:
            about = json.loads(archive.read("clip.json"))
        self.fps, self.seconds, self._times = about["fps"], about["seconds"], about["times"]

    @property
    def num_frames(self) -> int:
        return len(self._times)

    def index_at(self, seconds: float) -> int:
        return max(bisect.bisect_right(self._times, round(seconds * TICKS)) - 1, 0)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        try:
            with zipfile.ZipFile(self.file) as archive:
                images = {index: _image(archive.read(_frame_name(index))) for index in sorted(set(indices))}
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.name}: its copy {self.file} cannot be read ({error}): delete it") from None
        return [images[index] for index in indices]


class UncachedVideo:
    """A clip for whose copy there is no room: it gives what the copy would, made anew at every reading."""

    def __init__(self, video: Video, side: int):
        self.name, self._video, self._side = video.name, video, side
        self.fps, self.seconds, self.num_frames = video.fps, video.seconds, video.num_frames

    def index_at(self, seconds: float) -> int:
        return self._video.index_at(round(seconds * TICKS) / TICKS)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        wanted = sorted(set(indices))
        images = dict(zip(wanted, map(_image, _jpegs(self._video, wanted, self._side)), strict=True))
        return [images[index] for index in indices]


def _size(folder: Path) -> int:
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # another process has just given it its name
            total += entry.stat().st_size
    return total


def _times(video: Video) -> list[int]:
    """The first tick at which each frame, or a later one, is shown: all that is known of a video's times."""
    times, last = [0], int(video.seconds * TICKS)
    for index in range(1, video.num_frames):
        times.append(
            bisect.bisect_left(range(last), index, times[-1], last, key=lambda tick: video.index_at(tick / TICKS))
        )
    return times


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    if shorter <= side:
        return image
    size = (round(image.width * side / shorter), round(image.height * side / shorter))
    return image.resize(size, Image.Resampling.BICUBIC)


def _jpegs(video: Video, indices: Sequence[int], side: int) -> list[bytes]:
    return [_jpeg(_shrunk(image, side)) for image in video.read(indices)]


def _jpeg(image: Image.Image) -> bytes:
    output = io.BytesIO()
    image.save(output, "JPEG", quality=QUALITY, subsampling=0)
    return output.getvalue()


def _image(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    return image


def _frame_name(number: int) -> str:
    return f"{number:06d}.jpg"
