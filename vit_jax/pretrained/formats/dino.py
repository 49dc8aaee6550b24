"""Vision Transformer weights of DINOv2: Hugging Face's folders, and the authors' `.pth` files; read-only.

Both hold the same tensors under different names. The encoder's features are the class token after the last norm; heads
of transformers on top of class token and patches are not supported. Registers have no positions: theirs are zero here.

The authors' files of DINO have the names of timm's; `resample_bare` says how their positions are resampled.
"""

import re
from collections.abc import Collection
from typing import Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.vit import VARIANTS, ViT
from vit_jax.pretrained import hugging_face, image_processors, preprocessing
from vit_jax.pretrained.formats.vit_huggingface import encoder_rules
from vit_jax.pretrained.names import (
    Config,
    Format,
    Rule,
    Size,
    Tensors,
    absent,
    class_and_grid_positions,
    count,
    leading,
    listed,
    same,
    shape,
)

_MODELS = ("dinov2", "dinov2_with_registers")  # model_type in Hugging Face's config.json
_PATCHES = "embeddings.patch_embeddings.projection.weight"
_RENAMED = {  # to the names of Hugging Face's ViT
    r"^(dinov2|dinov2_with_registers)\.": "",
    r"^(cls_token|mask_token|register_tokens)$": r"embeddings.\1",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^norm\.": "layernorm.",
    r"^(?:blocks|encoder\.layer)\.(\d+)\.norm1\.": r"encoder.layer.\1.layernorm_before.",
    r"^(?:blocks|encoder\.layer)\.(\d+)\.norm2\.": r"encoder.layer.\1.layernorm_after.",
    r"^(?:blocks|encoder\.layer)\.(\d+)\.mlp\.fc1\.": r"encoder.layer.\1.intermediate.dense.",
    r"^(?:blocks|encoder\.layer)\.(\d+)\.mlp\.fc2\.": r"encoder.layer.\1.output.dense.",
    r"^blocks\.(\d+)\.attn\.proj\.": r"encoder.layer.\1.attention.output.dense.",
    r"^blocks\.(\d+)\.ls(\d)\.gamma$": r"encoder.layer.\1.layer_scale\2.lambda1",
    r"^encoder\.layer\.(\d+)\.attention\.q_proj\.": r"encoder.layer.\1.attention.attention.query.",
    r"^encoder\.layer\.(\d+)\.attention\.k_proj\.": r"encoder.layer.\1.attention.attention.key.",
    r"^encoder\.layer\.(\d+)\.attention\.v_proj\.": r"encoder.layer.\1.attention.attention.value.",
    r"^encoder\.layer\.(\d+)\.attention\.o_proj\.": r"encoder.layer.\1.attention.output.dense.",
}


def resample_bare(tensors: Tensors, config: Config) -> str:
    """Returns how positions are resampled that have timm's names.

    Without config and head, the file is taken for a self-supervised backbone: MAE's if the class token's position is
    zero, as its sine-cosine positions have it, otherwise DINO's or iBOT's, which share their code. Everything else is
    taken for timm's.
    """
    if config or "pos_embed" not in tensors or "cls_token" not in tensors or "head.weight" in tensors:
        return "bicubic"
    return "bicubic_dino" if np.any(tensors["pos_embed"][:, 0]) else "bicubic_plain"


def is_authors(names: Collection[str], config: Config) -> bool:
    """Returns whether a state dict without a config is of DINOv2's authors, whose names are nearly timm's."""
    return {"mask_token", "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma"} <= set(names) and not config


def _recognise(names: Collection[str], config: Config) -> bool:
    scales = any(re.search(r"encoder\.layer\.0\.layer_scale1\.lambda1$", name) for name in names)
    return is_authors(names, config) or (scales and config.get("model_type", "dinov2") in _MODELS)


