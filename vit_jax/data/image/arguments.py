"""The base class of transforms, and checks of their arguments that raise `ValueError` with argument and value."""

import abc
import math
from typing import Any, ClassVar

from PIL import Image

Size = int | tuple[int, int] | None
LARGEST_SIDE = 16_384  # pixels; that of `config.data.image_size`

METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Transform(abc.ABC):
    """A step of a chain: a frozen dataclass whose fields are the arguments that a chain may give.

    `__post_init__` may check the fields and raise `ValueError`; the user sees its message. A field called `size` or
    `fill` whose value is None is set to the image size of the chain, or to the mean of `normalize` as a colour. To use
    a class of your own, write its import path in the chain: `mylab.transforms.Solarize(threshold=0.5)`.

        @dataclass(frozen=True)
        class Solarize(Transform):
            threshold: float = 0.5

            def __call__(self, image, rng):
                return ImageOps.solarize(image, round(255 * self.threshold))

    Attributes:
      random: Whether the result depends on `rng`. A random transform cannot be used in evaluation, where `rng` is None.
      on_array: Whether it works on the normalized array, after `normalize`, instead of the image before it.
    """

    random: ClassVar[bool] = False
    on_array: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, image: Any, rng: Any) -> Any:
        """Returns the transformed image.

        Args:
          image: A Pillow image, 8-bit grey or RGB; or if `on_array`, float32 (height, width, channels), which may be
            modified in place.
          rng: A NumPy `Generator`, or None in evaluation.
        """


def check(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SIDE


def check_probability(name: str, value: Any) -> None:
    check(is_number(value) and 0 <= value <= 1, name, value, "a probability from 0 to 1")


def check_range(name: str, value: Any, largest: float = math.inf) -> None:
    pair = isinstance(value, tuple) and len(value) == 2 and all(is_number(end) for end in value)
    limit = "" if largest == math.inf else f" and at most {largest:g}"
    check(pair and 0 < value[0] <= value[1] <= largest, name, value, f"(low, high), above 0{limit}")


def check_size(size: Any) -> None:
    sides = size if isinstance(size, tuple) else (size,)
    whole = all(map(is_side, sides))
    wanted = f"pixels or (height, width), each side at most {LARGEST_SIDE:,}"
    check(size is None or (whole and len(sides) <= 2 and sides != ()), "size", size, wanted)
