"""Clips whose class is a motion: real objects that move over real photographs, drawn here as TFDS sets.

Each motion has an opposite, which is another class; only the order of the frames tells the two apart. The state of a
frame consists of four numbers on a torus: horizontal position, vertical position, angle, and the logarithm of the size
within its range, each counted in units of 1 / `CYCLE` of its period. A clip starts at a uniformly random state, and its
motion adds a constant to one of the four numbers in every frame. Therefore:

- The state of any single frame is uniform, whatever the class and the time: a frame by itself contains no information
  about the class.
- A motion played backwards is the opposite motion from another start, which is equally likely. The frames of a clip
  without their order can reveal the family (horizontal, vertical, rotation, zoom), but never which of its two motions.

Both statements hold exactly, also for zoom, because the size is periodic as well: an object that has reached the
largest size continues at the smallest. All frames are interpolated in the same way, without motion blur.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.data.sets import digits, fashion_mnist
from vit_jax.errors import UserError

MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise", "zoom_in", "zoom_out")
CYCLE = 2**16
FPS = 8.0
PHOTOS = ("china.jpg", "flower.jpg")
SPLITS = ("train", "test")
OPAQUE = 85  # from this grey level on, an object hides what is behind it
MOST_BYTES = 900 * 2**20  # TFDS shuffles larger splits on disk, which needs TensorFlow

_STEPS = ((0, -1), (0, 1), (1, -1), (1, 1), (2, 1), (2, -1), (3, 1), (3, -1))  # for each motion: (component, direction)
_FAMILIES = ("shift", "shift", "turn", "growth")  # for each component: the field with its range of speeds
_OBJECTS = {"fashion": fashion_mnist.LABELS, "digits": [str(digit) for digit in range(10)]}


@dataclasses.dataclass
class MotionConfig(tfds.core.BuilderConfig):
    """What is drawn, how many clips, and how hard they are to recognise.

    Ranges are (low, high); a value is drawn uniformly for each clip.

    Attributes:
      objects: `fashion` (Fashion-MNIST's images; the images of its test split are in `test`) or `digits`
        (scikit-learn's).
      zoom: Whether zoom_in and zoom_out are classes too.
      train_clips, test_clips: Number of clips in each split. All motions are equally frequent, up to a remainder.
      seed: Clip i of a split is a function of the seed, the split and i.
      num_frames: Frames per clip.
      image_size: (height, width) in pixels.
      channels: 1 for grey, or 3 for RGB with tinted objects.
      size: Range of the object's side, as a fraction of the frame's shorter side; uniform in its logarithm.
      shift: Range of the speed of shifts, as a fraction of the frame's width or height per frame.
      turn: Range of the speed of rotations, in turns per frame.
      growth: Range of the speed of zooms, as a fraction of the logarithmic range of sizes per frame.
      contrast: Factor by which the photographs' differences from mid-grey are multiplied.
      grain: Factors by which a photograph may be reduced; one is drawn for each clip.
      pan: Largest speed of the background down and across, in pixels per frame, whatever the class.
      noise: Standard deviation of the noise added to each pixel of each frame, in grey levels.
    """

    objects: str = "fashion"
    zoom: bool = False
    train_clips: int = 40_000
    test_clips: int = 2_000
    seed: int = 0
    num_frames: int = 8
    image_size: tuple[int, int] = (32, 32)
    channels: int = 1
    size: tuple[float, float] = (0.5, 0.7)
    shift: tuple[float, float] = (0.07, 0.13)
    turn: tuple[float, float] = (0.045, 0.09)
    growth: tuple[float, float] = (0.03, 0.08)
    contrast: float = 0.25
    grain: tuple[int, ...] = (1, 2, 4)
    pan: int = 0
    noise: float = 0.0

    @property
    def drawn(self) -> dict[str, Any]:
        """The fields above as a dict, which is stored in the metadata of the prepared set."""
        inherited = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)}
        return {field: value for field, value in dataclasses.asdict(self).items() if field not in inherited}

    @property
    def motions(self) -> tuple[str, ...]:
        return MOTIONS if self.zoom else MOTIONS[:-2]

    def check(self) -> None:
        """Raises `UserError` for values that cannot be drawn, or for which the module's statements would not hold."""
        if self.objects not in _OBJECTS:
            raise UserError(f"motion: objects must be {' or '.join(_OBJECTS)}, not {self.objects!r}")
        if self.channels not in (1, 3):
            raise UserError(f"motion: channels must be 1 or 3, not {self.channels!r}")
        for name, least, most in (("size", 0, 0.5**0.5), ("shift", 0, 0.5), ("turn", 0, 0.25), ("growth", 0, 0.25)):
            low, high = getattr(self, name)
            if not least < low <= high <= most:
                raise UserError(f"motion: {name} must be (low, high), above 0 and at most {most:.3g}, not {low, high}")
        clip_bytes = self.num_frames * self.image_size[0] * self.image_size[1] * self.channels
        if max(self.train_clips, self.test_clips) * clip_bytes > MOST_BYTES:
            raise UserError(f"motion: a split of {self.name} is larger than {MOST_BYTES >> 20} MiB; draw fewer clips")


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """Everything that determines a clip, given its `MotionConfig`.

    Attributes:
      motion: Index into `MOTIONS`.
      start: State of the first frame, in units of 1 / `CYCLE`.
      speed: Change of the moving component per frame, in the same unit.
      object: Index of the object's image.
      photo: Index of the background photograph.
      corner: (row, column) in the photograph of the first frame's corner.
      pan: Speed of the background, in (rows, columns) per frame.
      tint: Colour of the object, a factor per channel.
      seed: Seed of the noise.
    """

    motion: int
    start: tuple[int, ...]
    speed: int
    object: int
    photo: int
    corner: tuple[int, int]
    pan: tuple[int, int]
    tint: tuple[float, ...]
    seed: int

    def states(self, num_frames: int) -> np.ndarray:
        """Returns the states of the frames, integers (frames, 4) from 0 to `CYCLE` - 1."""
        component, direction = _STEPS[self.motion]
        states = np.tile(self.start, (num_frames, 1))
        states[:, component] += direction * self.speed * np.arange(num_frames)
        return states % CYCLE

    def reversed(self, num_frames: int) -> "ClipSpec":
        """Returns the clip of the opposite motion that has the same frames in reverse order."""
        last = tuple(self.states(num_frames)[-1].tolist())
        corner = tuple(place + (num_frames - 1) * step for place, step in zip(self.corner, self.pan, strict=True))
        back = tuple(-step for step in self.pan)
        return dataclasses.replace(self, motion=self.motion ^ 1, start=last, corner=corner, pan=back)


def draw_clip(config: MotionConfig, split: str, index: int, num_objects: int, num_photos: int) -> ClipSpec:
    """Draws clip number `index` of a split. Apart from the range of `speed`, no random value depends on the motion."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index])
    motion = index % len(config.motions)
    start = tuple(rng.integers(CYCLE, size=4).tolist())
    place = rng.random()
    low, high = getattr(config, _FAMILIES[_STEPS[motion][0]])
    return ClipSpec(
        motion=motion,
        start=start,
        speed=round(CYCLE * (low + (high - low) * place)),
        object=int(rng.integers(num_objects)),
        photo=int(rng.integers(num_photos)),
        corner=_pair(rng.integers(CYCLE, size=2)),
        pan=_pair(rng.integers(-config.pan, config.pan, size=2, endpoint=True)),
        tint=tuple(rng.uniform(0.4, 1.0, size=3).tolist()) if config.channels == 3 else (1.0,),
        seed=int(rng.integers(2**63)),
    )


def render(clip: ClipSpec, config: MotionConfig, image: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Draws a clip; returns uint8 (frames, height, width, channels).

    Each frame is drawn from its state alone. Only the noise is drawn for the whole clip; it is reversed for every
    second motion, so that a reversed clip equals the clip of the opposite motion.

    Args:
      image: The object, uint8 (side, side), bright on black; black is transparent.
      photo: One of `load_photos`.
    """
    light, cover = _object(clip, config, image)
    pixels = _background(clip, config, photo)
    pixels *= 1 - cover[..., None]
    pixels += light[..., None] * np.array(clip.tint, np.float32)
    if config.noise:
        noise = np.random.default_rng(clip.seed).standard_normal(pixels.shape, np.float32)
        pixels += config.noise * noise[:: 1 - 2 * (clip.motion % 2)]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _background(clip: ClipSpec, config: MotionConfig, photo: np.ndarray) -> np.ndarray:
    """Returns float32 (frames, height, width, channels)."""
    frames = np.arange(config.num_frames)[:, None]
    rows, columns = (
        (corner + step * frames + np.arange(side)) % period
        for corner, step, side, period in zip(clip.corner, clip.pan, config.image_size, photo.shape, strict=False)
    )
    pixels = photo[rows[:, :, None], columns[:, None, :]].astype(np.float32)
    return 127.5 + config.contrast * (pixels - 127.5)


def _object(clip: ClipSpec, config: MotionConfig, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the object's brightness (0 to 255) and opacity (0 to 1), each float32 (frames, height, width)."""
    height, width = config.image_size
    x, y, angle, size = (clip.states(config.num_frames)[:, :, None] / CYCLE).transpose(1, 0, 2)
    low, high = config.size
    pixel = len(image) / (min(height, width) * low * (high / low) ** size)  # size of a frame's pixel in the image
    # distances to the object's centre, the short way round the torus
    right = (np.arange(width) + 0.5 - x * width + width / 2) % width - width / 2
    below = (np.arange(height) + 0.5 - y * height + height / 2) % height - height / 2
    cosine, sine = pixel * np.cos(2 * np.pi * angle), pixel * np.sin(2 * np.pi * angle)
    columns = (cosine * right)[:, None, :] + (sine * below)[:, :, None]
    rows = (cosine * below)[:, :, None] - (sine * right)[:, None, :]
    light = np.pad(image, 1).astype(np.float32)
    cover = np.minimum(light / OPAQUE, 1)
    sampled = _bilinear(light + 1j * cover, rows + len(image) / 2 + 0.5, columns + len(image) / 2 + 0.5)
    return np.real(sampled), np.imag(sampled)


def _bilinear(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Samples a square array, real or complex, at any positions; positions outside take the value at the border."""
    side = len(values)
    rows, columns = (np.clip(places, 0, side - 1.001).astype(np.float32) for places in (rows, columns))
    row, column = rows.astype(np.int32), columns.astype(np.int32)
    down, across = rows - row, columns - column
    flat, first = values.astype(np.complex64).ravel(), row * side + column
    upper = flat[first] + (flat[first + 1] - flat[first]) * across
    lower = flat[first + side] + (flat[first + side + 1] - flat[first + side]) * across
    return upper + (lower - upper) * down


def load_photos(split: str, config: MotionConfig) -> list[np.ndarray]:
    """Returns scikit-learn's sample photographs, reduced by each grain, uint8 (height, width, channels).

    The left 70 % of a photograph are for training, the rest is for testing. Each part is followed by its mirror image
    in both directions, so that it can be repeated without a seam.
    """
    from sklearn.datasets import load_sample_image

    photos = []
    for name in PHOTOS:
        image = Image.fromarray(load_sample_image(name)).convert("L" if config.channels == 1 else "RGB")
        edge = image.width * 7 // 10
        image = image.crop((0, 0, edge, image.height) if split == "train" else (edge, 0, image.width, image.height))
        for grain in config.grain:
            small = image.reduce(grain)
            pixels = np.asarray(small).reshape(small.height, small.width, config.channels)
            pixels = np.concatenate([pixels, pixels[::-1]], axis=0)
            photos.append(np.concatenate([pixels, pixels[:, ::-1]], axis=1))
    return photos


def load_objects(split: str, config: MotionConfig, files: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8 (number, side, side), and their classes; Fashion-MNIST is read from the folder `files`."""
    if config.objects == "digits":
        images, labels, is_test = digits.load_digits()
        chosen = is_test if split == "test" else ~is_test
        return images[chosen], labels[chosen]
    assert files is not None
    return fashion_mnist.load_images(files, "train" if split == "train" else "t10k")


def _pair(numbers: np.ndarray) -> tuple[int, int]:
    return int(numbers[0]), int(numbers[1])


class Motion(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Real objects moving over real photographs; `label` is the motion, `object` the class of the moving object.

    The objects are from Fashion-MNIST (Xiao et al. 2017) or scikit-learn's digits, the photographs are scikit-learn's
    samples (china.jpg by danielbuechele, flower.jpg by vultilion, both on Flickr under CC BY 2.0). No object and no
    part of a photograph is in both splits. Example i is clip i of its split.

    `files` is the folder of Fashion-MNIST's raw files; `progress` is called from time to time while clips are drawn.
    For other clips, pass a config: `Motion(config=MotionConfig(name="mine", num_frames=16), ...)`.
    """

    name = "motion"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[MotionConfig]] = [
        MotionConfig(name="fashion", description="Fashion-MNIST's images"),
        MotionConfig(name="fashion_zoom", description="the same, with zoom_in and zoom_out", zoom=True),
        MotionConfig(
            name="fashion_frames",
            description="single frames of more of the same objects, from which to learn `object`",
            train_clips=240_000, num_frames=1,
        ),
        MotionConfig(name="digits", description="scikit-learn's digits", objects="digits"),
        MotionConfig(
            name="digits_tiny",
            description="few short and small clips, for trying things out",
            objects="digits", train_clips=480, test_clips=120, num_frames=4, image_size=(16, 16),
        ),
    ]  # fmt: skip

    def __init__(self, *, files: Path | None = None, progress: Any = None, **kwargs: Any):
        self._files, self._progress = files, progress
        super().__init__(**kwargs)

    @property
    def _config(self) -> MotionConfig:
        config = self.builder_config
        assert isinstance(config, MotionConfig)
        return config

    def _info(self) -> tfds.core.DatasetInfo:
        config = self._config
        config.check()
        shape = (config.num_frames, *config.image_size, config.channels)
        features = {
            "video": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=config.motions),
            "object": tfds.features.ClassLabel(names=_OBJECTS[config.objects]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("video", "label"),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(fps=FPS, **config.drawn),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[Any]:
        config = self._config
        objects, labels = load_objects(split, config, self._files)
        photos = load_photos(split, config)
        count = config.train_clips if split == "train" else config.test_clips
        for index in range(count):
            if self._progress and index % 1000 == 0:
                self._progress(f"clips of {self.name}/{config.name} {split}", index, count)
            clip = draw_clip(config, split, index, len(objects), len(photos))
            video = render(clip, config, objects[clip.object], photos[clip.photo])
            yield index, {"video": video, "label": clip.motion, "object": int(labels[clip.object])}
        if self._progress:
            self._progress("", count, count)
