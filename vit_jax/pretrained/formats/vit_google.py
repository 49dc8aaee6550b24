"""Vision Transformer weights from Google: vision_transformer (ViT, AugReg) and big_vision, both `.npz`.

Both imply the tanh GELU and layer norms with epsilon 1e-6. The arrays of their Linen layers are laid out as ours. A
file without a class token does not say how its model pools: google's `gap` and `unpooled`, and big_vision's `gap`,
`gmp` and `0`, have the same tensors.
"""

import re
from typing import Any

from vit_jax.errors import UserError
from vit_jax.models.vit import VARIANTS, ViT
from vit_jax.pretrained import preprocessing
from vit_jax.pretrained.formats import resnet
from vit_jax.pretrained.names import (
    MOST_LAYERS,
    Config,
    Format,
    Rule,
    Tensors,
    absent,
    count,
    flax_layer,
    grid_positions,
    leading,
    positions,
    shape,
)


def _linen_rules(model: ViT, names: dict[str, str]) -> list[Rule]:
    rules = [
        *flax_layer("patch_embed", "embedding"),
        leading("cls_token", "cls", 2),
        *flax_layer("norm", "Transformer/encoder_norm"),
        *flax_layer("representation", "pre_logits"),
        *flax_layer("head", "head"),
    ]
    for i in range(model.num_layers):
        ours, theirs = f"encoder/block_{i}", f"Transformer/encoderblock_{i}"
        rules += [
            *flax_layer(f"{ours}/attention_norm", f"{theirs}/LayerNorm_0"),
            *_linen_attention(f"{ours}/attention", f"{theirs}/{names['attention']}"),
            *flax_layer(f"{ours}/mlp_norm", f"{theirs}/{names['mlp_norm']}"),
            *_linen_mlp(f"{ours}/mlp", f"{theirs}/{names['mlp']}"),
        ]
    return rules


def _linen_attention(ours: str, theirs: str) -> list[Rule]:
    return [
        rule for part in ("query", "key", "value", "out") for rule in flax_layer(f"{ours}/{part}", f"{theirs}/{part}")
    ]


def _linen_mlp(ours: str, theirs: str) -> list[Rule]:
    return [*flax_layer(f"{ours}/in", f"{theirs}/Dense_0"), *flax_layer(f"{ours}/out", f"{theirs}/Dense_1")]


def _linen_architecture(tensors: Tensors, names: dict[str, str]) -> dict[str, Any]:
    first = "Transformer/encoderblock_0"
    height, width, in_channels, hidden_dim = shape(tensors, "embedding/kernel", 4)
    return {
        "num_classes": tensors["head/kernel"].shape[1] if "head/kernel" in tensors else None,
        "in_channels": in_channels,
        "patch_size": (height, width),
        "hidden_dim": hidden_dim,
        "mlp_dim": shape(tensors, f"{first}/{names['mlp']}/Dense_0/kernel", 2)[1],
        "num_layers": count(tensors, r"Transformer/encoderblock_(\d+)/"),
        "num_heads": shape(tensors, f"{first}/{names['attention']}/query/kernel", 3)[1],
        "representation_dim": tensors["pre_logits/kernel"].shape[1] if "pre_logits/kernel" in tensors else None,
        "qkv_bias": f"{first}/{names['attention']}/query/bias" in tensors,
        "gelu": "tanh",
        "norm_epsilon": 1e-6,
    }


# google-research/vision_transformer

_GOOGLE = {"attention": "MultiHeadDotProductAttention_1", "mlp_norm": "LayerNorm_2", "mlp": "MlpBlock_3"}
_GOOGLE_POSITIONS = "Transformer/posembed_input/pos_embedding"


def _google_rules(model: ViT) -> list[Rule]:
    return _linen_rules(model, _GOOGLE) + positions(model, _GOOGLE_POSITIONS) + resnet.google_rules(model)


def _google_architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    return {
        **_linen_architecture(tensors, _GOOGLE),
        **({"pool": "cls"} if "cls" in tensors else {}),
        "pos_embed": "learned" if _GOOGLE_POSITIONS in tensors else "none",
        **resnet.google_fields(tensors),
    }


