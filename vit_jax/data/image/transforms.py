"""The encoder of images: a chain of transforms that turns a stored image into a model's input."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from vit_jax.data.image import chain, geometry, randaugment, values
from vit_jax.data.image.arguments import Transform
from vit_jax.data.image.reading import grey_of_floats, grey_of_integers
from vit_jax.data.image.reduced import ReducedDecode
from vit_jax.data.loading.levels import Levels
from vit_jax.errors import UserError

TRANSFORMS: dict[str, type[Transform]] = {
    "center_crop": geometry.CenterCrop,
    "color_jitter": values.ColorJitter,
    "flip": geometry.Flip,
    "inception_crop": geometry.InceptionCrop,
    "normalize": values.Normalize,
    "randaug": randaugment.RandAug,
    "randaug_noisy_student": randaugment.RandAugNoisyStudent,
    "randaugment": randaugment.RandAugment,
    "random_affine": geometry.RandomAffine,
    "random_crop": geometry.RandomCrop,
    "random_erasing": values.RandomErasing,
    "random_resize": geometry.RandomResize,
    "random_resized_crop": geometry.RandomResizedCrop,
    "reduced_decode": ReducedDecode,
    "resize": geometry.Resize,
    "rot90": geometry.Rot90,
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Turns a stored image into the model's input; saved with the checkpoint.

    The steps are: convert to `channels` (see `to_channels`), apply the transforms before `normalize`, which work on
    Pillow images, make a float32 array by `normalize`, and apply the transforms after it, which work on the array.

    The EXIF orientation is not applied, as in TensorFlow and timm, so that files load as in the published results.

    Example:
      >>> encoder = Preprocessing((224, 224), 3, "resize(256)|center_crop|normalize(mean=0.5, std=0.5)")
      >>> array = encoder(Image.open("cat.jpg"), None)  # float32 (224, 224, 3)

    Attributes:
      image_size: (height, width) in pixels. Transforms use it for a `size` that is not given.
      channels: 1 (grey) or 3 (RGB).
      transforms: A chain of names in `TRANSFORMS`, or of classes of your own by import path:
        `mylab.transforms.Solarize(threshold=0.5)`. See `Transform` for what such a class needs. Names and arguments are
        checked on construction.

    Raises:
      UserError: On construction, if the chain cannot work. When called, if the chain is random and there is no
        generator, or if the result does not have `image_size`.
    """

    image_size: tuple[int, int]
    channels: int
    transforms: str
    key: ClassVar[str] = "image"  # the entry of an example and of a batch
    _chain: tuple[Transform, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "image_size", _checked_size(self.image_size))
        if self.channels not in (1, 3):
            raise UserError(f"channels must be 1 (grey) or 3 (RGB), not {self.channels!r}")
        object.__setattr__(self, "_chain", _compile(self.transforms, self.image_size, self.channels))

    @property
    def steps(self) -> tuple[Transform, ...]:
        """The transforms in order, with arguments that depend on others filled in."""
        return self._chain

    @property
    def is_random(self) -> bool:
        return bool(self.random_transforms)

    @property
    def random_transforms(self) -> tuple[str, ...]:
        """The names of the random transforms, in order."""
        return tuple(_name(type(step)) for step in self._chain if step.random)

    @property
    def views(self) -> int:
        """Number of rows per example in evaluation: 1."""
        return 1

    @property
    def model_fields(self) -> dict[str, Any]:
        """Fields of a model that are determined by the shape of the rows."""
        return {"image_size": self.image_size, "in_channels": self.channels}

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> np.ndarray:
        """Returns float32 (height, width, channels)."""
        return self.run(image, rng, self._chain)

    def rows(self, image: Image.Image, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Returns the model's inputs for an example: one, in training as in evaluation."""
        return [self(image, rng)]

    def batch_rows(self, image: Image.Image, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Returns the rows of an example before `finish`: uint8 if the chain ends with `normalize`, else float32."""
        return [self.run(image, rng, self.host_steps(self._chain))]

    def finish(self, rows: np.ndarray) -> Any:
        """Returns stacked `batch_rows` as the entry of a batch: `Levels`, which the devices normalize, or floats."""
        step = self._chain[-1]
        if not isinstance(step, values.Normalize):
            return rows
        return Levels(rows, *(np.tile(numbers, (len(rows), 1)) for numbers in step.scale_and_offset(self.channels)))

    def host_steps(self, steps: tuple[Transform, ...]) -> tuple[Transform, ...]:
        """Returns a chain without `normalize` if this is its last step, which is then left to the devices.

        A chain that goes on with the normalized array (`random_erasing`) is computed here as a whole.
        """
        return steps[:-1] if isinstance(steps[-1], values.Normalize) else steps

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row: (height, width, channels)."""
        return (*self.image_size, self.channels)

    @property
    def normalization(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of `normalize`, one number for each channel."""
        normalize = next(step for step in self._chain if isinstance(step, values.Normalize))
        mean, std = (np.broadcast_to(x, self.channels) for x in (normalize.mean, normalize.std))
        return mean, std

    @property
    def row_dtype(self) -> type:
        """The type of `batch_rows`: uint8 or float32."""
        return np.uint8 if isinstance(self._chain[-1], values.Normalize) else np.float32

    def run(self, image: Image.Image, rng: np.random.Generator | None, steps: Iterable[Transform]) -> np.ndarray:
        """Like `__call__`, but applies `steps` instead of the chain's; uint8 if they do not contain `normalize`."""
        if rng is None and self.is_random:
            raise UserError(
                f"{', '.join(self.random_transforms)}: random, but no random generator was given. Evaluation "
                "transforms must be deterministic"
            )
        steps, convert = list(steps), functools.partial(to_channels, channels=self.channels)
        if steps and isinstance(steps[0], ReducedDecode):
            result: Any = steps[0].before(steps[1])(image, rng, convert)
            del steps[:2]
        else:
            result = convert(image)
        for step in steps:
            result = step(result, rng)
        if isinstance(result, Image.Image):
            result = values.levels_of(result)
        if result.shape[:2] != self.image_size:
            key = "config.data.eval_transforms" if rng is None else "config.data.train_transforms"
            raise UserError(
                f"an image of {image.height}x{image.width} pixels became {result.shape[0]}x{result.shape[1]}, not "
                f"{self.image_size[0]}x{self.image_size[1]}: end the crops and resizes of {key}={self.transforms!r} "
                "with 'resize' without a size"
            )
        return result

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON-compatible values; `from_dict` is the inverse."""
        return {"image_size": list(self.image_size), "channels": self.channels, "transforms": self.transforms}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        return cls(tuple(fields["image_size"]), fields["channels"], fields["transforms"])


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Converts any image to 8-bit grey (mode "L", 1 channel) or "RGB" (3 channels).

    Transparent images are composited on white; TensorFlow and timm drop the alpha channel, which shows the colour
    stored under transparent pixels. 16-bit grey keeps its upper byte, whatever the brightest level of the image; Pillow
    would clip at 255. Floats from 0 to 1 are scaled to 255 and rounded. Colour is converted to grey by the luma of
    ITU-R 601. Colour profiles are not applied.

    Raises:
      UserError: Integers are outside 0 to 65535 or floats outside 0 to 1, so that their scale is not known.
    """
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        image = grey_of_integers(image)
    elif image.mode == "F":
        image = grey_of_floats(image)
    elif image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode in ("CMYK", "HSV", "LAB", "YCbCr"):
        image = image.convert("RGB")  # Pillow cannot convert all of them to grey directly
    return image.convert(mode)


def _checked_size(size: Any) -> tuple[int, int]:
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f"image_size must be (height, width) in pixels, not {size!r}")
    return (size[0], size[1])


def _compile(transforms: str, image_size: tuple[int, int], channels: int) -> tuple[Transform, ...]:
    steps = [_build(call) for call in chain.parse(transforms)]
    normalizes = [step for step in steps if isinstance(step, values.Normalize)]
    if len(normalizes) != 1:
        raise UserError(f"{transforms!r} must contain 'normalize', which makes the array, exactly once")
    normalize = normalizes[0]
    place = steps.index(normalize)
    for step in steps[:place]:
        if step.on_array:
            raise UserError(f"{transforms!r}: {_name(type(step))!r} works on arrays: move it after 'normalize'")
    for step in steps[place + 1 :]:
        if not step.on_array:
            raise UserError(f"{transforms!r}: {_name(type(step))!r} works on images: move it before 'normalize'")
    for first, second in itertools.zip_longest(steps, steps[1:]):
        if isinstance(first, ReducedDecode) and (first is not steps[0] or not ReducedDecode.precedes(second)):
            raise UserError(
                f"{transforms!r}: 'reduced_decode' must be the first step, and the next one 'resize', 'random_resize', "
                "'random_resized_crop' or 'inception_crop' with antialias=True"
            )
    for numbers in (normalize.mean, normalize.std):
        if isinstance(numbers, tuple) and len(numbers) != channels:
            raise UserError(f"normalize: {len(numbers)} values {numbers} for {channels} channels")
    return tuple(_completed(step, image_size, normalize) for step in steps)


def _build(call: chain.Call) -> Transform:
    if "." not in call.name:
        return chain.build(TRANSFORMS, "transform", call)
    from vit_jax.config.extensions import load_object

    cls = load_object(chain.import_path(call.name), "transform")
    if not (isinstance(cls, type) and issubclass(cls, Transform) and dataclasses.is_dataclass(cls)):
        raise UserError(f"transform {call.name!r} must be a dataclass derived from {_name(Transform)}")
    return chain.construct(cls, call)


def _name(cls: type) -> str:
    """Returns the name of a transform as written in a chain."""
    ours = {cls: name for name, cls in TRANSFORMS.items()}
    return ours.get(cls, f"{cls.__module__}.{cls.__qualname__}")


def _completed(step: Transform, image_size: tuple[int, int], normalize: values.Normalize) -> Transform:
    """Fills in fields that are None: `size` by `image_size`, and `fill` by the mean of `normalize`, as timm does."""
    fields: dict[str, Any] = {}
    if getattr(step, "size", 0) is None:
        fields["size"] = image_size
    if getattr(step, "fill", 0) is None:
        fields["fill"] = tuple(min(255, round(255 * value)) for value in np.atleast_1d(normalize.mean).tolist())
    return dataclasses.replace(step, **fields) if fields else step  # pyright: ignore[reportArgumentType]
