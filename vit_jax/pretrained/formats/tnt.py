"""Transformer in Transformer weights: timm (`legacy=False`) and the authors' `.pth.tar` checkpoints.

Both hold the same tensors under different names. No tensor says how many heads there are. Nor does any say the size of
a patch: the number of words per patch is known, but not their stride in pixels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.blocks.tnt import word_grid
from vit_jax.models.tnt import TNT, VARIANTS
from vit_jax.pretrained import preprocessing
from vit_jax.pretrained.formats import timm_models
from vit_jax.pretrained.names import (
    Config,
    Format,
    Rule,
    Size,
    Tensors,
    class_and_grid_positions,
    conv,
    count,
    grid_positions,
    heads_in,
    heads_out,
    leading,
    linear,
    norm,
    pair,
    unused,
)

Names = Mapping[str, str]

BASE = "tnt:S/16"
GIVEN = ("image_size", "patch_size", "num_heads", "inner_num_heads")
CROP, MEAN, STD = 0.9, 0.5, 0.5


def _rules(model: TNT, names: Names) -> list[Rule]:
    """Returns the rules that both formats share: all but those for the positions of words."""
    rules = [
        *conv("patch_embed", names["patch_embed"]),
        *_projection("projection", "", names),
        leading("cls_token", "cls_token", 2),
        class_and_grid_positions("cls_pos", "pos_embed", names["pos_embed"], model.grid),
        *norm("norm", "norm"),
        *linear("head", "head"),
    ]
    for i in range(model.num_layers):
        ours, theirs = f"encoder/block_{i}", f"blocks.{i}."
        rules += _projection(f"{ours}/projection", theirs, names)
        for block, num_heads in (("inner", model.inner_num_heads), ("outer", model.num_heads)):
            part = {
                name: theirs + names[f"{block}/{name}"] for name in ("attention_norm", "attention", "mlp_norm", "mlp")
            }
            query, key, value = (f"{ours}/{block}/attention/{name}" for name in ("query", "key", "value"))
            rules += [
                *norm(f"{ours}/{block}/attention_norm", part["attention_norm"]),
                *heads_in([query, key], f"{part['attention']}.qk", num_heads),
                *heads_in([value], f"{part['attention']}.v", num_heads),
                *heads_out(f"{ours}/{block}/attention/out", f"{part['attention']}.proj", num_heads),
                *norm(f"{ours}/{block}/mlp_norm", part["mlp_norm"]),
                *linear(f"{ours}/{block}/mlp/in", f"{part['mlp']}.fc1"),
                *linear(f"{ours}/{block}/mlp/out", f"{part['mlp']}.fc2"),
            ]
    return rules


def _projection(ours: str, theirs: str, names: Names) -> list[Rule]:
    return [
        *norm(f"{ours}/norm_in", f"{theirs}{names['norm_in']}"),
        *linear(f"{ours}/dense", f"{theirs}proj"),
        *norm(f"{ours}/norm_out", f"{theirs}{names['norm_out']}"),
    ]


def _architecture(tensors: Tensors, names: Names) -> dict[str, Any]:
    inner_hidden_dim, in_channels = tensors[f"{names['patch_embed']}.weight"].shape[:2]
    hidden_dim, words = tensors["proj.weight"].shape
    num_layers = count(tensors, r"blocks\.(\d+)\.")
    tnt_layers = tuple(i for i in range(num_layers) if f"blocks.{i}.proj.weight" in tensors)
    fields = {
        "num_classes": len(tensors["head.weight"]) if "head.weight" in tensors else None,
        "in_channels": in_channels,
        "hidden_dim": hidden_dim,
        "mlp_dim": len(tensors[f"blocks.0.{names['outer/mlp']}.fc1.weight"]),
        "num_layers": num_layers,
        "inner_hidden_dim": inner_hidden_dim,
        "num_words": words // inner_hidden_dim,
        "tnt_layers": None if len(tnt_layers) == num_layers else tnt_layers,
        "pos_embed": "learned",
        "word_pos_embed": "learned",
        "squeeze_excitation": False,
        "gelu": "exact",
        "qkv_bias": f"blocks.0.{names['outer/attention']}.qk.bias" in tensors,
        "norm_epsilon": 1e-5,
    }
    if tnt_layers:
        fields["inner_mlp_dim"] = len(tensors[f"blocks.{tnt_layers[0]}.{names['inner/mlp']}.fc1.weight"])
    return fields


def _positions(tensors: Tensors, names: Names) -> dict[int, dict[str, Any]]:
    return {tensors[names["pos_embed"]].shape[1] - 1: {}} if names["pos_embed"] in tensors else {}


def _preprocessing(image_size: Size, config: Config) -> str:
    """Returns what config.json says; without one, the chain with which both codebases evaluate every TNT."""
    said = preprocessing.from_timm(config, image_size)
    return said or preprocessing.cropped(preprocessing.timm_size(image_size, CROP), "bicubic", MEAN, STD)


# timm

_TIMM = {
    "patch_embed": "pixel_embed.proj",
    "pos_embed": "patch_pos",
    "norm_in": "norm1_proj",
    "norm_out": "norm2_proj",
    "inner/attention_norm": "norm_in",
    "inner/attention": "attn_in",
    "inner/mlp_norm": "norm_mlp_in",
    "inner/mlp": "mlp_in",
    "outer/attention_norm": "norm_out",
    "outer/attention": "attn_out",
    "outer/mlp_norm": "norm_mlp",
    "outer/mlp": "mlp",
}


def _timm_rules(model: TNT) -> list[Rule]:
    words = Rule(
        ("word_pos",),
        ("pixel_pos",),
        lambda x: (x[0].transpose(1, 2, 0),),
        lambda x: (x.transpose(2, 0, 1)[None],),
    )
    return [*_rules(model, _TIMM), words]


def _timm_architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    if "blocks.0.proj.bias" in tensors:
        raise UserError("timm's tnt_s_legacy_patch16_224 computes another function than TNT and is not supported")
    fields = _architecture(tensors, _TIMM)
    # timm supports no others
    fields |= {"tnt_layers": None, "inner_mlp_dim": 4 * fields["inner_hidden_dim"]}
    architecture = config.get("architecture")
    if architecture is None:
        return fields
    if architecture not in _TIMM_VARIANTS:
        raise UserError(f"timm's {architecture!r} is not supported, of its TNTs only {', '.join(_TIMM_VARIANTS)}")
    options = timm_models.arguments(config, (*_OBEYED.values(), "global_pool", "first_stride", "norm_layer"), _SHOWN)
    pool = options.get("global_pool", timm_models.pretrained_cfg(config).get("global_pool") or "token")
    for key, value in (("global_pool", pool), ("global_pool", config.get("global_pool", "token"))):
        timm_models.choose(key, value, ("token",))
    timm_models.choose("norm_layer", options.get("norm_layer", ""), ("",))
    fields |= {"patch_size": (16, 16), **timm_models.image_size(config)}
    for field, option in _OBEYED.items():
        if option in options:
            fields[field] = pair(options[option]) if field == "patch_size" else options[option]
    stride = word_grid(fields["patch_size"], fields["num_words"])[0]
    timm_models.choose("first_stride", options.get("first_stride", 4), (stride,))
    return fields


_OBEYED = {"num_heads": "num_heads_outer", "inner_num_heads": "num_heads_inner", "patch_size": "patch_size"}
_SHOWN = ("embed_dim", "inner_dim", "depth", "mlp_ratio", "qkv_bias", "in_chans", "num_classes")
_TIMM_VARIANTS = {"tnt_s_patch16_224": "S", "tnt_b_patch16_224": "B"}


def _timm_implied(config: Config) -> dict[str, Any]:
    """Returns the numbers of heads that the name of timm's architecture implies."""
    if config.get("architecture") not in _TIMM_VARIANTS:
        return {}
    variant = VARIANTS[_TIMM_VARIANTS[config["architecture"]]]
    return {name: variant[name] for name in ("num_heads", "inner_num_heads")}


