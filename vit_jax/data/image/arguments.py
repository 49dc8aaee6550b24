"""What a transform is, and the checks of its arguments: each raises `ValueError` naming argument and value."""

import math
from typing import Any, ClassVar

from PIL import Image

Size = int | tuple[int, int] | None

METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Transform:
    random: ClassVar[bool] = False
    on_array: ClassVar[bool] = False

    def __call__(self, image: Any, rng: Any) -> Any:
        raise NotImplementedError


def check(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_probability(name: str, value: Any) -> None:
    check(is_number(value) and 0 <= value <= 1, name, value, "a probability from 0 to 1")


def check_range(name: str, value: Any, largest: float = math.inf) -> None:
    pair = isinstance(value, tuple) and len(value) == 2 and all(is_number(end) for end in value)
    limit = "" if largest == math.inf else f" and at most {largest:g}"
    check(pair and 0 < value[0] <= value[1] <= largest, name, value, f"(low, high), above 0{limit}")


def check_size(size: Any) -> None:
    sides = size if isinstance(size, tuple) else (size,)
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    check(size is None or (whole and len(sides) <= 2 and sides != ()), "size", size, "pixels or (height, width)")


def check_method(method: Any, antialias: Any) -> None:
    check(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    check(isinstance(antialias, bool), "antialias", antialias, "True or False")
    if not antialias:
        check(
            method in ("nearest", "bilinear", "bicubic"),
            "method",
            method,
            "nearest, bilinear or bicubic if not antialias",
        )
