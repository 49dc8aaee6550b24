"""Preprocessing of Hugging Face: preprocessor_config.json and video_preprocessor_config.json, as chains of transforms.

Both files hold the arguments of an image processor, a class of transformers: resize, centre crop, multiply by
`rescale_factor`, subtract `image_mean` and divide by `image_std`, each step if its `do_` key is true. Each class has
its own defaults for keys that are missing. Frames of a video are processed like images; which frames are taken is a
matter of the config of a run, not of these files.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.pretrained.names import Size
from vit_jax.pretrained.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    METHODS,
    Numbers,
    Recipe,
    checked_numbers,
    cropped,
    is_number,
    per_channel,
    refusal,
    refuse_unknown,
    squashed,
)

_CLIP = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
_ALL = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "do_pad": False,
    "default_to_square": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "offset": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "size": {"height": 224, "width": 224},
    "crop_size": None,
    "crop_pct": None,
}
_CROP = {
    "do_center_crop": True,
    "default_to_square": False,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
}
# what the classes of transformers 5 have otherwise than `_ALL`; names are without "ImageProcessor"
_PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"resample": 2},
    "DeiT": {
        "do_center_crop": True,
        "size": {"height": 256, "width": 256},
        "crop_size": {"height": 224, "width": 224},
    },
    "Beit": {"crop_size": {"height": 224, "width": 224}},
    "Bit": {**_CROP, **_CLIP},
    "CLIP": {**_CROP, **_CLIP},
    "Siglip": {"default_to_square": False},
    "ConvNext": {"default_to_square": False, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "VideoMAE": {**_CROP, "resample": 2},
    "Timesformer": {**_CROP, "resample": 2, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "Vivit": {
        **_CROP,
        "resample": 2,
        "size": {"shortest_edge": 256},
        "rescale_factor": 1 / 127.5,
        "offset": True,
    },
}
_OF_MODELS = {  # the class that transformers takes if the file names none, by the model_type of config.json
    "vit": "ViT",
    "vit_mae": "ViT",
    "vit_msn": "ViT",
    "ijepa": "ViT",
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "timesformer": "VideoMAE",
    "videomae": "VideoMAE",
}
_BILINEAR = 2  # what every version takes for a resample that is null, or would take without the key
_STEPS = {  # the keys that a step reads, if it is done
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor", "offset"),
    "do_normalize": ("image_mean", "image_std"),
}
_NOT_PIXELS = (
    *("image_processor_type", "feature_extractor_type", "video_processor_type", "processor_class", "do_convert_rgb"),
    *("data_format", "input_data_format", "device", "return_tensors", "disable_grouping", "image_seq_length"),
    *("do_reduce_labels", "reduce_labels", "_valid_processor_keys", "model_input_names", "return_metadata"),
    *("do_sample_frames", "num_frames", "fps", "video_metadata"),
)
_FILES = ("video_preprocessor_config", "preprocessor_config")  # names without .json


def from_hugging_face(config: Mapping[str, Any], image_size: Size) -> str | None:
    """Returns the chain that a folder's preprocessor files describe, or None if there is none.

    The video's file comes before the image's. At another image size than the files' the resized size is scaled with it,
    so that the crop shows the same part of the image.

    Args:
      config: The folder's config.json, with its preprocessor files as `preprocessor_config` and
        `video_preprocessor_config`.

    Raises:
      UserError: A key has a value that the transforms cannot express, or is unknown; the message names it.
    """
    for name in _FILES:
        if name in config:
            return _chain(f"{name}.json", config[name], config.get("model_type"), image_size)
    return None


def _chain(file: str, said: Mapping[str, Any], model_type: str | None, image_size: Size) -> str:
    fields = _with_defaults(file, said, model_type)
    if not isinstance(fields["resample"], int) or not 0 <= fields["resample"] < len(METHODS):
        codes = ", ".join(f"{code} ({name})" for code, name in enumerate(METHODS))
        raise refusal(file, "resample", fields["resample"], f"only {codes} are supported")
    if fields["do_pad"]:
        raise refusal(file, "do_pad", True, "padding is not supported")
    if not fields["do_resize"]:
        raise refusal(file, "do_resize", False, "images of another size than the model's cannot be used then")
    mean, std = _mean_and_std(file, fields)
    method = METHODS[fields["resample"]]
    resized, is_covered = _resized(file, fields)
    if fields["crop_pct"] is not None:
        if not is_covered or fields["do_center_crop"]:
            raise refusal(file, "crop_pct", fields["crop_pct"], "it needs shortest_edge as size and no do_center_crop")
        return _conv_next(file, fields["crop_pct"], resized, image_size, (method, mean, std))
    crop = _pair(file, "crop_size", fields["crop_size"]) if fields["do_center_crop"] else None
    if crop is None:
        if is_covered:
            raise refusal(file, "size", said.get("size"), "without do_center_crop, images keep their shape")
        return squashed(method, mean, std)
    if crop[0] > resized[0] or crop[1] > resized[1]:
        raise refusal(file, "crop_size", said.get("crop_size"), f"it is larger than size, {said.get('size')!r}")
    scaled = tuple(round(side * wanted / of) for side, wanted, of in zip(resized, image_size, crop, strict=True))
    scaled = (max(scaled[0], image_size[0]), max(scaled[1], image_size[1]))
    if is_covered:
        return cropped(scaled, method, mean, std, crop="center_crop(rounding='down')")
    is_whole = scaled == tuple(image_size)
    odd = any((side - wanted) % 2 for side, wanted in zip(scaled, image_size, strict=True))
    crop = "center_crop(rounding='down')" if odd else "center_crop"
    return squashed(method, mean, std, scaled=None if is_whole else scaled, crop=crop)


def _with_defaults(file: str, said: Mapping[str, Any], model_type: str | None) -> dict[str, Any]:
    """Returns every key of `_ALL`: what the file says, else what its class implies."""
    keys = ("video_processor_type", "image_processor_type", "feature_extractor_type")
    named = next((str(said[key]) for key in keys if said.get(key)), None)
    if "auto_map" in said:
        raise refusal(file, "auto_map", said["auto_map"], "code in a folder is not run")
    pattern = r"(\w+?)(ImageProcessor|VideoProcessor|FeatureExtractor)(Fast|Pil)?"
    match = re.fullmatch(pattern, named) if named else None
    kind = match[1] if match else _OF_MODELS.get(model_type or "vit") if named is None else None
    if kind not in _PROCESSORS:
        known = ", ".join(_PROCESSORS)
        raise refusal(file, "the processor", named or model_type, f"only those of {known} are supported")
    refuse_unknown(file, said, (*_ALL, *_NOT_PIXELS))
    defaults = {**_ALL, **_PROCESSORS[kind]}
    for key in ("crop_pct", "offset"):  # these change the pixels of one class each, and others do not read them
        if said.get(key) and not defaults[key]:
            raise refusal(file, key, said[key], f"the processor of {kind} does not use it")
    fields = {**defaults, **{key: value for key, value in said.items() if key in defaults}}
    unused = [key for step, keys in _STEPS.items() if not fields[step] for key in keys]
    for key, default in defaults.items():
        if fields[key] is None and default and key not in unused:
            if (key, default) != ("resample", _BILINEAR):
                raise refusal(file, key, None, "versions of transformers differ in what null means")
            fields[key] = default
    return fields


def _mean_and_std(file: str, fields: Mapping[str, Any]) -> tuple[Numbers, Numbers]:
    """Returns the mean and std of values from 0 to 1, which express rescaling, offset and normalization together.

    (factor x - offset - mean) / std = (x / 255 - (mean + offset) / r) / (std / r),   r = 255 factor
    """
    mean, std, offset = 0.0, 1.0, float(bool(fields["offset"] and fields["do_rescale"]))
    if fields["do_normalize"]:
        mean = checked_numbers(file, "image_mean", fields["image_mean"])
        std = checked_numbers(file, "image_std", fields["image_std"], positive=True)
    factor = fields["rescale_factor"] if fields["do_rescale"] else 1
    if not is_number(factor) or factor <= 0:
        raise refusal(file, "rescale_factor", factor, "a positive number is needed")
    if math.isclose(factor, 1 / 255) and not offset:
        return mean, std
    ratio = 255 * factor
    mean, std = ([float(x) for x in per_channel(numbers, 3)] for numbers in (mean, std))
    return tuple((x + offset) / ratio for x in mean), tuple(x / ratio for x in std)


def _resized(file: str, fields: Mapping[str, Any]) -> tuple[Size, bool]:
    """Returns (height, width) after the resize, and whether the image keeps its shape and covers it."""
    size = fields["size"]
    if isinstance(size, Mapping):
        size = {key: value for key, value in size.items() if value is not None}
        if set(size) == {"shortest_edge"}:
            return _pair(file, "size", size["shortest_edge"]), True
        if set(size) != {"height", "width"}:
            raise refusal(file, "size", dict(size), "only height and width, or shortest_edge, are supported")
    if isinstance(size, int) and not fields["default_to_square"]:
        return _pair(file, "size", size), True
    return _pair(file, "size", size), False


def _pair(file: str, key: str, size: Any) -> Size:
    """Returns (height, width) for an integer, two integers, or a dict of height and width."""
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    sides = [size, size] if isinstance(size, int) else size
    whole = isinstance(sides, Sequence) and len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)
    if not whole:
        raise refusal(file, key, size, "a size in pixels is needed")
    return (sides[0], sides[1])


def _conv_next(file: str, crop_pct: Any, stored: Size, image_size: Size, values: tuple[str, Numbers, Numbers]) -> str:
    """Returns the chain of ConvNeXt: below 384 pixels a crop of the fraction `crop_pct`, from there on none."""
    if not is_number(crop_pct) or not 0 < crop_pct <= 1:
        raise refusal(file, "crop_pct", crop_pct, "it must be above 0 and at most 1")
    if stored[0] >= 384:
        return squashed(*values)
    height, width = (int(side / crop_pct) for side in image_size)
    return cropped((height, width), *values, crop="center_crop(rounding='down')")


def to_hugging_face(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the preprocessor_config.json for a recipe and a config.json, the inverse of `from_hugging_face`.

    Returns None if the file cannot express it: the image keeps its shape and covers sides of two lengths, or is cropped
    to a side that is longer than those it covers, which transformers would pad.
    """
    (height, width), scaled = recipe.image_size, recipe.scaled
    if recipe.cover and (scaled[0] != scaled[1] or max(recipe.image_size) > scaled[0]):
        return None
    crops = recipe.cover or scaled != recipe.image_size
    name = "VideoMAE" if config["model_type"] == "timesformer" else "Bit" if crops else "ViT"
    crop = {"crop_size": {"height": height, "width": width}} if crops else {}
    return {
        "image_processor_type": f"{name}ImageProcessor",
        "do_convert_rgb": recipe.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": scaled[0]} if recipe.cover else {"height": scaled[0], "width": scaled[1]},
        "resample": METHODS.index(recipe.method),
        "do_center_crop": crops,
        **crop,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": per_channel(recipe.mean, recipe.channels),
        "image_std": per_channel(recipe.std, recipe.channels),
    }
