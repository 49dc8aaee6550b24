"""Vision Transformer weights from timm: ViT and DeiT.

Each format implies what no tensor says: the kind of GELU, the epsilon of the norms, the preprocessing.
"""

import re
from typing import Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.vit import VARIANTS, ViT
from vit_jax.pretrained import preprocessing
from vit_jax.pretrained.formats import dino, resnet
from vit_jax.pretrained.names import (
    Config,
    Format,
    Rule,
    Tensors,
    conv,
    count,
    heads_in,
    heads_out,
    leading,
    linear,
    norm,
    pair,
    positions,
    same,
    shape,
)

# timm: ViT, and DeiT without distillation

_SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}


def _timm_rules(model: ViT) -> list[Rule]:
    heads = model.num_heads
    rules = [
        *conv("patch_embed", "patch_embed.proj"),
        leading("cls_token", "cls_token", 2),
        leading("distillation_token", "dist_token", 2),
        leading("register_tokens", "reg_token", 1),
        *positions(model, "pos_embed"),
        *norm("stem_norm", "norm_pre"),
        *norm("norm", "fc_norm" if model.final_norm == "after_pool" else "norm"),
        leading("pool/probe", "attn_pool.latent", 1),
        *heads_in(["pool/attention/query"], "attn_pool.q", heads),
        *heads_in(["pool/attention/key", "pool/attention/value"], "attn_pool.kv", heads),
        *heads_out("pool/attention/out", "attn_pool.proj", heads),
        *norm("pool/mlp_norm", "attn_pool.norm"),
        *linear("pool/mlp/in", "attn_pool.mlp.fc1"),
        *linear("pool/mlp/out", "attn_pool.mlp.fc2"),
        *linear("head", "head"),
        *linear("distillation_head", "head_dist"),
        *resnet.timm_rules(model),
    ]
    for i in range(model.num_layers):
        ours, theirs = f"encoder/block_{i}", f"blocks.{i}"
        rules += [
            *norm(f"{ours}/attention_norm", f"{theirs}.norm1"),
            *heads_in([f"{ours}/attention/{part}" for part in ("query", "key", "value")], f"{theirs}.attn.qkv", heads),
            *heads_out(f"{ours}/attention/out", f"{theirs}.attn.proj", heads),
            same(f"{ours}/attention_scale/scale", f"{theirs}.ls1.gamma"),
            *norm(f"{ours}/mlp_norm", f"{theirs}.norm2"),
            *linear(f"{ours}/mlp/in", f"{theirs}.mlp.fc1"),
            *linear(f"{ours}/mlp/out", f"{theirs}.mlp.fc2"),
            same(f"{ours}/mlp_scale/scale", f"{theirs}.ls2.gamma"),
        ]
    return rules


def _timm_architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    hidden_dim, in_channels, *patch_size = shape(tensors, "patch_embed.proj.weight", 4)
    options = config.get("model_args") or {}
    pool = options.get("global_pool") or config.get("global_pool") or "token"
    if "cls_token" in tensors and pool != "token":
        raise UserError(f"global_pool {pool!r} is not supported for a model with a class token")
    fields = {
        "num_classes": len(tensors["head.weight"]) if "head.weight" in tensors else None,
        "in_channels": in_channels,
        "patch_size": tuple(patch_size),
        "hidden_dim": hidden_dim,
        "mlp_dim": shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        "num_layers": count(tensors, r"blocks\.(\d+)\."),
        "pool": "map" if "attn_pool.latent" in tensors else "cls" if "cls_token" in tensors else "gap",
        "pos_embed": "learned" if "pos_embed" in tensors else "none",
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "layer_scale_init": options.get("init_values") or 1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        "gelu": "tanh" if options.get("act_layer") == "gelu_tanh" else "exact",
        "norm_epsilon": 1e-6,
        **resnet.timm_fields(tensors),
    }
    if num_heads := options.get("num_heads") or _timm_heads(config.get("architecture", ""), hidden_dim):
        fields["num_heads"] = num_heads
    size = options.get("img_size") or (config.get("pretrained_cfg") or {}).get("input_size", [])[1:]
    if size:
        fields["image_size"] = pair(size)
    return fields


def _timm_heads(architecture: str, hidden_dim: int) -> int | None:
    """Returns the number of heads that timm's name for a model implies, such as vit_base_patch16_224."""
    match = re.match(rf"(?:vit|deit)_({'|'.join(_SIZES)})_", architecture)
    variant = VARIANTS[_SIZES[match[1]]] if match else {}
    return variant["num_heads"] if variant.get("hidden_dim") == hidden_dim else None


def _timm_positions(tensors: Tensors) -> int | None:
    return tensors["pos_embed"].shape[1] - ("cls_token" in tensors) if "pos_embed" in tensors else None


def _timm_config(model: ViT) -> dict[str, Any]:
    options = {
        "img_size": list(model.image_size),
        "patch_size": list(model.patch_size),
        "in_chans": model.in_channels,
        "embed_dim": model.hidden_dim,
        "depth": model.num_layers,
        "num_heads": model.num_heads,
        "mlp_ratio": np.nextafter(model.mlp_dim / model.hidden_dim, np.inf),  # timm truncates the product of the two
        "qkv_bias": model.qkv_bias,
        "init_values": model.layer_scale_init,
        "class_token": model.pool == "cls",
        "global_pool": {"cls": "token", "gap": "avg", "map": "map"}[model.pool],
        "fc_norm": False,
        "act_layer": {"tanh": "gelu_tanh", "exact": "gelu"}[model.gelu],
    }
    if model.pos_embed == "none":
        options["pos_embed"] = "none"
    height, width = model.image_size
    return {
        "architecture": "vit_base_patch16_224" if model.resnet_stages is None else resnet.timm_model(model),
        "num_classes": model.num_classes or 0,
        "pretrained_cfg": {"input_size": [model.in_channels, height, width]},  # timm ignores model_args without it
        "model_args": options,
    }


TIMM = Format(
    name="timm",
    model=ViT,
    variants=tuple(VARIANTS),
    base="vit:B/16",
    recognise=lambda names, config: (
        {"blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= set(names)
        and "time_embed" not in names
        and ("mask_token" not in names or bool(config))  # without a config, DINOv2's
    ),
    architecture=_timm_architecture,
    rules=_timm_rules,
    given=("image_size", "num_heads"),
    positions=_timm_positions,
    preprocessing=lambda image_size, config: preprocessing.from_timm(config, image_size),
    resample=dino.resample_bare,
    config=_timm_config,
    container="folder",
)


FORMATS = (TIMM,)
