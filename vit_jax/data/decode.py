"""Frames of videos by number: files through PyAV, folders of numbered images, and arrays."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image


class Video(Protocol):
    """Frames by number, in the order of display.

    Attributes:
      name: File or example, for messages.
      num_frames: Number of frames.
      fps: Frames a second, on average.
      seconds: From the first frame's beginning to the last one's end.
    """

    name: str

    @property
    def num_frames(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def seconds(self) -> float: ...

    def index_at(self, seconds: float) -> int:
        """The number of the frame shown at that time, the first frame's being 0: the last whose time is not later."""
        ...

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        """The frames, upright, "RGB" or grey ("L"), in the order asked for; repeats are allowed."""
        ...


class ArrayVideo:
    """Frames of a uint8 array (frames, height, width, channels), of 1 or 3 channels."""

    def __init__(self, frames: np.ndarray, fps: float, name: str = ""):
        if frames.ndim != 4 or frames.shape[3] not in (1, 3) or not len(frames) or frames.dtype != np.uint8:
            raise ValueError(f"uint8 (frames, height, width, 1 or 3) wanted, not {frames.dtype} {frames.shape}")
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
    """The frame at a time, of equal durations; a millionth of a frame early counts as in time."""
    return min(max(int(seconds * fps + 1e-6), 0), num_frames - 1)
