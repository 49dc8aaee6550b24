"""What timm's code sets, and neither the tensors of a model nor its `config.json` say.

A folder of timm names an architecture, `vit_base_patch16_siglip_256`, whose code chooses the arguments of the module,
and lists the arguments that were given besides (`model_args`). Most arguments show in the tensors. The others are read
here: obeyed, or refused by name. An architecture is known if it is listed in `_NUM_HEADS`, which holds every plain ViT,
DeiT and hybrid of timm 1.0.31 that `ViT` can compute; `tests/pretrained/peers/test_timm_sweep.py` compares each of
them with timm.
"""

import re
from collections.abc import Collection
from typing import Any

from vit_jax.errors import UserError
from vit_jax.pretrained.names import Config, Tensors, pair

_NUM_HEADS = {  # by architecture, since no tensor says it
    name: num_heads
    for num_heads, names in {
        2: "test_vit test_vit2",
        3: """
            deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 vit_tiny_patch16_224 vit_tiny_patch16_384
            vit_tiny_r_s16_p8_224 vit_tiny_r_s16_p8_384""",
        4: "vit_wee_patch16_reg1_gap_256 vit_xsmall_patch16_clip_224",
        5: "vit_little_patch16_reg1_gap_256 vit_little_patch16_reg4_gap_256",
        6: """
            deit3_small_patch16_224 deit3_small_patch16_384 deit_small_distilled_patch16_224 deit_small_patch16_224
            flexivit_small vit_small_patch8_224 vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2
            vit_small_patch16_36x1_224 vit_small_patch16_224 vit_small_patch16_384 vit_small_patch32_224
            vit_small_patch32_384 vit_small_r26_s32_224 vit_small_r26_s32_384""",
        8: """
            deit3_medium_patch16_224 vit_medium_patch16_clip_224 vit_medium_patch16_gap_240 vit_medium_patch16_gap_256
            vit_medium_patch16_gap_384 vit_medium_patch16_reg1_gap_256 vit_medium_patch16_reg4_gap_256
            vit_medium_patch32_clip_224 vit_mediumd_patch16_reg4_gap_256 vit_mediumd_patch16_reg4_gap_384""",
        10: """
            vit_betwixt_patch16_gap_256 vit_betwixt_patch16_reg1_gap_256 vit_betwixt_patch16_reg4_gap_256
            vit_betwixt_patch16_reg4_gap_384 vit_betwixt_patch32_clip_224""",
        12: """
            deit3_base_patch16_224 deit3_base_patch16_384 deit_base_distilled_patch16_224
            deit_base_distilled_patch16_384 deit_base_patch16_224 deit_base_patch16_384 flexivit_base
            vit_base_patch8_224 vit_base_patch14_dinov2 vit_base_patch14_reg1_tipsv2 vit_base_patch14_reg4_dinov2
            vit_base_patch16_224 vit_base_patch16_224_miil vit_base_patch16_384 vit_base_patch16_clip_224
            vit_base_patch16_clip_384 vit_base_patch16_clip_quickgelu_224 vit_base_patch16_radio_v3
            vit_base_patch16_reg4_gap_256 vit_base_patch16_siglip_224 vit_base_patch16_siglip_256
            vit_base_patch16_siglip_384 vit_base_patch16_siglip_512 vit_base_patch16_siglip_gap_224
            vit_base_patch16_siglip_gap_256 vit_base_patch16_siglip_gap_384 vit_base_patch16_siglip_gap_512
            vit_base_patch32_224 vit_base_patch32_384 vit_base_patch32_clip_224 vit_base_patch32_clip_256
            vit_base_patch32_clip_384 vit_base_patch32_clip_448 vit_base_patch32_clip_quickgelu_224
            vit_base_patch32_siglip_256 vit_base_patch32_siglip_gap_256 vit_base_r26_s32_224 vit_base_r50_s16_224
            vit_base_r50_s16_384""",
        13: "vit_so150m2_patch16_reg1_gap_256 vit_so150m2_patch16_reg1_gap_384 vit_so150m2_patch16_reg1_gap_448",
        14: """
            vit_base_patch16_plus_240 vit_base_patch16_plus_clip_240 vit_base_patch32_plus_256
            vit_so150m_patch16_reg4_gap_256 vit_so150m_patch16_reg4_gap_384 vit_so150m_patch16_reg4_map_256""",
        16: """
            deit3_huge_patch14_224 deit3_large_patch16_224 deit3_large_patch16_384 eva_large_patch14_196
            eva_large_patch14_336 flexivit_large vit_base_patch16_gap_224 vit_giant_patch14_224
            vit_giant_patch14_clip_224 vit_giant_patch16_gap_224 vit_giantopt_patch16_siglip_256
            vit_giantopt_patch16_siglip_384 vit_giantopt_patch16_siglip_gap_256 vit_giantopt_patch16_siglip_gap_384
            vit_gigantic_patch14_224 vit_gigantic_patch14_clip_224 vit_gigantic_patch14_clip_378
            vit_gigantic_patch14_clip_quickgelu_224 vit_huge_patch14_224 vit_huge_patch14_clip_224
            vit_huge_patch14_clip_336 vit_huge_patch14_clip_378 vit_huge_patch14_clip_quickgelu_224
            vit_huge_patch14_clip_quickgelu_378 vit_huge_patch14_gap_224 vit_huge_patch16_gap_448
            vit_huge_patch16_radio_v3 vit_huge_patch16_radio_v4 vit_intern300m_patch14_448 vit_large_patch14_224
            vit_large_patch14_clip_224 vit_large_patch14_clip_336 vit_large_patch14_clip_quickgelu_224
            vit_large_patch14_clip_quickgelu_336 vit_large_patch14_dinov2 vit_large_patch14_reg1_tipsv2
            vit_large_patch14_reg4_dinov2 vit_large_patch16_224 vit_large_patch16_384 vit_large_patch16_radio_v3
            vit_large_patch16_siglip_256 vit_large_patch16_siglip_384 vit_large_patch16_siglip_512
            vit_large_patch16_siglip_gap_256 vit_large_patch16_siglip_gap_384 vit_large_patch16_siglip_gap_512
            vit_large_patch32_224 vit_large_patch32_384 vit_large_r50_s32_224 vit_large_r50_s32_384
            vit_so400m_patch14_reg1_tipsv2 vit_so400m_patch14_siglip_224 vit_so400m_patch14_siglip_378
            vit_so400m_patch14_siglip_384 vit_so400m_patch14_siglip_gap_224 vit_so400m_patch14_siglip_gap_378
            vit_so400m_patch14_siglip_gap_384 vit_so400m_patch14_siglip_gap_448 vit_so400m_patch14_siglip_gap_896
            vit_so400m_patch16_radio_v4 vit_so400m_patch16_siglip_256 vit_so400m_patch16_siglip_384
            vit_so400m_patch16_siglip_512 vit_so400m_patch16_siglip_gap_256 vit_so400m_patch16_siglip_gap_384
            vit_so400m_patch16_siglip_gap_512""",
        24: "vit_giant_patch16_radio_v3",
    }.items()
    for name in names.split()
}
# what the code of an architecture sets if its name matches; otherwise timm's defaults hold
_SIGLIP2 = r"vit_(so400m|giantopt)_patch16_siglip_.*|vit_base_patch32_siglip_.*|vit_large_patch16_siglip_(gap_)?512"
_ACTIVATIONS = {r".*_quickgelu_.*": "quick_gelu", _SIGLIP2: "gelu_tanh"}
_POOLS = {r".*_gap_.*|eva_large_.*|test_vit2": "avg", r".*_(siglip|map)_.*": "map"}
_EPSILONS = {r".*_clip_.*": 1e-5}