def _timm_config(model: TNT) -> dict[str, Any]:
    options = {
        "img_size": list(model.image_size),
        "patch_size": list(model.patch_size),
        "in_chans": model.in_channels,
        "embed_dim": model.hidden_dim,
        "inner_dim": model.inner_hidden_dim,
        "depth": model.num_layers,
        "num_heads_inner": model.inner_num_heads,
        "num_heads_outer": model.num_heads,
        "mlp_ratio": np.nextafter(model.mlp_dim / model.hidden_dim, np.inf),  # timm truncates the product of the two
        "qkv_bias": model.qkv_bias,
        "first_stride": word_grid(model.patch_size, model.num_words)[0],
    }
    height, width = model.image_size
    return {
        "architecture": "tnt_s_patch16_224",
        "num_classes": model.num_classes or 0,
        "pretrained_cfg": {"input_size": [model.in_channels, height, width]},  # timm ignores model_args without it
        "model_args": options,
    }


TIMM = Format(
    name="timm",
    model=TNT,
    variants=VARIANTS,
    base=BASE,
    recognise=lambda names, config: {"blocks.0.attn_out.qk.weight", "pixel_embed.proj.weight"} <= set(names),
    architecture=_timm_architecture,
    rules=_timm_rules,
    given=GIVEN,
    implied=_timm_implied,
    positions=lambda tensors: _positions(tensors, _TIMM),
    preprocessing=_preprocessing,
    resample="bicubic",
    config=_timm_config,
    container="folder",
)


