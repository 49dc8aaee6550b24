"""DeiT: the sizes of its models, as TNT's Table 4 prints them to one decimal."""

from vit_jax.reproduce.tables import MACS, PARAMS, Row, Table

_BASE = "The tables of TNT print 86.4 for every ViT-B/16, at 224 and at 384 pixels alike."

TABLE = Table(
    title="DeiT: sizes",
    source="arXiv:2103.00112, Table 4",
    note="1,000 classes; no distillation token.",
    rows=[
        Row("DeiT-Ti", "vit:Ti/16", printed={PARAMS.name: "5.7", MACS.name: "1.3"}),
        Row("DeiT-S", "vit:S/16", printed={PARAMS.name: "22.1", MACS.name: "4.6"}),
        Row("DeiT-B", "vit:B/16", printed={PARAMS.name: "86.4", MACS.name: "17.6"}, reasons={PARAMS.name: _BASE}),
        Row(
            "ViT-B/16 at 384",
            "vit:B/16",
            {"image_size": (384, 384)},
            printed={PARAMS.name: "86.4", MACS.name: "55.5"},
            reasons={PARAMS.name: _BASE},
        ),
    ],
)