GELUS = {"gelu": "exact", "gelu_tanh": "tanh", "quick_gelu": "quick"}
POOLS = {"token": "cls", "avg": "gap", "map": "map"}
EPSILON = 1e-6  # of timm's own layer norm

# model_args that show in the tensors, or concern training only
_SHOWN = (
    *("embed_dim", "depth", "mlp_ratio", "patch_size", "in_chans", "num_classes", "qkv_bias", "class_token"),
    *("pos_embed", "no_embed_class", "reg_tokens", "pre_norm", "final_norm", "fc_norm", "init_values"),
)
_OF_TRAINING = (
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("weight_init", "fix_init", "dynamic_img_size", "out_indices", "pretrained_strict"),
)
# model_args that have to keep their defaults
_KEPT = {
    **dict.fromkeys(("qk_norm", "scale_attn_norm", "scale_mlp_norm", "pool_include_prefix", "dynamic_img_pad"), False),
    **dict.fromkeys(("use_naflex", "features_only", "legacy"), False),
    **dict.fromkeys(("embed_layer", "embed_norm_layer", "block_fn", "mlp_layer"), None),
    "proj_bias": True,
    "attn_layer": "attn",
}
# tensors of models that resemble ViT, and what the model has
_UNSUPPORTED = {
    r"blocks\.0\.attn\.[qk]_norm\..*": "norms of queries and keys",
    r"blocks\.0\.(attn|mlp)\.norm\..*": "norms within attention or MLP",
    r"blocks\.0\.attn\.lambda.*": "differential attention",
    r".*(relative_position|rel_pos).*": "relative positions",
    r".*rope.*": "rotary positions",
    r"blocks\.0\.mlp\.(fc1_g|fc1_x|w\d+)\..*": "a gated MLP",
    r"blocks\.0\.attn\.q_bias|blocks\.0\.attn\.[qkv]_proj\..*": "query, key and value projections of their own",
    r"blocks\.0\.gamma_1": "BEiT's layer scale",
    r"patch_embed\.norm\..*": "a norm in the patch embedding",
    r"neck\..*": "the neck of SAM",
    r"attn_pool\.(?!latent|q\.|kv\.|proj\.|norm\.|mlp\.).*": "another attention pooling than SigLIP's",
}


