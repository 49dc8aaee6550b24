"""The encoder of videos: which frames make a clip, and the chain of transforms applied to each."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from vit_jax.data.image import geometry
from vit_jax.data.image.arguments import Transform
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.video.decode import Video
from vit_jax.data.video.sampling import First, Sampling, parse_sampling
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClipPreprocessing:
    """Turns a video into clips for the model; saved with the checkpoint.

    In training, all frames of a clip use the same random numbers: one crop, one flip, one colour jitter. In evaluation,
    an example gives `clips * crops` views.

    Attributes:
      num_frames: Frames per clip.
      image_size, channels, transforms: Those of `Preprocessing`, applied to each frame.
      sampling: Which frames make a clip; see `video/sampling.py`.
      clips: Number of clips taken from a video in evaluation.
      crops: Number of crops of each of these clips. The chain's `center_crop` is replaced by crops spread evenly along
        the longer side.

    Raises:
      UserError: On construction, if the fields cannot work. In `rows`, as `Preprocessing` does, naming the video.
    """

    num_frames: int
    image_size: tuple[int, int]
    channels: int
    sampling: str
    transforms: str
    clips: int = 1
    crops: int = 1
    key: ClassVar[str] = "video"  # the entry of an example and of a batch
    _frame: Preprocessing = dataclasses.field(init=False, repr=False, compare=False)
    _sampling: Sampling = dataclasses.field(init=False, repr=False, compare=False)
    _chains: tuple[tuple[Transform, ...], ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for key, name in (("num_frames", "num_frames"), ("eval_clips", "clips"), ("eval_crops", "crops")):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"config.data.{key} must be a whole number above 0, not {value!r}")
        frame = Preprocessing(self.image_size, self.channels, self.transforms)
        chosen = parse_sampling(self.sampling)
        if self.clips > 1 and isinstance(chosen, First):
            raise UserError(
                f"config.data.eval_clips={self.clips}, but config.data.sampling='first' takes a single clip per video"
            )
        object.__setattr__(self, "image_size", frame.image_size)
        object.__setattr__(self, "_frame", frame)
        object.__setattr__(self, "_sampling", chosen)
        object.__setattr__(self, "_chains", _chains_of_crops(frame, self.crops))

    @property
    def steps(self) -> tuple[Transform, ...]:
        """The transforms in order, with arguments that depend on others filled in."""
        return self._frame.steps

    @property
    def is_random(self) -> bool:
        """Whether the transforms are random. With a generator, the choice of frames is random too."""
        return self._frame.is_random

    @property
    def random_transforms(self) -> tuple[str, ...]:
        """The names of the random transforms, in order."""
        return self._frame.random_transforms

    @property
    def views(self) -> int:
        """Number of rows per example in evaluation: `clips * crops`."""
        return self.clips * self.crops

    @property
    def model_fields(self) -> dict[str, Any]:
        """Fields of a model that are determined by the shape of the rows."""
        return {"num_frames": self.num_frames, **self._frame.model_fields}

    def rows(self, video: Video, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Returns one random clip, or if `rng` is None, all views: each float32 (frames, height, width, channels)."""
        return [np.asarray(self.finish(row[None]))[0] for row in self.batch_rows(video, rng)]

    def batch_rows(self, video: Video, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Returns the clips of `rows` before `finish`: uint8 if the chain ends with `normalize`, else float32."""
        clips = 1 if rng else self.clips
        chosen = [self._sampling(video, self.num_frames, rng, clip, clips) for clip in range(clips)]
        wanted = sorted(set(itertools.chain.from_iterable(chosen)))
        try:
            crops = dict(zip(wanted, self._crops(video.read(wanted), rng), strict=True))
        except UserError as error:
            if not video.name or video.name in str(error):
                raise
            raise UserError(f"{video.name}: {error}") from None
        count = len(crops[wanted[0]])
        return [np.stack([crops[index][crop] for index in clip]) for clip in chosen for crop in range(count)]

    def _crops(self, frames: list[Image.Image], rng: np.random.Generator | None) -> list[list[np.ndarray]]:
        if rng is None:
            chains = [self._frame.host_steps(chain) for chain in self._chains]
            return [[self._frame.run(frame, rng, chain) for chain in chains] for frame in frames]
        state = rng.bit_generator.state
        crops = []
        for frame in frames:
            rng.bit_generator.state = state
            crops.append(self._frame.batch_rows(frame, rng))
        return crops

    def finish(self, rows: np.ndarray) -> Any:
        """Returns stacked `batch_rows` as the entry of a batch: see `Preprocessing.finish`."""
        return self._frame.finish(rows)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row: (frames, height, width, channels)."""
        return (self.num_frames, *self._frame.row_shape)

    @property
    def row_dtype(self) -> type:
        """The type of `batch_rows`: uint8 or float32."""
        return self._frame.row_dtype

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON-compatible values; `from_dict` is the inverse."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        return {**fields, "image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ClipPreprocessing":
        return cls(**{**fields, "image_size": tuple(fields["image_size"])})


def _chains_of_crops(frame: Preprocessing, crops: int) -> tuple[tuple[Transform, ...], ...]:
    """Returns the chain of each crop: that of `frame` with `center_crop` replaced."""
    if crops == 1:
        return (frame.steps,)
    if not any(isinstance(step, geometry.CenterCrop) for step in frame.steps):
        raise UserError(f"config.data.eval_crops={crops} needs a 'center_crop' in the transforms {frame.transforms!r}")
    return tuple(
        tuple(
            geometry.PlacedCrop(step.size, index, crops) if isinstance(step, geometry.CenterCrop) else step
            for step in frame.steps
        )
        for index in range(crops)
    )
