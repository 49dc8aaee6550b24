"""From a stored image to the model's input, as data: a size, a number of channels and a string of transforms."""

import ast
import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image

from vit_jax.data.image import geometry, randaugment, values
from vit_jax.data.image.arguments import Transform
from vit_jax.errors import UserError, nearest

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
    "resize": geometry.Resize,
    "rot90": geometry.Rot90,
}

Call = tuple[str, list, dict[str, Any]]  # a step as written: name, positional arguments, named arguments
Built = TypeVar("Built")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Turns a stored image into the model's input, and travels with the checkpoint.

    `image_size` is (height, width) in pixels, `channels` 1 or 3, and `transforms` a chain such as
    `"random_resized_crop(area=(0.08, 1.0))|flip|normalize(mean=0.5, std=0.5)"` (the notation of big_vision). Sizes left
    out are `image_size`. The string is parsed, never evaluated, and every name and argument is checked here.

    Channels are converted before the first transform: see `to_channels`. The EXIF orientation is not applied, as in
    TensorFlow and timm, so that files load as the published results saw them.

    Raises `UserError` for a chain that cannot work, and when called, for a random chain without `rng` and for a
    result that is not of `image_size`.
    """

    image_size: tuple[int, int]
    channels: int
    transforms: str
    key: ClassVar[str] = "image"  # what it takes of an example and gives to a batch
    _chain: tuple[Transform, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "image_size", _checked_size(self.image_size))
        if self.channels not in (1, 3):
            raise UserError(f"channels must be 1 (grey) or 3 (RGB), not {self.channels!r}")
        object.__setattr__(self, "_chain", _compile(self.transforms, self.image_size, self.channels))

    @property
    def steps(self) -> tuple[Transform, ...]:
        """The transforms in order, what the string left out filled in."""
        return self._chain

    @property
    def is_random(self) -> bool:
        return bool(self.random_transforms)

    @property
    def random_transforms(self) -> tuple[str, ...]:
        """The names of the random transforms, in order."""
        names = {kind: name for name, kind in TRANSFORMS.items()}
        return tuple(names[type(step)] for step in self._chain if step.random)

    @property
    def views(self) -> int:
        """Rows of an example in evaluation."""
        return 1

    @property
    def model_fields(self) -> dict[str, Any]:
        """What a model has to be built with to take the rows."""
        return {"image_size": self.image_size, "in_channels": self.channels}

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> np.ndarray:
        """Returns float32 (height, width, channels)."""
        return self.run(image, rng, self._chain)

    def rows(self, image: Image.Image, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Returns an example's rows of a batch: here one, whether or not in evaluation."""
        return [self(image, rng)]

    def run(self, image: Image.Image, rng: np.random.Generator | None, steps: Iterable[Transform]) -> np.ndarray:
        """Calls `steps` in place of the chain's."""
        if rng is None and self.is_random:
            raise UserError(
                f"{', '.join(self.random_transforms)}: random, but no random generator was given; "
                "evaluation wants transforms without chance"
            )
        result: Any = to_channels(image, self.channels)
        for step in steps:
            result = step(result, rng)
        if result.shape[:2] != self.image_size:
            raise UserError(
                f"a {image.height}x{image.width} image became {result.shape[0]}x{result.shape[1]}, not "
                f"{self.image_size[0]}x{self.image_size[1]}: "
                f"end the crops and resizes of {self.transforms!r} with 'resize' without a size"
            )
        return result

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-compatible values; `from_dict` is the inverse."""
        return {"image_size": list(self.image_size), "channels": self.channels, "transforms": self.transforms}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        return cls(tuple(fields["image_size"]), fields["channels"], fields["transforms"])


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Converts any image to 8-bit grey ("L", 1 channel) or "RGB" (3).

    Transparency is composited on white (TensorFlow and timm drop alpha, which shows whatever colour hid behind it).
    Of 16-bit grey the upper byte is kept; Pillow itself would clip at 255. Grey is luma, ITU-R 601.
    """
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):  # 16-bit grey; some formats widen it to 32 bits
        upper_bytes = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(upper_bytes, 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode in ("CMYK", "HSV", "LAB", "YCbCr"):
        image = image.convert("RGB")  # Pillow knows no direct way from all of them to grey
    return image.convert(mode)


def _checked_size(size: Any) -> tuple[int, int]:
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f"image_size must be (height, width) in pixels, not {size!r}")
    return (size[0], size[1])