def check_tensors(tensors: Tensors, config: Config) -> None:
    """Checks that the tensors of a plain ViT of timm have no parts that `ViT` cannot compute.

    Raises:
      UserError: They have; the message names the architecture and the part, or says that the architecture is unknown.
    """
    architecture = config.get("architecture")
    owner = "the weights have" if architecture is None else f"timm's {architecture!r} has"
    hidden, gated = (tensors.get(f"blocks.0.mlp.{layer}.weight") for layer in ("fc1", "fc2"))
    found = [part for name, part in _UNSUPPORTED.items() if any(re.fullmatch(name, tensor) for tensor in tensors)]
    if hidden is not None and gated is not None and hidden.shape[0] == 2 * gated.shape[-1]:
        found.append("a gated MLP")
    if "blocks.0.norm1.weight" in tensors and "blocks.0.norm1.bias" not in tensors:
        found.append("RMS norms")
    if "blocks.0.attn.proj.weight" in tensors and "blocks.0.attn.proj.bias" not in tensors:
        found.append("output projections without a bias")
    if found:
        raise UserError(f"{owner} {' and '.join(found)}, which ViT does not support")
    if architecture is not None and architecture not in _NUM_HEADS:
        raise UserError(
            f"timm's {architecture!r} is not supported: its code may set what neither the tensors nor config.json say, "
            "such as another block or activation"
        )


def num_heads(config: Config) -> dict[str, int]:
    """Returns `{"num_heads": ...}` if the architecture is known, else {}."""
    architecture = config.get("architecture")
    return {"num_heads": _NUM_HEADS[architecture]} if architecture in _NUM_HEADS else {}


