"""What is compared: tiny models of every family (also against goldens) and the published sizes (live only).

A tiny model's images are small and not square where the peer can take such.
"""

from tests.parity import peers
from tests.parity.peers import Case

IMAGE, SQUARE, CLIP = (12, 8, 3), (16, 16, 3), (3, 8, 8, 3)
SCHEMES = ("space_only", "joint_space_time", "divided_space_time")
_TINY = {"num_classes": 7, "hidden_dim": 8, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
_TINY_TORCH = {"num_classes": 7, "embed_dim": 8, "depth": 2, "num_heads": 2, "patch_size": 4}
_TINY_HF = {
    "num_labels": 7,
    "patch_size": 4,
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_TINY_IMAGES = {**_TINY, "patch_size": (4, 4), "image_size": IMAGE[:2]}
_TINY_CLIPS = {**_TINY, "patch_size": (4, 4), "image_size": CLIP[1:3], "num_frames": CLIP[0]}
_TINY_TNT = {
    **_TINY,
    "patch_size": (8, 8),
    "image_size": SQUARE[:2],
    "num_words": 4,
    "inner_hidden_dim": 4,
    "inner_mlp_dim": 16,
    "inner_num_heads": 2,
}
_GOOGLE_TINY = {"num_layers": 2, "mlp_dim": 32, "num_heads": 2, "dropout_rate": 0.0}

TINY = {
    "timm_vit": Case(
        lambda: peers.timm_model("vit_tiny_patch16_224", img_size=IMAGE[:2], **_TINY_TORCH),
        "timm",
        "vit:B/16",
        {**_TINY_IMAGES, "gelu": "exact"},
    ),
    "timm_tnt": Case(
        lambda: peers.timm_model(
            "tnt_s_patch16_224",
            img_size=SQUARE[:2],
            patch_size=8,
            embed_dim=8,
            inner_dim=4,
            depth=2,
            num_heads_inner=2,
            num_heads_outer=2,
            num_classes=7,
        ),
        "timm",
        "tnt:S/16",
        _TINY_TNT,
    ),
    "authors_tnt": Case(
        lambda: peers.authors_tnt(
            img_size=16,
            patch_size=8,
            outer_dim=8,
            inner_dim=4,
            depth=2,
            inner_num_heads=2,
            outer_num_heads=2,
            num_classes=7,
        ),
        "tnt",
        "tnt:S/16",
        _TINY_TNT,
    ),
    "google_vit": Case(
        lambda: peers.google_vit(
            IMAGE, patch_size=(4, 4), num_classes=7, hidden_size=8, transformer=_GOOGLE_TINY, representation_size=6
        ),
        "npz",
        "vit:B/16",
        {**_TINY_IMAGES, "representation_dim": 6},
    ),
    "google_hybrid": Case(
        lambda: peers.google_vit(
            (72, 40, 3),
            patch_size=(1, 1),
            num_classes=7,
            hidden_size=8,
            transformer=_GOOGLE_TINY,
            resnet={"num_layers": (1, 2), "width_factor": 0.5},
        ),
        "npz",
        "vit:R50+B/16",
        {**_TINY, "patch_size": (1, 1), "image_size": (72, 40), "resnet_stages": (1, 2), "resnet_width": 32},
    ),
    "hf_vit": Case(
        lambda: peers.hf_vit(image_size=IMAGE[:2], **_TINY_HF),
        "huggingface",
        "vit:B/16",
        {**_TINY_IMAGES, "gelu": "exact", "norm_epsilon": 1e-12},
    ),
}
_TIMM_VARIATIONS = {  # the fields of ViT that timm's plain models use: timm's name, its options, our fields
    "mae": (
        "vit_tiny_patch16_224",
        {"global_pool": "avg"},
        {"pool": "gap", "unpooled_class_token": True, "final_norm": "after_pool"},
    ),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {}, {"distillation_token": True}),
    "deit3": ("deit3_small_patch16_224", {}, {"prefix_pos_embed": False, "layer_scale_init": 1e-6}),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 3}, {"num_registers": 3}),
    "registers_gap": (
        "vit_medium_patch16_reg4_gap_256",
        {},
        {
            "num_registers": 4,
            "pool": "gap",
            "final_norm": "after_pool",
            "prefix_pos_embed": False,
            "layer_scale_init": 1e-5,
        },
    ),
    "registers_map": (
        "vit_so150m_patch16_reg4_map_256",
        {"mlp_ratio": 4},
        {"num_registers": 4, "pool": "map"},
    ),
    "clip": (
        "vit_base_patch32_clip_quickgelu_224",
        {},
        {"stem_norm": True, "patch_bias": False, "gelu": "quick", "norm_epsilon": 1e-5},
    ),
    "no_final_norm": ("vit_tiny_patch16_224", {"final_norm": False}, {"final_norm": "none"}),
}
for _name, (_timm, _options, _fields) in _TIMM_VARIATIONS.items():
    TINY[f"timm_{_name}"] = Case(
        lambda name=_timm, options=_options: peers.timm_model(name, img_size=IMAGE[:2], **{**_TINY_TORCH, **options}),
        "timm",
        "vit:B/16",
        {**_TINY_IMAGES, "gelu": "exact", **_fields},
    )