# the authors' code, huawei-noah/Efficient-AI-Backbones

_AUTHORS = {
    "patch_embed": "patch_embed.proj",
    "pos_embed": "outer_pos",
    "norm_in": "proj_norm1",
    "norm_out": "proj_norm2",
    "inner/attention_norm": "inner_norm1",
    "inner/attention": "inner_attn",
    "inner/mlp_norm": "inner_norm2",
    "inner/mlp": "inner_mlp",
    "outer/attention_norm": "outer_norm1",
    "outer/attention": "outer_attn",
    "outer/mlp_norm": "outer_norm2",
    "outer/mlp": "outer_mlp",
}


def _authors_rules(model: TNT) -> list[Rule]:
    rules = [
        *_rules(model, _AUTHORS),
        grid_positions("word_pos", "inner_pos", word_grid(model.patch_size, model.num_words)[1]),
        unused("outer_tokens", (1, model.grid[0] * model.grid[1], model.hidden_dim)),
    ]
    for i in range(model.num_layers):
        ours, theirs = f"encoder/block_{i}/outer/mlp_gate", f"blocks.{i}.se_layer.fc"
        rules += [
            *norm(f"{ours}/norm", f"{theirs}.0"),
            *linear(f"{ours}/in", f"{theirs}.1"),
            *linear(f"{ours}/out", f"{theirs}.3"),
        ]
    return rules


def _authors_architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    is_excited = "blocks.0.se_layer.fc.0.weight" in tensors
    return {**_architecture(tensors, _AUTHORS), "squeeze_excitation": is_excited}


AUTHORS = Format(
    name="tnt",
    model=TNT,
    variants=VARIANTS,
    base=BASE,
    recognise=lambda names, config: {"blocks.0.outer_attn.qk.weight", "patch_embed.proj.weight"} <= set(names),
    architecture=_authors_architecture,
    rules=_authors_rules,
    given=GIVEN,
    positions=lambda tensors: _positions(tensors, _AUTHORS),
    preprocessing=_preprocessing,
    resample="bicubic",
)

FORMATS = (TIMM, AUTHORS)