def _google_positions(tensors: Tensors) -> dict[int, dict[str, Any]]:
    return {tensors[_GOOGLE_POSITIONS].shape[1] - ("cls" in tensors): {}} if _GOOGLE_POSITIONS in tensors else {}


def _without_prefix(tensors: Tensors) -> Tensors:
    """Removes the prefix under which training states store the parameters."""
    return {re.sub(r"^(opt/target/|params/)", "", name): value for name, value in tensors.items()}


GOOGLE = Format(
    name="npz",
    model=ViT,
    variants=VARIANTS,
    base="vit:B/16",
    recognise=lambda names, config: any(name.endswith("encoderblock_0/MlpBlock_3/Dense_0/kernel") for name in names),
    architecture=_google_architecture,
    rules=_google_rules,
    given=("image_size", "pool"),
    positions=_google_positions,
    preprocessing=lambda image_size, config: preprocessing.squashed("bilinear", 0.5, 0.5, antialias=False),
    resample="zoom",
    container="npz",
    normalise=lambda tensors: resnet.flat_group_norms(_without_prefix(tensors)),
)


# big_vision adds positions before it prepends the class token, which therefore has none. A file without a position
# table belongs to a model with sine-cosine positions

_BIG_VISION = {"attention": "MultiHeadDotProductAttention_0", "mlp_norm": "LayerNorm_1", "mlp": "MlpBlock_0"}


def _big_vision_rules(model: ViT) -> list[Rule]:
    return [
        *_linen_rules(model, _BIG_VISION),
        grid_positions("pos_embed", "pos_embedding", model.grid),
        absent("cls_pos", (model.hidden_dim,)),
        leading("pool/probe", "MAPHead_0/probe", 1),
        *_linen_attention("pool/attention", "MAPHead_0/MultiHeadDotProductAttention_0"),
        *flax_layer("pool/mlp_norm", "MAPHead_0/LayerNorm_0"),
        *_linen_mlp("pool/mlp", "MAPHead_0/MlpBlock_0"),
    ]


def _big_vision_architecture(tensors: Tensors, config: Config) -> dict[str, Any]:
    pool = "map" if "MAPHead_0/probe" in tensors else "cls" if "cls" in tensors else None
    return {
        **_linen_architecture(tensors, _BIG_VISION),
        **({} if pool is None else {"pool": pool}),
        "pos_embed": "learned" if "pos_embedding" in tensors else "sincos2d",
    }


def _normalise_big_vision(tensors: Tensors) -> Tensors:
    """Undoes the prefix, blocks stacked by `scan`, the old name of the positions and the old inlined MAP head."""
    tensors, stacked = _without_prefix(tensors), "Transformer/encoderblock/"
    unstacked = {}
    for name, value in tensors.items():
        if name.startswith(stacked):
            rest = name.removeprefix(stacked)
            if len(value) > MOST_LAYERS:
                raise UserError(f"tensor {name} stacks {len(value)} layers, more than {MOST_LAYERS}")
            unstacked |= {f"Transformer/encoderblock_{i}/{rest}": layer for i, layer in enumerate(value)}
        elif re.match(r"(probe|MlpBlock_0|MultiHeadDotProductAttention_0|LayerNorm_0)(/|$)", name):
            unstacked[f"MAPHead_0/{name}"] = value
        else:
            unstacked[re.sub(r"^Transformer/(posembed_input/)?pos_embedding$", "pos_embedding", name)] = value
    return unstacked


BIG_VISION = Format(
    name="big_vision",
    model=ViT,
    variants=VARIANTS,
    base="vit:B/16",
    recognise=lambda names, config: any(
        re.search(r"Transformer/encoderblock(_0)?/MlpBlock_0/Dense_0/kernel$", name) for name in names
    ),
    architecture=_big_vision_architecture,
    rules=_big_vision_rules,
    given=("image_size", "pool"),
    positions=lambda tensors: {tensors["pos_embedding"].shape[1]: {}} if "pos_embedding" in tensors else {},
    preprocessing=lambda image_size, config: preprocessing.big_vision(image_size),
    resample="zoom",
    container="npz",
    normalise=_normalise_big_vision,
)


FORMATS = (GOOGLE, BIG_VISION)
