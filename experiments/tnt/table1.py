"""TNT, Table 1: the variants of Transformer in Transformer."""

from vit_jax.reproduce.tables import MACS, PARAMS, Row, Table

TABLE = Table(
    title="TNT, Table 1: variants",
    source="arXiv:2103.00112",
    note="Images of 224 x 224 pixels and 1,000 classes.",
    rows=[
        Row("TNT-Ti", "tnt:Ti/16", printed={PARAMS.name: "6.1", MACS.name: "1.4"}),
        Row("TNT-S", "tnt:S/16", printed={PARAMS.name: "23.8", MACS.name: "5.2"}),
        Row(
            "TNT-B",
            "tnt:B/16",
            printed={PARAMS.name: "65.6", MACS.name: "14.1"},
            reasons={
                PARAMS.name: "The authors' code has a frozen, unused parameter, outer_tokens, of 0.125 M numbers.",
                MACS.name: "14.05; 14.1 results if each number that is normalised counts as one operation.",
            },
        ),
    ],
)
