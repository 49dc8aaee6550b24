"""TNT, Table 12: TNT-S with squeeze-and-excitation."""

from vit_jax.reproduce.tables import MACS, PARAMS, Row, Table

TABLE = Table(
    title="TNT, Table 12: squeeze-and-excitation",
    source="arXiv:2103.00112",
    note="Images of 224 x 224 pixels and 1,000 classes.",
    rows=[
        Row("TNT-S", "tnt:S/16", printed={PARAMS.name: "23.8", MACS.name: "5.2"}),
        Row("TNT-S + SE", "tnt:S/16", {"squeeze_excitation": True}, printed={PARAMS.name: "24.7", MACS.name: "5.2"}),
    ],
)
