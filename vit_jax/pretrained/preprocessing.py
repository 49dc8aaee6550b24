"""Preprocessing of published weights, as chains of transforms: what formats imply and what their files say.

A chain is a string in the notation of the image transforms, such as
`"resize(256, method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)"`. Nothing here parses one.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import UserError
from vit_jax.pretrained.names import Size

Numbers = float | Sequence[float]
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}  # the codes of PIL.Image.Resampling


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Evaluation preprocessing that the configs of timm and Hugging Face can express.

    Attributes:
      image_size: (height, width) of the result, in pixels.
      channels: 1 or 3.
      shorter_side: Length to which the shorter side is resized before the centre crop, in pixels; None if the whole
        image is resized to `image_size`, whatever its shape.
      method: Antialiased resampling method, one of those in `PILLOW`.
      mean, std: For all channels, or one value per channel.
    """

    image_size: Size
    channels: int
    shorter_side: int | None
    method: str
    mean: Numbers
    std: Numbers


def squashed(method: str, mean: Numbers, std: Numbers, antialias: bool = True) -> str:
    """Returns the chain that resizes the whole image, whatever its shape (google-research; Hugging Face ViT)."""
    plain = "" if antialias else ", antialias=False"
    return f"resize(method={method!r}{plain})|{_normalize(mean, std)}"


def cropped(shorter_side: int, method: str, mean: Numbers, std: Numbers, antialias: bool = True) -> str:
    """Returns the chain that resizes the shorter side, then crops the centre (timm, TNT, TimeSformer)."""
    plain = "" if antialias else ", antialias=False"
    return f"resize({shorter_side}, method={method!r}{plain})|center_crop|{_normalize(mean, std)}"


def big_vision(image_size: Size) -> str:
    """Returns big_vision's `resize_small|central_crop`, with its ratio of 256 to 224 (its ImageNet configs).

    Deviation: its `resize_small` uses TensorFlow's "area"; Pillow's antialiased "box" is the closest method.
    """
    return cropped(round(min(image_size) * 256 / 224), "box", 0.5, 0.5)


def timm_side(image_size: Size, crop_pct: float) -> int:
    """Returns the shorter side before timm's centre crop: floor(min(image_size) / crop_pct)."""
    return math.floor(min(image_size) / crop_pct)


def from_timm(config: Mapping[str, Any], image_size: Size) -> str | None:
    """Returns the chain that timm's config.json describes.

    Returns None for a bare file, because ViT and DeiT have different means under the same tensor names.

    Raises:
      UserError: The config asks for something that the transforms cannot do.
    """
    fields = config.get("pretrained_cfg") or {}
    if not fields.keys() >= {"mean", "std"}:
        return None
    method, mode = fields.get("interpolation", "bicubic"), fields.get("crop_mode", "center")
    if mode not in ("center", "squash") or method not in PILLOW.values():
        raise UserError(f"config.json: crop_mode {mode!r} with interpolation {method!r} is not supported")
    if mode == "squash":
        return squashed(method, fields["mean"], fields["std"])
    return cropped(timm_side(image_size, fields.get("crop_pct") or 0.875), method, fields["mean"], fields["std"])


def to_timm(recipe: Recipe) -> dict[str, Any]:
    """Returns the `pretrained_cfg` for a recipe: the inverse of `from_timm`."""
    height, width = recipe.image_size
    fields = {
        "input_size": [recipe.channels, height, width],
        "interpolation": recipe.method,
        "mean": _each(recipe.mean, recipe.channels),
        "std": _each(recipe.std, recipe.channels),
    }
    if recipe.shorter_side is None:
        return {**fields, "crop_mode": "squash", "crop_pct": 1.0}
    crop_pct = min(height, width) / recipe.shorter_side
    if timm_side(recipe.image_size, crop_pct) != recipe.shorter_side:
        crop_pct = math.nextafter(crop_pct, 0)
    return {**fields, "crop_mode": "center", "crop_pct": crop_pct}


def from_hugging_face(config: Mapping[str, Any], image_size: Size) -> str | None:
    """Returns the chain that preprocessor_config.json describes, or None if there is no such file.

    Raises:
      UserError: The config asks for something that the transforms cannot do.
    """
    fields = config.get("preprocessor_config")
    if not fields:
        return None
    if not fields.get("do_resize", True) or not math.isclose(fields.get("rescale_factor", 1 / 255), 1 / 255):
        raise UserError(
            "preprocessor_config.json: do_resize=false and a rescale_factor other than 1 / 255 are not supported"
        )
    is_normalized = fields.get("do_normalize", True)
    mean, std = (fields["image_mean"], fields["image_std"]) if is_normalized else (0.0, 1.0)
    method, size = PILLOW[fields.get("resample", 2)], fields.get("size")
    if not isinstance(size, Mapping) or "shortest_edge" not in size:
        return squashed(method, mean, std)
    crop = fields.get("crop_size") or size["shortest_edge"]
    crop = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop,)
    return cropped(round(size["shortest_edge"] * min(image_size) / min(crop)), method, mean, std)


def to_hugging_face(recipe: Recipe) -> dict[str, Any]:
    """Returns the preprocessor_config.json for a recipe: the inverse of `from_hugging_face`."""
    size = dict(zip(("height", "width"), recipe.image_size, strict=True))
    codes = {name: code for code, name in PILLOW.items()}
    side = recipe.shorter_side
    crop = {"size": size} if side is None else {"size": {"shortest_edge": side}, "crop_size": size}
    return {
        "do_resize": True,
        "resample": codes[recipe.method],
        "do_center_crop": side is not None,
        **crop,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _each(recipe.mean, recipe.channels),
        "image_std": _each(recipe.std, recipe.channels),
    }


def _normalize(mean: Numbers, std: Numbers) -> str:
    return f"normalize(mean={_short(mean)}, std={_short(std)})"


def _short(numbers: Numbers) -> Numbers:
    """Returns one number if all channels share it."""
    if isinstance(numbers, (int, float)):
        return numbers
    if not all(isinstance(number, (int, float)) for number in numbers):  # text would become code of the chain
        raise UserError(f"mean and std must be numbers, got {numbers!r}")
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def _each(numbers: Numbers, channels: int) -> list[float]:
    return [numbers] * channels if isinstance(numbers, (int, float)) else list(numbers)
