"""Vision Transformer weights from Hugging Face: ViT, DeiT, I-JEPA, and the encoder of ViTMAE and ViTMSN.

A folder of ViT, ViTMAE or ViTMSN has a head (`ViTForImageClassification`) or none (`ViTModel`, whose pooler is our
representation layer). DeiT has a distillation token too: with two heads the model predicts their mean
(`DeiTForImageClassificationWithTeacher`); otherwise the token takes part in the attention only, and is a register here.
I-JEPA has no class token, and classifies the mean of the patches (`IJepaForImageClassification`): our `pool="gap"`.
"""

import re
from typing import Any

from vit_jax.errors import UserError
from vit_jax.models.vit import VARIANTS, ViT
from vit_jax.pretrained import hugging_face, image_processors
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
    shape,
)

_EPSILONS = {
    "vit": 1e-12,
    "deit": 1e-12,
    "vit_mae": 1e-12,
    "vit_msn": 1e-6,
    "ijepa": 1e-12,
}  # layer_norm_eps if it is missing
_RENAMED = {  # transformers 5 gives its modules other names than its files
    r"layers\.(\d+)\.attention\.q_proj": r"encoder.layer.\1.attention.attention.query",
    r"layers\.(\d+)\.attention\.k_proj": r"encoder.layer.\1.attention.attention.key",
    r"layers\.(\d+)\.attention\.v_proj": r"encoder.layer.\1.attention.attention.value",
    r"layers\.(\d+)\.attention\.o_proj": r"encoder.layer.\1.attention.output.dense",
    r"layers\.(\d+)\.mlp\.fc1": r"encoder.layer.\1.intermediate.dense",
    r"layers\.(\d+)\.mlp\.fc2": r"encoder.layer.\1.output.dense",
    r"layers\.(\d+)\.layernorm": r"encoder.layer.\1.layernorm",
}
_PATCHES = "embeddings.patch_embeddings.projection.weight"


def _rules(model: ViT) -> list[Rule]:
    kind = _kind(model)
    vit = "" if model.num_classes is None else f"{kind.lower()}."
    return [
        *encoder_rules(model, vit),
        *positions(model, f"{vit}embeddings.position_embeddings"),
        leading("distillation_token", f"{vit}embeddings.distillation_token", 2),
        leading("register_tokens", f"{vit}embeddings.distillation_token", 1),
        *([] if vit or kind == "IJepa" else linear("representation", "pooler.dense")),
        *linear("head", "cls_classifier" if model.distillation_token else "classifier"),
        *linear("distillation_head", "distillation_classifier"),
    ]


def _kind(model: ViT) -> str:
    """Returns the prefix of the names of the classes that compute with a model's tokens."""
    if model.distillation_token or model.num_registers:
        return "DeiT"
    return "ViT" if model.has_class_token or model.pool != "gap" else "IJepa"