def _compile(transforms: str, image_size: tuple[int, int], channels: int) -> tuple[Transform, ...]:
    steps = [build(TRANSFORMS, "transform", *step) for step in parse(transforms)]
    normalizes = [step for step in steps if isinstance(step, values.Normalize)]
    if len(normalizes) != 1:
        raise UserError(f"{transforms!r}: 'normalize' makes the array and must be there exactly once")
    normalize = normalizes[0]
    for step in steps[: steps.index(normalize)]:
        if step.on_array:
            raise UserError(f"{transforms!r}: 'random_erasing' works on normalized values: move it after 'normalize'")
    for step in steps[steps.index(normalize) + 1 :]:
        if not step.on_array:
            raise UserError(f"{transforms!r}: only 'random_erasing' may follow 'normalize'")
    for numbers in (normalize.mean, normalize.std):
        if isinstance(numbers, tuple) and len(numbers) != channels:
            raise UserError(f"normalize: {len(numbers)} values {numbers} for {channels} channels")
    return tuple(_completed(step, image_size, normalize) for step in steps)


def _completed(step: Transform, image_size, normalize: values.Normalize) -> Transform:
    """Fills what the string left out: sizes by `image_size`, timm's fill colour by the mean of `normalize`."""
    fields: dict[str, Any] = {}
    if getattr(step, "size", 0) is None:
        fields["size"] = image_size
    if getattr(step, "fill", 0) is None:
        fields["fill"] = tuple(min(255, round(255 * value)) for value in np.atleast_1d(normalize.mean).tolist())
    return dataclasses.replace(step, **fields) if fields else step  # pyright: ignore[reportArgumentType]


def parse(chain: str, what: str = "transforms") -> Iterator[Call]:
    """Yields (name, positional arguments, named arguments) of each step; raises `UserError` unless all are literals."""
    try:
        tree = ast.parse(chain, mode="eval").body
    except SyntaxError as error:
        raise UserError(f"{what} {chain!r}: {error.msg} at character {error.offset}") from None
    yield from _steps(tree, what)


def _steps(tree: ast.expr, what: str) -> Iterator[Call]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        yield from _steps(tree.left, what)
        yield from _steps(tree.right, what)
    elif isinstance(tree, ast.Name):
        yield tree.id, [], {}
    elif isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        name = tree.func.id
        args = [_literal(name, arg) for arg in tree.args]
        yield name, args, {str(word.arg): _literal(name, word.value) for word in tree.keywords}
    else:
        raise UserError(f"{what}: {ast.unparse(tree)!r} is not of the form name(argument=value)")


def _literal(name: str, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise UserError(f"{name}: {ast.unparse(value)!r} is not a number, string or tuple of them") from None


def build(kinds: Mapping[str, type[Built]], what: str, name: str, args: list, kwargs: dict[str, Any]) -> Built:
    """Returns the `what` (for messages) called `name`, with its arguments as parsed; raises `UserError`."""
    if name not in kinds:
        raise UserError(f"unknown {what} {name!r}{nearest(name, kinds)}")
    kind = kinds[name]
    known = inspect.signature(kind).parameters
    for word in kwargs:
        if word not in known:
            raise UserError(f"{name}: unknown argument {word!r}{_nearest_argument(word, list(known))}")
    try:
        return kind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {_without_class(error)}") from None


def _nearest_argument(word: str, known: list[str]) -> str:
    if not known:
        return "; it takes none"
    return nearest(word, known) if difflib.get_close_matches(word, known) else f"; it takes {', '.join(known)}"


def _without_class(error: Exception) -> str:
    return str(error).split("__init__() ")[-1].replace("__post_init__() ", "")
