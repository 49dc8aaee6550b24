"""Preprocessing of published weights, as chains of transforms: what formats imply, and what timm's config.json says.

A chain is a string in the notation of the image transforms, such as
`"resize(256, method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)"`. Nothing here parses one. Hugging Face's
files are read in `image_processors.py`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import UserError
from vit_jax.pretrained.names import Size

Numbers = float | Sequence[float]
METHODS = ("nearest", "lanczos", "bilinear", "bicubic", "box")  # those of Pillow that the transforms have, by its codes
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ADVICE = (
    "Give the preprocessing yourself: preprocessing=... in Python, --preprocessing of convert, or "
    "config.data.eval_transforms of a run"
)

# keys of timm's pretrained_cfg
_PIXELS = ("input_size", "test_input_size", "interpolation", "crop_pct", "test_crop_pct", "crop_mode", "mean", "std")
_NOT_PIXELS = (
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "custom_load"),
    *("min_input_size", "fixed_input_size", "num_classes", "label_offset", "label_names", "label_descriptions"),
    *("pool_size", "test_pool_size", "first_conv", "classifier", "license", "description", "origin_url"),
    *("paper_name", "paper_ids", "notes"),
    *("labels", "model_args", "num_features", "global_pool", "head_dropout"),  # of config.json, once the same dict
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Evaluation preprocessing that the configs of timm and Hugging Face can express.

    Attributes:
      image_size: (height, width) of the result, in pixels.
      channels: 1 or 3.
      scaled: (height, width) to which the image is resized; `image_size` is its centre.
      cover: Whether the resized image keeps its shape and covers `scaled`, instead of being distorted to it.
      rounding: How the crop rounds an odd margin, see `data.image.geometry.CenterCrop`.
      method: Antialiased resampling method, one of `METHODS`.
      mean, std: For all channels, or one value per channel.
    """

    image_size: Size
    channels: int
    scaled: Size
    cover: bool
    rounding: str
    method: str
    mean: Numbers
    std: Numbers


def squashed(
    method: str, mean: Numbers, std: Numbers, antialias: bool = True, *, scaled: Size | None = None, crop: str = ""
) -> str:
    """Returns the chain that resizes the whole image, whatever its shape (google-research; Hugging Face ViT).

    Args:
      scaled: (height, width) before the centre crop; None for the size of the result, without a crop.
      crop: The crop, if not `center_crop`.
    """
    plain = "" if antialias else ", antialias=False"
    size, crops = ("", []) if scaled is None else (f"{scaled}, ", [crop or "center_crop"])
    return "|".join([f"resize({size}method={method!r}{plain})", *crops, _normalize(mean, std)])


def cropped(
    size: int | Size, method: str, mean: Numbers, std: Numbers, antialias: bool = True, crop: str = "center_crop"
) -> str:
    """Returns the chain that resizes an image in its shape, then crops the centre (timm, TNT, TimeSformer).

    Args:
      size: Length of the shorter side, or the (height, width) that the resized image covers. These are the same if the
        two sides are equal.
    """
    plain = "" if antialias else ", antialias=False"
    height, width = (size, size) if isinstance(size, int) else size
    wanted, cover = (height, "") if height == width else ((height, width), ", cover=True")
    return f"resize({wanted}, method={method!r}{plain}{cover})|{crop}|{_normalize(mean, std)}"


def big_vision(image_size: Size) -> str:
    """Returns big_vision's `resize_small|central_crop`, with its ratio of 256 to 224 (its ImageNet configs).

    Deviation: its `resize_small` uses TensorFlow's "area"; Pillow's antialiased "box" is the closest method.
    """
    height, width = (round(side * 256 / 224) for side in image_size)
    return cropped((height, width), "box", 0.5, 0.5)


def timm_size(image_size: Size, crop_pct: float) -> Size:
    """Returns the (height, width) to which timm resizes before its crop: floor(side / crop_pct)."""
    return math.floor(image_size[0] / crop_pct), math.floor(image_size[1] / crop_pct)


