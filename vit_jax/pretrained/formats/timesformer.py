"""TimeSformer weights: Hugging Face folders, and the authors' `.pyth` checkpoints.

Both hold the same tensors under different names, for the three attention schemes in the authors' code. That code orders
tokens by row, column and frame, ours by frame, row and column; no parameter depends on the order.
"""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import UserError
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.vit import VARIANTS
from vit_jax.pretrained import hugging_face, image_processors, preprocessing
from vit_jax.pretrained.names import (
    Config,
    Format,
    Rule,
    Size,
    Tensors,
    class_and_grid_positions,
    conv,
    count,
    heads_in,
    heads_out,
    leading,
    linear,
    norm,
    shape,
)

Names = Mapping[str, str]  # of the layers; "block" is the prefix of those inside blocks, with {} for the block's number

BASE = "timesformer:B/16"
GIVEN = ("image_size", "num_frames", "num_heads")
MEAN, STD = 0.45, 0.225


def _rules(model: TimeSformer, names: Names) -> list[Rule]:
    """Returns the rules of both formats."""
    rules = [
        *conv("patch_embed", names["patch_embed"]),
        leading("cls_token", names["cls_token"], 2),
        class_and_grid_positions("cls_pos", "pos_embed", names["pos_embed"], model.grid),
        leading("time_embed", names["time_embed"], 1),
        *norm("norm", names["norm"]),
        *linear("head", names["head"]),
    ]
    for i in range(model.num_layers):
        ours, theirs = f"encoder/block_{i}", names["block"].format(i)
        for attention in ("temporal_attention", "attention"):
            parts = [f"{ours}/{attention}/{part}" for part in ("query", "key", "value")]
            rules += heads_in(parts, f"{theirs}.{names[f'{attention}/in']}", model.num_heads)
            rules += heads_out(f"{ours}/{attention}/out", f"{theirs}.{names[f'{attention}/out']}", model.num_heads)
        for layer in ("temporal_norm", "attention_norm", "mlp_norm"):
            rules += norm(f"{ours}/{layer}", f"{theirs}.{names[layer]}")
        for layer in ("temporal_out", "mlp/in", "mlp/out"):
            rules += linear(f"{ours}/{layer}", f"{theirs}.{names[layer]}")
    return rules


def _architecture(tensors: Tensors, names: Names) -> dict[str, Any]:
    hidden_dim, in_channels, *patch_size = shape(tensors, f"{names['patch_embed']}.weight", 4)
    block, head = names["block"].format(0), f"{names['head']}.weight"
    attention_type = "joint_space_time" if names["time_embed"] in tensors else "space_only"
    if f"{block}.{names['temporal_out']}.weight" in tensors:
        attention_type = "divided_space_time"
    fields = {
        "num_classes": len(tensors[head]) if head in tensors else None,
        "in_channels": in_channels,
        "patch_size": tuple(patch_size),
        "hidden_dim": hidden_dim,
        "mlp_dim": shape(tensors, f"{block}.{names['mlp/in']}.weight", 2)[0],
        "num_layers": count(tensors, re.escape(names["block"]).replace(r"\{\}", r"(\d+)")),
        "attention_type": attention_type,
        "divided_order": "time_first",
        "pos_embed": "space_time",
        "cls_in_temporal_attention": False,
        "qkv_bias": f"{block}.{names['attention/in']}.bias" in tensors,
        "gelu": "exact",
        "norm_epsilon": 1e-6,
    }
    if names["time_embed"] in tensors:
        fields["num_frames"] = shape(tensors, names["time_embed"], 3)[1]
    return fields


def _positions(tensors: Tensors, names: Names) -> dict[int, dict[str, Any]]:
    return {tensors[names["pos_embed"]].shape[1] - 1: {}} if names["pos_embed"] in tensors else {}


def _preprocessing(image_size: Size, config: Config) -> str:
    """Returns what the preprocessor files say; without them, the chain of the published evaluation.

    The published accuracies average three crops, taken after resizing the shorter side to the size of the crop; this is
    the middle crop. To evaluate a single crop of 224 pixels, the authors' code resizes the shorter side to 256.
    """
    said = image_processors.from_hugging_face({"model_type": "timesformer", **config}, image_size)
    return said or preprocessing.cropped(image_size, "bilinear", MEAN, STD, antialias=False)


# The authors' code, facebookresearch/TimeSformer. Names in a checkpoint's `model_state` start with "model."

