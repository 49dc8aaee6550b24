"""TNT, Table 5: TNT-S with an inner transformer in only some of its blocks."""

from vit_jax.reproduce.tables import MACS, Row, Table

TABLE = Table(
    title="TNT, Table 5: fewer inner transformers",
    source="arXiv:2103.00112",
    note="Images of 224 x 224 pixels and 1,000 classes.",
    rows=[
        Row("DeiT-S", "vit:S/16", printed={MACS.name: "4.6"}),
        Row("DeiT-B", "vit:B/16", printed={MACS.name: "17.6"}),
        Row("TNT-S", "tnt:S/16", printed={MACS.name: "5.2"}),
        Row("TNT-S-1 (blocks 1, 4, 8, 12)", "tnt:S/16", {"tnt_layers": (0, 3, 7, 11)}, printed={MACS.name: "4.8"}),
        Row("TNT-S-2 (blocks 1, 6, 12)", "tnt:S/16", {"tnt_layers": (0, 5, 11)}, printed={MACS.name: "4.7"}),
        Row("TNT-S-3 (blocks 1, 6)", "tnt:S/16", {"tnt_layers": (0, 5)}, printed={MACS.name: "4.7"}),
        Row("TNT-S-4 (block 1)", "tnt:S/16", {"tnt_layers": (0,)}, printed={MACS.name: "4.6"}),
    ],
)