def said_by(config: Config) -> dict[str, Any]:
    """Returns the fields of `ViT` that an architecture and its arguments determine, as far as no tensor shows them.

    Raises:
      UserError: An argument is unknown or has a value that is not supported; the message names it.
    """
    name, args = config["architecture"], arguments(config, ("num_heads", "global_pool", "act_layer", "norm_layer"))
    fields: dict[str, Any] = {"norm_epsilon": _implied(_EPSILONS, name, EPSILON)}
    if "norm_layer" in args:  # the name of a class, whose epsilon is then timm's default
        choose("norm_layer", str(args["norm_layer"]).replace("_", "").lower() or "layernorm", ("layernorm",))
        fields["norm_epsilon"] = EPSILON
    activation = str(args.get("act_layer", _implied(_ACTIVATIONS, name, "gelu"))).lower()
    fields["gelu"] = GELUS[choose("act_layer", activation or "gelu", tuple(GELUS))]
    fields["pool"] = POOLS[choose("global_pool", _global_pool(config, name, args), tuple(POOLS))]
    if "num_heads" in args:
        fields["num_heads"] = args["num_heads"]
    return fields


def _global_pool(config: Config, architecture: str, args: dict[str, Any]) -> str:
    """Returns the pooling with which timm builds the model.

    Raises:
      UserError: config.json says that the weights were saved with another.
    """
    default = pretrained_cfg(config).get("global_pool") or "token"
    built = args.get("global_pool", _implied(_POOLS, architecture, default))
    if (saved := config.get("global_pool", built)) != built:
        raise UserError(
            f"config.json: global_pool is {saved!r}, but timm builds {architecture!r} with these model_args to pool by "
            f"{built!r}. Add the right one to model_args"
        )
    return built


def arguments(config: Config, obeyed: Collection[str], shown: Collection[str] = _SHOWN) -> dict[str, Any]:
    """Returns those of `model_args` that no tensor shows; arguments of None are left out, as timm's factory does.

    Args:
      obeyed: Arguments that the caller reads.
      shown: Arguments that the tensors show.

    Raises:
      UserError: An argument is unknown, or has a value that is not supported.
    """
    args = {key: value for key, value in _section(config, "model_args").items() if value is not None}
    for key, value in args.items():
        if key in _KEPT:
            if value != _KEPT[key] and not (key == "attn_layer" and value == ""):
                raise UserError(f"config.json: model_args.{key}={value!r} is not supported")
        elif key not in (*obeyed, *shown, *_OF_TRAINING, "img_size"):
            raise UserError(f"config.json: model_args.{key} is unknown")
    return {key: value for key, value in args.items() if key in (*obeyed, "img_size")}


def choose(key: str, value: Any, known: Collection[Any]) -> Any:
    """Returns the value of an argument.

    Raises:
      UserError: It is not one of those that are known here.
    """
    if value not in known:
        raise UserError(f"config.json: {key} {value!r} is not supported, only {' or '.join(map(repr, known))}")
    return value


def image_size(config: Config) -> dict[str, Any]:
    """Returns `{"image_size": ...}` if config.json says it, else {}."""
    size = _section(config, "model_args").get("img_size") or pretrained_cfg(config).get("input_size", [])[1:]
    return {"image_size": pair(size)} if size else {}


def pretrained_cfg(config: Config) -> Config:
    """Returns what timm calls `pretrained_cfg`; in old folders that is config.json itself."""
    return _section(config, "pretrained_cfg") or config


def _section(config: Config, key: str) -> Config:
    section = config.get(key) or {}
    if not isinstance(section, dict):
        raise UserError(f"config.json: {key} is {section!r}, not an object")
    return section


def _implied(table: dict[str, Any], architecture: str, default: Any) -> Any:
    return next((value for names, value in table.items() if re.fullmatch(names, architecture)), default)
