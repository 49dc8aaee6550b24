"""AugReg, Table 1: the variants of the Vision Transformer, with Ti and S."""

from vit_jax.reproduce.tables import PARAMS, Row, Table

TABLE = Table(
    title="AugReg, Table 1: variants",
    source="arXiv:2106.10270",
    note="Images of 224 x 224 pixels, 1,000 classes, and the tanh layer before the head that pre-training uses.",
    rows=[
        Row("ViT-Ti (Ti/16)", "vit:Ti/16", {"representation_dim": 192}, printed={PARAMS.name: "5.8"}),
        Row("ViT-S (S/16)", "vit:S/16", {"representation_dim": 384}, printed={PARAMS.name: "22.2"}),
        Row(
            "ViT-B (B/16)",
            "vit:B/16",
            {"representation_dim": 768},
            printed={PARAMS.name: "86"},
            reasons={PARAMS.name: "86 is the size without the head, 85.8, as in ViT's Table 1; Ti and S count both."},
        ),
        Row(
            "ViT-L (L/16)",
            "vit:L/16",
            {"representation_dim": 1024},
            printed={PARAMS.name: "307"},
            reasons={PARAMS.name: "As in ViT's Table 1: 306.5 is the size of L/32 without the tanh layer."},
        ),
    ],
)
