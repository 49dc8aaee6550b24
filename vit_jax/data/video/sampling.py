"""Sampling: which frames of a video make a clip, written as `stride(...)`, `segments` or `first`.

In training, with a generator, the position of the clip is random. In testing, without, it is the centre of the video;
several clips are spread evenly. If a video is too short, its last frame is repeated.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vit_jax.data.image import chain
from vit_jax.data.image.arguments import check, is_number
from vit_jax.data.video.decode import Video
from vit_jax.errors import UserError


class Sampling(Protocol):
    """Returns the indices of `num_frames` frames: a random clip, or clip number `clip` of `num_clips` in testing.

    Raises:
      UserError: The sampling needs a frame rate, which is not known for this video.
    """

    def __call__(
        self, video: Video, num_frames: int, rng: np.random.Generator | None, clip: int = 0, num_clips: int = 1
    ) -> list[int]: ...


@dataclass(frozen=True)
class Stride:
    """Frames at equal distances: every `frames`-th frame, or one frame every `seconds` by the time stamps.

    In training, the start is uniform among those for which the clip lies within the video. In testing, a single clip is
    centred, and several are spread from the first to the last of these starts.

    With `fps`, it takes every `frames`-th frame of the video as if it had `fps` frames per second, following the
    authors' decoder (SlowFast, TimeSformer). The length of a clip in the video's own frames is

        length = frames * num_frames * video.fps / fps

    and its samples are spread from its first frame to its last, so that they are slightly farther apart than `frames`.
    The start is rounded up: by the authors to a unit of the time stamps, here to a thousandth of a frame. In testing,
    clip i of several starts at i / num_clips of the range of starts, so that no clip ends at the end of the video.

    Deviation: the authors' code takes a single test clip from the beginning, as `centre=False` does here; the paper
    (section 4) and the default take it from the middle.

    Attributes:
      frames: Distance between frames, in frames.
      fps: The rate in which `frames` counts; the video's own if None.
      seconds: Distance between frames, in seconds; alone, without `frames` and `fps`.
      centre: Whether a single test clip is centred rather than taken from the beginning.
    """

    frames: int = 0
    fps: float | None = None
    seconds: float | None = None
    centre: bool = True

    def __post_init__(self):
        if self.seconds is None:
            whole = isinstance(self.frames, int) and not isinstance(self.frames, bool)
            check(whole and self.frames > 0, "frames", self.frames, "a whole number above 0")
        else:
            check(is_number(self.seconds) and self.seconds > 0, "seconds", self.seconds, "above 0")
            check(not self.frames and self.fps is None, "seconds", self.seconds, "alone, without frames and fps")
        check(self.fps is None or (is_number(self.fps) and self.fps > 0), "fps", self.fps, "above 0")
        check(isinstance(self.centre, bool), "centre", self.centre, "True or False")

    def __call__(
        self, video: Video, num_frames: int, rng: np.random.Generator | None, clip: int = 0, num_clips: int = 1
    ) -> list[int]:
        if (self.seconds or self.fps) and not video.fps:
            raise UserError(
                f"{video.name}: the frame rate is not known (a TFDS set can store it in its metadata). To sample "
                "without it, set config.data.sampling to 'stride(frames=...)', without fps, or to 'segments'"
            )
        if self.seconds is not None:
            start = self._start(video.seconds - (num_frames - 1) * self.seconds, rng, clip, num_clips)
            return [video.index_at(start + frame * self.seconds) for frame in range(num_frames)]
        if self.fps is None:
            free = video.num_frames - (num_frames - 1) * self.frames - 1
            start = int(rng.integers(max(free, 0) + 1)) if rng else int(self._start(free, rng, clip, num_clips))
            return _within(video, (start + frame * self.frames for frame in range(num_frames)))
        length = self.frames * num_frames / self.fps * video.fps
        start = math.ceil(self._start(video.num_frames - length, rng, clip, num_clips) - 1e-3)
        return _within(video, (start + int(offset) for offset in np.linspace(0, length - 1, num_frames)))

    def _start(self, free: float, rng: np.random.Generator | None, clip: int, num_clips: int) -> float:
        free = max(free, 0)
        if rng:
            return rng.uniform(0, free)
        if num_clips == 1:
            return free / 2 if self.centre else 0
        return free * clip / (num_clips if self.fps else num_clips - 1)


@dataclass(frozen=True)
class Segments:
    """One frame of each of `num_frames` equal segments, as in Something-Something: random, or the middle in testing.

    The segments are those of the authors' code: their borders are rounded and belong to both neighbours. In testing,
    clip i of several takes the frame at (i + 1) / (num_clips + 1) of each segment. The frames of a short video are
    repeated one after the other.
    """

    def __call__(
        self, video: Video, num_frames: int, rng: np.random.Generator | None, clip: int = 0, num_clips: int = 1
    ) -> list[int]:
        borders = np.round((video.num_frames - 1) / num_frames * np.arange(num_frames + 1)).astype(int).tolist()
        segments = itertools.pairwise(borders)
        if rng:
            return [int(rng.integers(first, last, endpoint=True)) for first, last in segments]
        return [first + (last - first) * (clip + 1) // (num_clips + 1) for first, last in segments]


@dataclass(frozen=True)
class First:
    """The first `num_frames` frames, for sets whose clips have exactly this length."""

    def __call__(
        self, video: Video, num_frames: int, rng: np.random.Generator | None, clip: int = 0, num_clips: int = 1
    ) -> list[int]:
        return _within(video, range(num_frames))


SAMPLINGS: dict[str, type] = {"first": First, "segments": Segments, "stride": Stride}


def parse_sampling(sampling: str) -> Sampling:
    """Returns the sampling written as a string, such as `"stride(frames=32, fps=30)"`; nothing is evaluated.

    Raises:
      UserError: The name or an argument is wrong; the message begins with `config.data.sampling`.
    """
    try:
        calls = list(chain.parse(sampling, "sampling"))
        if len(calls) != 1:
            raise UserError(f"use one of {', '.join(SAMPLINGS)}, not a chain")
        return chain.build(SAMPLINGS, "sampling", calls[0])
    except UserError as error:
        raise UserError(f"config.data.sampling={sampling!r}: {error}") from None


def _within(video: Video, indices: Iterable[int]) -> list[int]:
    return [min(index, video.num_frames - 1) for index in indices]