_AUTHORS = {
    "patch_embed": "patch_embed.proj",
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "time_embed": "time_embed",
    "norm": "norm",
    "head": "head",
    "block": "blocks.{}",
    "temporal_norm": "temporal_norm1",
    "temporal_attention/in": "temporal_attn.qkv",
    "temporal_attention/out": "temporal_attn.proj",
    "temporal_out": "temporal_fc",
    "attention_norm": "norm1",
    "attention/in": "attn.qkv",
    "attention/out": "attn.proj",
    "mlp_norm": "norm2",
    "mlp/in": "mlp.fc1",
    "mlp/out": "mlp.fc2",
}

AUTHORS = Format(
    name="timesformer",
    model=TimeSformer,
    variants=VARIANTS,
    base=BASE,
    recognise=lambda names, config: any(
        re.fullmatch(r"(model\.)?time_embed|model\.blocks\.0\.attn\.qkv\.weight", name) for name in names
    ),  # for `space_only`, the tensors are a ViT's
    architecture=lambda tensors, config: _architecture(tensors, _AUTHORS),
    rules=lambda model: _rules(model, _AUTHORS),
    given=GIVEN,
    positions=lambda tensors: _positions(tensors, _AUTHORS),
    preprocessing=_preprocessing,
    resample="nearest",
    wrapper="model.",
)


# Hugging Face: TimesformerForVideoClassification with a head, TimesformerModel without. For `space_only`, transformers
# does not average over frames: its logits are our `frame_logits`


def _hugging_face_names(has_head: bool) -> Names:
    model = "timesformer." if has_head else ""
    return {
        "patch_embed": f"{model}embeddings.patch_embeddings.projection",
        "cls_token": f"{model}embeddings.cls_token",
        "pos_embed": f"{model}embeddings.position_embeddings",
        "time_embed": f"{model}embeddings.time_embeddings",
        "norm": f"{model}layernorm",
        "head": "classifier",
        "block": f"{model}encoder.layer.{{}}",
        "temporal_norm": "temporal_layernorm",
        "temporal_attention/in": "temporal_attention.attention.qkv",
        "temporal_attention/out": "temporal_attention.output.dense",
        "temporal_out": "temporal_dense",
        "attention_norm": "layernorm_before",
        "attention/in": "attention.attention.qkv",
        "attention/out": "attention.output.dense",
        "mlp_norm": "layernorm_after",
        "mlp/in": "intermediate.dense",
        "mlp/out": "output.dense",
    }


def _hugging_face_architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    fields = _architecture(tensors, _hugging_face_names("classifier.weight" in tensors))
    fields |= hugging_face.common_fields(config, norm_epsilon=1e-6, hidden_dim=fields["hidden_dim"])
    if "num_frames" in config:
        fields.setdefault("num_frames", config["num_frames"])
    agree = {**hugging_face.SHAPES, "attention_type": "attention_type", "num_frames": "num_frames"}
    hugging_face.check_agreement(config, fields, {field: key for field, key in agree.items() if field in fields})
    return fields


def _hugging_face_config(model: TimeSformer) -> dict[str, Any]:
    for field, (height, width) in (("image_size", model.image_size), ("patch_size", model.patch_size)):
        if height != width:
            raise UserError(f"format 'huggingface' cannot hold {field}={(height, width)}: it supports only squares")
    head = {} if model.num_classes is None else {"num_labels": model.num_classes}
    return {
        "model_type": "timesformer",
        "architectures": ["TimesformerModel" if model.num_classes is None else "TimesformerForVideoClassification"],
        "image_size": model.image_size[0],
        "patch_size": model.patch_size[0],
        "num_channels": model.in_channels,
        "num_frames": model.num_frames,
        "hidden_size": model.hidden_dim,
        "intermediate_size": model.mlp_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "qkv_bias": model.qkv_bias,
        "hidden_act": hugging_face.write_gelu(model.gelu),
        "layer_norm_eps": model.norm_epsilon,
        "attention_type": model.attention_type,
        **head,
    }


HUGGING_FACE = Format(
    name="huggingface",
    model=TimeSformer,
    variants=VARIANTS,
    base=BASE,
    recognise=lambda names, config: (
        config.get("model_type", "timesformer") == "timesformer"
        and any(re.fullmatch(r"(timesformer\.)?encoder\.layer\.0\.attention\.attention\.qkv\.weight", x) for x in names)
    ),
    architecture=_hugging_face_architecture,
    rules=lambda model: _rules(model, _hugging_face_names(model.num_classes is not None)),
    given=GIVEN,
    positions=lambda tensors: _positions(tensors, _hugging_face_names("classifier.weight" in tensors)),
    preprocessing=_preprocessing,
    resample="nearest",
    notes=hugging_face.notes,
    config=_hugging_face_config,
    container="folder",
)

FORMATS = (HUGGING_FACE, AUTHORS)