def _normalise(tensors: Tensors) -> Tensors:
    """Gives the tensors the names of Hugging Face's ViT, and splits queries, keys and values."""
    renamed = {}
    for name, value in tensors.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name):
            parts = zip(("query", "key", "value"), np.split(value, 3), strict=True)
            names = f"encoder.layer.{match[1]}.attention.attention.{{}}.{match[2]}"
            renamed |= {names.format(part): x for part, x in parts}
            continue
        for pattern, replacement in _RENAMED.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def _rules(model: ViT) -> list[Rule]:
    rules = [
        *encoder_rules(model, ""),
        class_and_grid_positions("cls_pos", "pos_embed", "embeddings.position_embeddings", model.grid),
        leading("register_tokens", "embeddings.register_tokens", 1),
        absent("register_pos", (model.num_registers, model.hidden_dim)),
    ]
    for i in range(model.num_layers):
        for layer, theirs in (("attention_scale", "layer_scale1"), ("mlp_scale", "layer_scale2")):
            rules.append(same(f"encoder/block_{i}/{layer}/scale", f"encoder.layer.{i}.{theirs}.lambda1"))
    return rules


def _architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    if heads := sorted(name for name in tensors if name.startswith(("classifier.", "linear_head."))):
        raise UserError(f"the head {listed(heads)} joins the class token and the mean of the patches: not supported")
    if gated := sorted(
        name for name in tensors if re.search(r"\.mlp\.(w12|w3|weights_in|weights_out|gate_proj)\.", name)
    ):
        raise UserError(f"use_swiglu_ffn: MLPs with a gate ({listed(gated, 1)}) are not supported")
    hidden_dim, in_channels, *patch_size = shape(tensors, _PATCHES, 4)
    registers = tensors.get("embeddings.register_tokens")
    fields = {
        "num_classes": None,
        "in_channels": in_channels,
        "patch_size": tuple(patch_size),
        "hidden_dim": hidden_dim,
        "mlp_dim": shape(tensors, "encoder.layer.0.intermediate.dense.weight", 2)[0],
        "num_layers": count(tensors, r"encoder\.layer\.(\d+)\."),
        "pool": "cls",
        "num_registers": 0 if registers is None else registers.shape[1],
        "pos_embed": "learned",
        "qkv_bias": "encoder.layer.0.attention.attention.query.bias" in tensors,
        "layer_scale_init": config.get("layerscale_value") or 1.0,
        **hugging_face.common_fields(config, norm_epsilon=1e-6, hidden_dim=hidden_dim),
    }
    if config.get("use_swiglu_ffn"):
        raise hugging_face.refuse(config, "use_swiglu_ffn", "MLPs with a gate are not supported")
    said = config if "mlp_ratio" not in config else {**config, "mlp_ratio": int(hidden_dim * config["mlp_ratio"])}
    keys = {key: name for key, name in hugging_face.SHAPES.items() if key != "mlp_dim"}
    hugging_face.check_agreement(said, fields, {**keys, "mlp_dim": "mlp_ratio", "num_registers": "num_register_tokens"})
    return fields


def _positions(tensors: Tensors) -> dict[int, dict[str, Any]]:
    name = "embeddings.position_embeddings"
    return {tensors[name].shape[1] - 1: {}} if name in tensors else {}


def _preprocessing(image_size: Size, config: Config) -> str | None:
    """Returns what preprocessor_config.json says; for the authors' files, the chain of their evaluation."""
    if config:
        return image_processors.from_hugging_face(config, image_size)
    height, width = (round(side * 256 / 224) for side in image_size)
    return preprocessing.cropped((height, width), "bicubic", preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD)


def _resample(tensors: Tensors, config: Config) -> str:
    has_registers = "embeddings.register_tokens" in tensors
    return "bicubic" if has_registers else "bicubic_plain" if config else "bicubic_dino"


DINOV2 = Format(
    name="dinov2",
    model=ViT,
    variants=VARIANTS,
    base="vit:B/14",
    recognise=_recognise,
    architecture=_architecture,
    rules=_rules,
    given=("image_size", "num_heads"),
    positions=_positions,
    preprocessing=_preprocessing,
    resample=_resample,
    notes=hugging_face.notes,
    normalise=_normalise,
    ignored=r"embeddings\.mask_token",
)

FORMATS = (DINOV2,)
