"""Preprocessing of published weights as chains of `data.transforms`: what formats imply and what their files say."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.data.image.geometry import CenterCrop, Resize
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.image.values import Normalize
from vit_jax.errors import UserError

Numbers = float | Sequence[float]
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}  # the codes of PIL.Image.Resampling


def squashed(method: str, mean: Numbers, std: Numbers, antialias: bool = True) -> str:
    """The whole image, whatever its shape (google-research; Hugging Face ViT)."""
    plain = "" if antialias else ", antialias=False"
    return f"resize(method={method!r}{plain})|{_normalize(mean, std)}"


def cropped(shorter_side: int, method: str, mean: Numbers, std: Numbers, antialias: bool = True) -> str:
    """The middle, after the shorter side is resized (timm, TNT, TimeSformer)."""
    plain = "" if antialias else ", antialias=False"
    return f"resize({shorter_side}, method={method!r}{plain})|center_crop|{_normalize(mean, std)}"


def big_vision(image_size: tuple[int, int]) -> str:
    """big_vision's `resize_small|central_crop`, 256 for 224 as its ImageNet configs have it.

    Deviation: its `resize_small` takes TensorFlow's "area"; the antialiased "box" is the nearest of Pillow.
    """
    return cropped(round(min(image_size) * 256 / 224), "box", 0.5, 0.5)


def timm_side(image_size: tuple[int, int], crop_pct: float) -> int:
    """The shorter side before timm's centre crop."""
    return math.floor(min(image_size) / crop_pct)


def from_timm(config: Mapping[str, Any], image_size: tuple[int, int]) -> str | None:
    """What timm's config.json says; None for a bare file, because ViT and DeiT have other means under the same names.

    Raises:
      UserError: It says what these transforms cannot do.
    """
    fields = config.get("pretrained_cfg") or {}
    if not fields.keys() >= {"mean", "std"}:
        return None
    method, mode = fields.get("interpolation", "bicubic"), fields.get("crop_mode", "center")
    if mode not in ("center", "squash") or method not in PILLOW.values():
        raise UserError(f"config.json: crop_mode {mode!r} with interpolation {method!r} is not known here")
    if mode == "squash":
        return squashed(method, fields["mean"], fields["std"])
    return cropped(timm_side(image_size, fields.get("crop_pct") or 0.875), method, fields["mean"], fields["std"])


def to_timm(preprocessing: Preprocessing) -> dict[str, Any] | None:
    """The inverse of `from_timm`; None for a chain that timm cannot say."""
    recipe = _recipe(preprocessing)
    if recipe is None:
        return None
    side, method, normalize = recipe
    height, width = preprocessing.image_size
    fields = {
        "input_size": [preprocessing.channels, height, width],
        "interpolation": method,
        "mean": _each(normalize.mean, preprocessing.channels),
        "std": _each(normalize.std, preprocessing.channels),
    }
    if side is None:
        return {**fields, "crop_mode": "squash", "crop_pct": 1.0}
    crop_pct = min(height, width) / side
    if timm_side(preprocessing.image_size, crop_pct) != side:
        crop_pct = math.nextafter(crop_pct, 0)
    return {**fields, "crop_mode": "center", "crop_pct": crop_pct}


def from_hugging_face(config: Mapping[str, Any], image_size: tuple[int, int]) -> str | None:
    """What preprocessor_config.json says; None without one.

    Raises:
      UserError: It says what these transforms cannot do.
    """
    fields = config.get("preprocessor_config")
    if not fields:
        return None
    if not fields.get("do_resize", True) or not math.isclose(fields.get("rescale_factor", 1 / 255), 1 / 255):
        raise UserError("preprocessor_config.json: without do_resize, or with a rescale_factor that is not 1 / 255")
    is_normalized = fields.get("do_normalize", True)
    mean, std = (fields["image_mean"], fields["image_std"]) if is_normalized else (0.0, 1.0)
    method, size = PILLOW[fields.get("resample", 2)], fields.get("size")
    if not isinstance(size, Mapping) or "shortest_edge" not in size:
        return squashed(method, mean, std)
    crop = fields.get("crop_size") or size["shortest_edge"]
    crop = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop,)
    return cropped(round(size["shortest_edge"] * min(image_size) / min(crop)), method, mean, std)


def to_hugging_face(preprocessing: Preprocessing) -> dict[str, Any] | None:
    """The inverse of `from_hugging_face`; None for a chain that it cannot say."""
    recipe = _recipe(preprocessing)
    if recipe is None:
        return None
    side, method, normalize = recipe
    size = dict(zip(("height", "width"), preprocessing.image_size, strict=True))
    codes = {name: code for code, name in PILLOW.items()}
    crop = {"size": size} if side is None else {"size": {"shortest_edge": side}, "crop_size": size}
    return {
        "do_resize": True,
        "resample": codes[method],
        "do_center_crop": side is not None,
        **crop,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _each(normalize.mean, preprocessing.channels),
        "image_std": _each(normalize.std, preprocessing.channels),
    }


def _normalize(mean: Numbers, std: Numbers) -> str:
    return f"normalize(mean={_short(mean)}, std={_short(std)})"


def _short(numbers: Numbers) -> Numbers:
    """One number where all channels share it."""
    if isinstance(numbers, (int, float)):
        return numbers
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def _each(numbers: Numbers, channels: int) -> list[float]:
    return [numbers] * channels if isinstance(numbers, (int, float)) else list(numbers)


def _recipe(preprocessing: Preprocessing) -> tuple[int | None, str, Normalize] | None:
    """Shorter side (None for squashed), method and normalisation of a chain as `squashed` or `cropped` make it."""
    resize, *crop, normalize = preprocessing.steps if len(preprocessing.steps) > 1 else (None, None)
    if not isinstance(resize, Resize) or not resize.antialias or not isinstance(normalize, Normalize):
        return None
    if not crop and resize.size == preprocessing.image_size:
        return None, resize.method, normalize
    if crop == [CenterCrop(preprocessing.image_size)] and isinstance(resize.size, int):
        return resize.size, resize.method, normalize
    return None