def from_timm(config: Mapping[str, Any], image_size: Size) -> str | None:
    """Returns the chain of `timm.data.create_transform` for a config.json.

    A key that is missing or null has timm's default: crop_pct 0.875, crop_mode `center`, interpolation `bicubic`,
    ImageNet's mean and std. At `test_input_size`, `test_crop_pct` replaces crop_pct, as in timm's validation.

    Returns None for a bare file and for a config with neither mean nor std, because ViT and DeiT have different means
    under the same tensor names.

    Raises:
      UserError: A key has a value that the transforms cannot express, or is unknown; the message names it.
    """
    fields = config.get("pretrained_cfg", config)  # older versions had no dict within config.json
    if not isinstance(fields, Mapping) or not fields.keys() & {"mean", "std"}:
        return None
    refuse_unknown("config.json: pretrained_cfg", fields, (*_PIXELS, *_NOT_PIXELS))
    crop_pct, test_size = fields.get("crop_pct") or 0.875, fields.get("test_input_size")
    if isinstance(test_size, Sequence) and tuple(test_size[-2:]) == tuple(image_size):
        crop_pct = fields.get("test_crop_pct") or crop_pct
    method, mode = fields.get("interpolation") or "bicubic", fields.get("crop_mode") or "center"
    choices = {"interpolation": (method, METHODS), "crop_mode": (mode, ("center", "squash"))}
    for key, (value, known) in choices.items():
        if value not in known:
            raise refusal("config.json", key, value, f"only {', '.join(known)} are supported")
    if not is_number(crop_pct) or not 0 < crop_pct <= 1:
        raise refusal("config.json", "crop_pct", crop_pct, "it must be above 0 and at most 1")
    mean = checked_numbers("config.json", "mean", fields.get("mean") or IMAGENET_MEAN)
    std = checked_numbers("config.json", "std", fields.get("std") or IMAGENET_STD, positive=True)
    scaled = timm_size(image_size, crop_pct)
    if mode == "squash":
        return squashed(method, mean, std, scaled=None if scaled == tuple(image_size) else scaled)
    return cropped(scaled, method, mean, std)


def to_timm(recipe: Recipe) -> dict[str, Any] | None:
    """Returns the `pretrained_cfg` for a recipe, the inverse of `from_timm`; None if timm cannot express it."""
    (height, width), scaled = recipe.image_size, recipe.scaled
    crop_pct = min(height / scaled[0], width / scaled[1])
    if timm_size(recipe.image_size, crop_pct) != scaled:
        crop_pct = math.nextafter(crop_pct, 0)
    if timm_size(recipe.image_size, crop_pct) != scaled or crop_pct > 1:
        return None
    return {
        "input_size": [recipe.channels, height, width],
        "interpolation": recipe.method,
        "mean": per_channel(recipe.mean, recipe.channels),
        "std": per_channel(recipe.std, recipe.channels),
        "crop_mode": "center" if recipe.cover else "squash",
        "crop_pct": crop_pct,
    }


def rounds_otherwise(recipe: Recipe, rounding: str) -> bool:
    """Returns whether a centre crop with this rounding cuts some images one pixel apart from the recipe's."""
    margins = (scaled - side for scaled, side in zip(recipe.scaled, recipe.image_size, strict=True))
    return recipe.rounding != rounding and (recipe.cover or any(margin % 2 for margin in margins))


def refusal(file: str, key: str, value: Any, reason: str) -> UserError:
    """Returns the error for a value that no chain can express."""
    return UserError(f"{file}: {key} is {value!r}, but {reason}. {ADVICE}")


def refuse_unknown(file: str, fields: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises UserError if a key that is not in `known` has a value other than null, false or empty."""
    for key, value in fields.items():
        if key not in known and value:
            raise refusal(file, key, value, "this key is unknown and may change the pixels")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def checked_numbers(file: str, key: str, value: Any, *, positive: bool = False) -> Numbers:
    """Returns a number, or one for each of 1 or 3 channels.

    Raises:
      UserError: The value is something else; the message names the key.
    """
    numbers = [value] if is_number(value) else value
    wanted = f"{'positive ' if positive else ''}numbers, one or one per channel, are needed"
    if not isinstance(numbers, Sequence) or len(numbers) not in (1, 3):
        raise refusal(file, key, value, wanted)
    if not all(is_number(number) and (number > 0 or not positive) for number in numbers):
        raise refusal(file, key, value, wanted)
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def per_channel(numbers: Numbers, channels: int) -> list[float]:
    return [numbers] * channels if isinstance(numbers, (int, float)) else list(numbers)


def _normalize(mean: Numbers, std: Numbers) -> str:
    return f"normalize(mean={_short(mean)}, std={_short(std)})"


def _short(numbers: Numbers) -> Numbers:
    """Returns one number if all channels share it."""
    if isinstance(numbers, (int, float)):
        return numbers
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)
