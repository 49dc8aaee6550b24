"""ViT, Table 1: the variants of the Vision Transformer."""

from vit_jax.reproduce.tables import PARAMS, Row, Table

TABLE = Table(
    title="ViT, Table 1: variants",
    source="arXiv:2010.11929",
    note="Images of 224 x 224 pixels and 1,000 classes.",
    rows=[
        Row(
            "ViT-Base (B/16)",
            "vit:B/16",
            printed={PARAMS.name: "86"},
            reasons={PARAMS.name: "86 is the size without the head, 85.8; the other two rows count one."},
        ),
        Row("ViT-Large (L/32)", "vit:L/32", printed={PARAMS.name: "307"}),
        Row(
            "ViT-Large (L/16)",
            "vit:L/16",
            printed={PARAMS.name: "307"},
            reasons={PARAMS.name: "The paper prints one number for ViT-Large, that of patches of 32 x 32 pixels."},
        ),
        Row("ViT-Huge (H/14)", "vit:H/14", printed={PARAMS.name: "632"}),
    ],
)
