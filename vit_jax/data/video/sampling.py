"""Which frames of a video make a clip, as data: `stride(...)`, `segments` or `first`.

In training, with a generator, the place is random. In testing, without, it is the centre of the video, or, of several
clips, evenly spread. Past the end of a short video its last frame is repeated.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vit_jax.data.image import transforms
from vit_jax.data.image.arguments import check, is_number
from vit_jax.data.video.decode import Video
from vit_jax.errors import UserError


class Sampling(Protocol):
    """Returns the numbers of `num_frames` frames: a random clip, or clip number `clip` of `num_clips` in testing.

    Raises `UserError` if it goes by a rate that the video does not have.
    """

    def __call__(
        self, video: Video, num_frames: int, rng: np.random.Generator | None, clip: int = 0, num_clips: int = 1
    ) -> list[int]: ...


@dataclass(frozen=True)
class Stride:
    """Frames at equal distance: every `frames`-th, or one every `seconds` by the time stamps.

    The start is uniform among those that leave the clip within the video; clips in testing are spread from the first to
    the last of these starts.

    With `fps`, every `frames`-th of the video as if it had `fps` frames a second, by the rule of the authors' decoder
    (SlowFast, TimeSformer): a clip lasts `frames * num_frames` such frames and its samples are spread from its first
    frame to its last, so that they are a little farther apart than `frames`; the start is rounded up, which they do
    to a unit of the time stamps, we to a thousandth of a frame; and of several clips in testing the i-th starts at i /
    num_clips of the way, so that none is at the end. Their code takes the one clip of a test from the beginning, which
    `centre=False` does here; the paper (section 4) takes it from the middle.
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
                f"{video.name}: how many frames make a second is not known (a TFDS set says it in its metadata: fps); "
                "set config.data.sampling to 'stride(frames=...)', without fps, or to 'segments'"
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
    """One frame of each of `num_frames` equal segments, as for Something-Something: random, or the middle in testing.

    The segments are the authors': their borders, rounded, belong to both neighbours. Of several clips in testing, the
    i-th takes the frame at (i + 1) / (num_clips + 1) of each segment. A short video has its frames repeated in turn.
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
    """The first `num_frames` frames: for sets whose clips have just as many."""

    def __call__(
        self, video: Video, num_frames: int, rng: np.random.Generator | None, clip: int = 0, num_clips: int = 1
    ) -> list[int]:
        return _within(video, range(num_frames))


SAMPLINGS: dict[str, type] = {"first": First, "segments": Segments, "stride": Stride}


def parse_sampling(sampling: str) -> Sampling:
    """Returns the sampling that a string such as `"stride(frames=32, fps=30)"` names; nothing is evaluated.

    Raises `UserError` naming `config.data.sampling`.
    """
    try:
        calls = list(transforms.parse(sampling, "sampling"))
        if len(calls) != 1:
            raise UserError(f"one of {', '.join(SAMPLINGS)} is wanted, not a chain")
        return transforms.build(SAMPLINGS, "sampling", *calls[0])
    except UserError as error:
        raise UserError(f"config.data.sampling={sampling!r}: {error}") from None


def _within(video: Video, indices: Iterable[int]) -> list[int]:
    return [min(index, video.num_frames - 1) for index in indices]
