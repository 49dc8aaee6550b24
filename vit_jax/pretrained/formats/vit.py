"""Vision Transformer weights from Hugging Face. timm's are in `vit_timm.py`, Google's in `vit_google.py`.

Each format implies what no tensor says: the kind of GELU, the epsilon of the norms, the preprocessing.
"""

import re
from typing import Any

from vit_jax.models.vit import VARIANTS, ViT
from vit_jax.pretrained import preprocessing
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
    read_gelu,
    shape,
    write_gelu,
)

# Hugging Face: ViTForImageClassification with a head, ViTModel without; ViTModel's pooler is our representation layer

_HUGGING_FACE_NAMES = {  # transformers 5 gives its modules other names than its files
    r"layers\.(\d+)\.attention\.q_proj": r"encoder.layer.\1.attention.attention.query",
    r"layers\.(\d+)\.attention\.k_proj": r"encoder.layer.\1.attention.attention.key",
    r"layers\.(\d+)\.attention\.v_proj": r"encoder.layer.\1.attention.attention.value",
    r"layers\.(\d+)\.attention\.o_proj": r"encoder.layer.\1.attention.output.dense",
    r"layers\.(\d+)\.mlp\.fc1": r"encoder.layer.\1.intermediate.dense",
    r"layers\.(\d+)\.mlp\.fc2": r"encoder.layer.\1.output.dense",
    r"layers\.(\d+)\.layernorm": r"encoder.layer.\1.layernorm",
}


def _hugging_face_rules(model: ViT) -> list[Rule]:
    heads, vit = model.num_heads, "" if model.num_classes is None else "vit."
    rules = [
        *conv("patch_embed", f"{vit}embeddings.patch_embeddings.projection"),
        leading("cls_token", f"{vit}embeddings.cls_token", 2),
        *positions(model, f"{vit}embeddings.position_embeddings"),
        *norm("norm", f"{vit}layernorm"),
        *([] if vit else linear("representation", "pooler.dense")),
        *linear("head", "classifier"),
    ]
    for i in range(model.num_layers):
        ours, theirs = f"encoder/block_{i}", f"{vit}encoder.layer.{i}"
        rules += [
            *norm(f"{ours}/attention_norm", f"{theirs}.layernorm_before"),
            *heads_out(f"{ours}/attention/out", f"{theirs}.attention.output.dense", heads),
            *norm(f"{ours}/mlp_norm", f"{theirs}.layernorm_after"),
            *linear(f"{ours}/mlp/in", f"{theirs}.intermediate.dense"),
            *linear(f"{ours}/mlp/out", f"{theirs}.output.dense"),
        ]
        for part in ("query", "key", "value"):
            rules += heads_in([f"{ours}/attention/{part}"], f"{theirs}.attention.attention.{part}", heads)
    return rules


def _hugging_face_architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    vit = "vit." if "classifier.weight" in tensors else ""
    hidden_dim, in_channels, *patch_size = shape(tensors, f"{vit}embeddings.patch_embeddings.projection.weight", 4)
    layer = f"{vit}encoder.layer"
    fields = {
        "num_classes": len(tensors["classifier.weight"]) if vit else None,
        "in_channels": in_channels,
        "patch_size": tuple(patch_size),
        "hidden_dim": hidden_dim,
        "mlp_dim": shape(tensors, f"{layer}.0.intermediate.dense.weight", 2)[0],
        "num_layers": count(tensors, rf"{re.escape(layer)}\.(\d+)\."),
        "pool": "cls",
        "pos_embed": "learned",
        "representation_dim": len(tensors["pooler.dense.weight"]) if "pooler.dense.weight" in tensors else None,
        "qkv_bias": f"{layer}.0.attention.attention.query.bias" in tensors,
        "gelu": read_gelu(config),
        "norm_epsilon": config.get("layer_norm_eps", 1e-12),
    }
    if "num_attention_heads" in config:
        fields["num_heads"] = config["num_attention_heads"]
    if size := config.get("image_size"):
        fields["image_size"] = pair(size)
    return fields


def _hugging_face_positions(tensors: Tensors) -> dict[int, dict[str, Any]]:
    positions = tensors.get(f"{'vit.' if 'classifier.weight' in tensors else ''}embeddings.position_embeddings")
    return {} if positions is None else {positions.shape[1] - 1: {}}


def _hugging_face_config(model: ViT) -> dict[str, Any]:
    pooler = {} if model.representation_dim is None else {"pooler_output_size": model.representation_dim}
    head = {} if model.num_classes is None else {"num_labels": model.num_classes}
    return {
        "model_type": "vit",
        "architectures": ["ViTModel" if model.num_classes is None else "ViTForImageClassification"],
        "image_size": list(model.image_size),
        "patch_size": list(model.patch_size),
        "num_channels": model.in_channels,
        "hidden_size": model.hidden_dim,
        "intermediate_size": model.mlp_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "qkv_bias": model.qkv_bias,
        "hidden_act": write_gelu(model.gelu),
        "layer_norm_eps": model.norm_epsilon,
        **pooler,
        **head,
    }


def _normalise_hugging_face(tensors: Tensors) -> Tensors:
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in _HUGGING_FACE_NAMES.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


HUGGING_FACE = Format(
    name="huggingface",
    model=ViT,
    variants=tuple(VARIANTS),
    base="vit:B/16",
    recognise=lambda names, config: (
        config.get("model_type", "vit") == "vit"  # TimesformerModel has the same embeddings
        and any(re.fullmatch(r"(vit\.)?embeddings\.patch_embeddings\.projection\.weight", name) for name in names)
    ),
    architecture=_hugging_face_architecture,
    rules=_hugging_face_rules,
    given=("image_size", "num_heads"),
    positions=_hugging_face_positions,
    preprocessing=lambda image_size, config: preprocessing.from_hugging_face(config, image_size),
    resample="bicubic_plain",
    config=_hugging_face_config,
    container="folder",
    normalise=_normalise_hugging_face,
    ignored=r"vit\.pooler\..*|(vit\.)?embeddings\.mask_token",
)

FORMATS = (HUGGING_FACE,)
