"""Vision Transformer weights from timm: plain ViTs, DeiT, DeiT III, CLIP's and SigLIP's image encoders, hybrids.

A bare state dict does not say how its model pools. Nor does it say which GELU it has, unless all models of timm with
such tensors have the same.
"""

from typing import Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.vit import VARIANTS, ViT
from vit_jax.pretrained import preprocessing
from vit_jax.pretrained.formats import dino, resnet, timm_models
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
    positions,
    same,
    shape,
)

_FINAL_NORMS = {"norm": "before_pool", "fc_norm": "after_pool"}


def _rules(model: ViT) -> list[Rule]:
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


def _architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    timm_models.check_tensors(tensors, config)
    hidden_dim, in_channels, *patch_size = shape(tensors, "patch_embed.proj.weight", 4)
    has_scales = "blocks.0.ls1.gamma" in tensors
    return {
        "num_classes": len(tensors["head.weight"]) if "head.weight" in tensors else None,
        "in_channels": in_channels,
        "patch_size": tuple(patch_size),
        "hidden_dim": hidden_dim,
        "mlp_dim": shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        "num_layers": count(tensors, r"blocks\.(\d+)\."),
        "distillation_token": "dist_token" in tensors,
        "num_registers": shape(tensors, "reg_token", 3)[1] if "reg_token" in tensors else 0,
        "pos_embed": "learned" if "pos_embed" in tensors else "none",
        "patch_bias": "patch_embed.proj.bias" in tensors,
        "stem_norm": "norm_pre.weight" in tensors,
        "final_norm": next((at for name, at in _FINAL_NORMS.items() if f"{name}.weight" in tensors), "none"),
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "layer_scale_init": (config.get("model_args") or {}).get("init_values") or 1e-5 if has_scales else None,
        **resnet.timm_fields(tensors),
        **timm_models.image_size(config),
        **(timm_models.said_by(config) if "architecture" in config else _said_by_tensors(tensors)),
    }


def _said_by_tensors(tensors: Tensors) -> dict[str, Any]:
    """Returns what timm's code sets in all models that have such tensors."""
    fields: dict[str, Any] = {}
    if "attn_pool.latent" in tensors or "dist_token" in tensors:
        fields["pool"] = "map" if "attn_pool.latent" in tensors else "cls"
    if "norm_pre.weight" not in tensors:  # CLIP: another epsilon, and either of two GELUs
        fields["norm_epsilon"] = timm_models.EPSILON
        if "cls_token" in tensors:  # SigLIP, SigLIP 2 and others without: either of two GELUs
            fields["gelu"] = "exact"
    return fields


def _with_class_token(fields: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Adds whether the class token is pooled, which depends on `pool`."""
    has_class_token, needs = "cls_token" in tensors, {"cls": "cls_token", "map": "attn_pool.latent"}
    needed = needs.get(fields["pool"])
    if needed is not None and needed not in tensors:
        raise UserError(f"pool is {fields['pool']!r}, but the file has no tensor {needed}")
    return {**fields, "unpooled_class_token": has_class_token and fields["pool"] != "cls"}


def _positions(tensors: Tensors) -> dict[int, dict[str, Any]]:
    if "pos_embed" not in tensors:
        return {}
    total = tensors["pos_embed"].shape[1]
    num_prefix = ("cls_token" in tensors) + ("dist_token" in tensors)
    num_prefix += tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    without = {} if "dist_token" in tensors or not num_prefix else {total: {"prefix_pos_embed": False}}
    return {total - num_prefix: {"prefix_pos_embed": True}, **without}


def _config(model: ViT) -> dict[str, Any]:
    if model.patch_bias == model.stem_norm:
        raise UserError(
            f"format 'timm' cannot hold patch_bias={model.patch_bias} with stem_norm={model.stem_norm}: timm's patch "
            "embedding has a bias exactly if no norm follows"
        )
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
        "class_token": model.has_class_token,
        "no_embed_class": not model.prefix_pos_embed,
        "reg_tokens": model.num_registers,
        "pre_norm": model.stem_norm,
        "final_norm": model.final_norm != "none",
        "fc_norm": model.final_norm == "after_pool",
        "global_pool": _THEIRS[model.pool],
        "act_layer": _THEIRS[model.gelu],
    }
    if model.pos_embed == "none":
        options["pos_embed"] = "none"
    height, width = model.image_size
    return {
        "architecture": _architecture_of(model),
        "num_classes": model.num_classes or 0,
        "pretrained_cfg": {"input_size": [model.in_channels, height, width]},  # timm ignores model_args without it
        "model_args": options,
    }


_THEIRS = {ours: theirs for theirs, ours in (timm_models.POOLS | timm_models.GELUS).items()}


def _architecture_of(model: ViT) -> str:
    """Returns the architecture of timm from which `model_args` make this model."""
    if model.resnet_stages is not None:
        return resnet.timm_model(model)
    if not model.distillation_token:
        return "vit_base_patch16_clip_224" if model.norm_epsilon == 1e-5 else "vit_base_patch16_224"
    for field, value in {"num_registers": 0, "prefix_pos_embed": True, "pos_embed": "learned"}.items():
        if getattr(model, field) != value:
            raise UserError(f"format 'timm' cannot hold {field}={getattr(model, field)!r} with a distillation token")
    return "deit_base_distilled_patch16_224"


TIMM = Format(
    name="timm",
    model=ViT,
    variants=VARIANTS,
    base="vit:B/16",
    recognise=lambda names, config: (
        {"blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= set(names)
        and "time_embed" not in names
        and not dino.is_authors(names, config)
    ),
    architecture=_architecture,
    rules=_rules,
    given=("image_size", "num_heads", "pool", "gelu", "norm_epsilon"),
    implied=timm_models.num_heads,
    complete=_with_class_token,
    positions=_positions,
    preprocessing=lambda image_size, config: preprocessing.from_timm(config, image_size),
    resample=dino.resample_bare,
    config=_config,
    container="folder",
)

FORMATS = (TIMM,)