for _scheme in SCHEMES:
    _fields = {**_TINY_CLIPS, "attention_type": _scheme}
    TINY[f"hf_timesformer_{_scheme}"] = Case(
        lambda scheme=_scheme: peers.hf_timesformer(image_size=8, num_frames=3, attention_type=scheme, **_TINY_HF),
        "huggingface",
        "timesformer:B/16",
        _fields,
    )
    TINY[f"authors_timesformer_{_scheme}"] = Case(
        lambda scheme=_scheme: peers.authors_timesformer(
            img_size=8, num_frames=3, attention_type=scheme, qkv_bias=True, **_TINY_TORCH
        ),
        "timesformer",
        "timesformer:B/16",
        _fields,
    )

PUBLISHED = {
    "timm_vit": Case(lambda: peers.timm_model("vit_small_patch16_224"), "timm", "vit:S/16", {"gelu": "exact"}),
    "timm_deit": Case(lambda: peers.timm_model("deit_base_patch16_224"), "timm", "vit:B/16", {"gelu": "exact"}, 1),
    "timm_tnt_s": Case(lambda: peers.timm_model("tnt_s_patch16_224"), "timm", "tnt:S/16", {}),
    "timm_tnt_b": Case(lambda: peers.timm_model("tnt_b_patch16_224"), "timm", "tnt:B/16", {}, 1),
    "authors_tnt": Case(
        lambda: peers.authors_tnt(
            img_size=224,
            patch_size=16,
            outer_dim=384,
            inner_dim=24,
            depth=12,
            inner_num_heads=4,
            outer_num_heads=6,
            num_classes=1000,
        ),
        "tnt",
        "tnt:S/16",
        {},
    ),
    "google_vit": Case(
        lambda: peers.google_vit(
            (224, 224, 3),
            patch_size=(16, 16),
            num_classes=1000,
            hidden_size=768,
            transformer={"num_layers": 12, "mlp_dim": 3072, "num_heads": 12, "dropout_rate": 0.0},
        ),
        "npz",
        "vit:B/16",
        {},
        1,
    ),
    "google_hybrid": Case(
        lambda: peers.google_vit(
            (224, 224, 3),
            patch_size=(1, 1),
            num_classes=1000,
            hidden_size=384,
            transformer={"num_layers": 12, "mlp_dim": 1536, "num_heads": 6, "dropout_rate": 0.0},
            resnet={"num_layers": (2, 2, 2, 2), "width_factor": 1},
        ),
        "npz",
        "vit:R26+S/32",
        {},
    ),
    "hf_vit": Case(
        lambda: peers.hf_vit(num_labels=1000), "huggingface", "vit:B/16", {"gelu": "exact", "norm_epsilon": 1e-12}, 1
    ),
    **{
        f"hf_timesformer_{scheme}": Case(
            lambda scheme=scheme: peers.hf_timesformer(num_frames=8, num_labels=400, attention_type=scheme),
            "huggingface",
            "timesformer:B/16",
            {"num_classes": 400, "attention_type": scheme},
            1,
        )
        for scheme in SCHEMES
    },
    "authors_timesformer": Case(
        lambda: peers.authors_timesformer(
            num_classes=400, num_frames=8, attention_type="divided_space_time", qkv_bias=True
        ),
        "timesformer",
        "timesformer:B/16",
        {"num_classes": 400},
        1,
    ),
}