def encoder_rules(model: ViT, vit: str) -> list[Rule]:
    """Returns the rules for what all models share except positions, given the prefix of its names."""
    heads = model.num_heads
    rules = [
        *conv("patch_embed", f"{vit}embeddings.patch_embeddings.projection"),
        leading("cls_token", f"{vit}embeddings.cls_token", 2),
        *norm("norm", f"{vit}layernorm"),
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


def _prefix(tensors: Tensors) -> str:
    """Returns the name of the module that holds all layers but the head; "" for a model without a head."""
    return next((name.removesuffix(_PATCHES) for name in tensors if name.endswith(_PATCHES)), "")


def _architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    vit = _prefix(tensors)
    hidden_dim, in_channels, *patch_size = shape(tensors, f"{vit}{_PATCHES}", 4)
    layer, head = f"{vit}encoder.layer", next((x for x in tensors if x.endswith("classifier.weight")), None)
    has_teacher = "distillation_classifier.weight" in tensors
    model_type = config.get("model_type", "vit")
    fields = {
        "num_classes": len(tensors[head]) if head else None,
        "in_channels": in_channels,
        "patch_size": tuple(patch_size),
        "hidden_dim": hidden_dim,
        "mlp_dim": shape(tensors, f"{layer}.0.intermediate.dense.weight", 2)[0],
        "num_layers": count(tensors, rf"{re.escape(layer)}\.(\d+)\."),
        "pool": "gap" if model_type == "ijepa" else "cls",
        "distillation_token": has_teacher,
        "num_registers": int(f"{vit}embeddings.distillation_token" in tensors and not has_teacher),
        "pos_embed": "learned",
        "representation_dim": len(tensors["pooler.dense.weight"]) if "pooler.dense.weight" in tensors else None,
        "qkv_bias": f"{layer}.0.attention.attention.query.bias" in tensors,
        **hugging_face.common_fields(config, norm_epsilon=_EPSILONS.get(model_type, 1e-12), hidden_dim=hidden_dim),
    }
    hugging_face.check_agreement(config, fields, hugging_face.SHAPES)
    if fields["representation_dim"]:
        hugging_face.check_agreement(config, fields, {"representation_dim": "pooler_output_size"})
        if config.get("pooler_act", "tanh") != "tanh":
            raise hugging_face.refuse(config, "pooler_act", "only tanh is supported in the representation layer")
    return fields


def _positions(tensors: Tensors) -> dict[int, dict[str, Any]]:
    vit = _prefix(tensors)
    embeddings = tensors.get(f"{vit}embeddings.position_embeddings")
    others = sum(f"{vit}embeddings.{token}" in tensors for token in ("cls_token", "distillation_token"))
    return {} if embeddings is None else {embeddings.shape[1] - others: {}}


def _notes(tensors: Tensors, config: Config) -> tuple[str, ...]:
    masked = "the encoder sees all patches: mask_ratio belongs to pre-training"
    return (*hugging_face.notes(tensors, config), *[masked] * (config.get("model_type") == "vit_mae"))


def _config(model: ViT) -> dict[str, Any]:
    if model.num_registers > 1 or (model.num_registers and model.distillation_token):
        raise UserError(f"format 'huggingface' cannot hold num_registers={model.num_registers} for a ViT")
    kind = _kind(model)
    teacher = "WithTeacher" if model.distillation_token else ""
    name = "Model" if model.num_classes is None else f"ForImageClassification{teacher}"
    pooler = {} if model.representation_dim is None else {"pooler_output_size": model.representation_dim}
    head = {} if model.num_classes is None else {"num_labels": model.num_classes}
    return {
        "model_type": kind.lower(),
        "architectures": [f"{kind}{name}"],
        "image_size": list(model.image_size),
        "patch_size": list(model.patch_size),
        "num_channels": model.in_channels,
        "hidden_size": model.hidden_dim,
        "intermediate_size": model.mlp_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "qkv_bias": model.qkv_bias,
        "hidden_act": hugging_face.write_gelu(model.gelu),
        "layer_norm_eps": model.norm_epsilon,
        **pooler,
        **head,
    }


def _normalise(tensors: Tensors) -> Tensors:
    """Gives every file the names of the version that has the head of this one."""
    renamed = {}
    prefix = _prefix(tensors)
    is_headless = not any(name.endswith("classifier.weight") for name in tensors)
    for name, value in tensors.items():
        for pattern, replacement in _RENAMED.items():
            name = re.sub(pattern, replacement, name)
        if name.startswith("encoder.") and not is_headless:
            name = prefix + name  # transformers 5 leaves the prefix out for ViTMSN
        renamed[name.removeprefix(prefix) if is_headless else name] = value
    return renamed


HUGGING_FACE = Format(
    name="huggingface",
    model=ViT,
    variants=VARIANTS,
    base="vit:B/16",
    recognise=lambda names, config: (
        config.get("model_type", "vit") in _EPSILONS  # TimesformerModel has the same embeddings
        and any(re.fullmatch(rf"((vit|deit|ijepa)\.)?{re.escape(_PATCHES)}", name) for name in names)
    ),
    architecture=_architecture,
    rules=_rules,
    given=("image_size", "num_heads"),
    positions=_positions,
    preprocessing=lambda image_size, config: image_processors.from_hugging_face(config, image_size),
    resample="bicubic_plain",
    notes=_notes,
    config=_config,
    container="folder",
    normalise=_normalise,
    ignored=r"(vit|deit|ijepa)\.pooler\..*|((vit|deit|ijepa)\.)?embeddings\.mask_token|decoder\..*",
)

FORMATS = (HUGGING_FACE,)
