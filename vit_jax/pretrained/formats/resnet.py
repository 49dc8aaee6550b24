"""Weights of the ResNet stem of hybrid ViTs: rules for the tables in `vit.py` and `vit_google.py`.

Both formats have the same stem; timm computes it with other small constants (`ResNet.flavour`), implied by the format.
"""

import re
from typing import Any

from vit_jax.errors import UserError
from vit_jax.models.vit import ViT
from vit_jax.pretrained.names import Rule, Tensors, conv, count, flax_layer, norm

_BACKBONE = "patch_embed.backbone"
# the timm models with these stages; their other sizes are options
_TIMM_MODELS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_base_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}


def google_rules(model: ViT) -> list[Rule]:
    """Returns the rules for google-research/vision_transformer; none apply to a model that is not a hybrid."""
    rules = [*flax_layer("resnet/root_conv", "conv_root"), *flax_layer("resnet/root_norm", "gn_root")]
    for i, j, ours in _units(model):
        theirs = f"block{i + 1}/unit{j + 1}"
        for k in range(3):
            rules += flax_layer(f"{ours}/conv_{k}", f"{theirs}/conv{k + 1}")
            rules += flax_layer(f"{ours}/norm_{k}", f"{theirs}/gn{k + 1}")
        rules += flax_layer(f"{ours}/shortcut_conv", f"{theirs}/conv_proj")
        rules += flax_layer(f"{ours}/shortcut_norm", f"{theirs}/gn_proj")
    return rules


def google_fields(tensors: Tensors) -> dict[str, Any]:
    """Returns the fields of the stem that an `.npz` determines; none if the model is not a hybrid."""
    if "conv_root/kernel" not in tensors:
        return {}
    *_, in_channels, width = tensors["conv_root/kernel"].shape
    stages = count(tensors, r"block(\d+)/")
    units = tuple(count(tensors, rf"block{i}/unit(\d+)/") - 1 for i in range(1, stages))  # both numbers start at 1
    return {
        "in_channels": in_channels,
        "resnet_stages": units,
        "resnet_width": width,
        "resnet_flavour": "google",
    }


def flat_group_norms(tensors: Tensors) -> Tensors:
    """Flattens scales and biases of group norms, stored as (1, 1, 1, channels) in published files."""
    return {
        name: value.reshape(-1) if re.search(r"(^|/)gn(\d+|_root|_proj)/(scale|bias)$", name) else value
        for name, value in tensors.items()
    }


def timm_rules(model: ViT) -> list[Rule]:
    """Returns the rules for timm; none apply to a model that is not a hybrid."""
    stem = f"{_BACKBONE}.stem" if model.resnet_stages else _BACKBONE
    rules = [*conv("resnet/root_conv", f"{stem}.conv"), *norm("resnet/root_norm", f"{stem}.norm")]
    for i, j, ours in _units(model):
        theirs = f"{_BACKBONE}.stages.{i}.blocks.{j}"
        for k in range(3):
            rules += conv(f"{ours}/conv_{k}", f"{theirs}.conv{k + 1}")
            rules += norm(f"{ours}/norm_{k}", f"{theirs}.norm{k + 1}")
        rules += conv(f"{ours}/shortcut_conv", f"{theirs}.downsample.conv")
        rules += norm(f"{ours}/shortcut_norm", f"{theirs}.downsample.norm")
    return rules


def timm_fields(tensors: Tensors) -> dict[str, Any]:
    """Returns the fields of the stem that a state dict determines; none if the model is not a hybrid."""
    stages = count(tensors, rf"{re.escape(_BACKBONE)}\.stages\.(\d+)\.")
    root = f"{_BACKBONE}.stem.conv.weight" if stages else f"{_BACKBONE}.conv.weight"
    if root not in tensors:
        return {}
    width, in_channels, *_ = tensors[root].shape
    blocks = (rf"{re.escape(_BACKBONE)}\.stages\.{i}\.blocks\.(\d+)\." for i in range(stages))
    return {
        "in_channels": in_channels,
        "resnet_stages": tuple(count(tensors, block) for block in blocks),
        "resnet_width": width,
        "resnet_flavour": "timm",
    }


def timm_model(model: ViT) -> str:
    """Returns the name of the timm model with this stem.

    Raises:
      UserError: timm has no such model.
    """
    if model.resnet_stages not in _TIMM_MODELS or model.resnet_width != 64:
        raise UserError(
            f"timm has no hybrid with resnet_stages={model.resnet_stages}, resnet_width={model.resnet_width}; it has "
            f"stages {', '.join(map(str, _TIMM_MODELS))} with width 64"
        )
    return _TIMM_MODELS[model.resnet_stages]


def _units(model):
    return [
        (i, j, f"resnet/stage_{i}_unit_{j}") for i, units in enumerate(model.resnet_stages or ()) for j in range(units)
    ]
