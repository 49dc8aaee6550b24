"""TNT, Table 8: the number of words in a patch, m, and their width, c, in TNT-S."""

from vit_jax.reproduce.tables import MACS, PARAMS, Row, Table

_UNUSED = "The authors' code has a frozen, unused parameter, outer_tokens, of 0.075 M numbers."

TABLE = Table(
    title="TNT, Table 8: words in a patch",
    source="arXiv:2103.00112",
    note="Images of 224 x 224 pixels and 1,000 classes.",
    rows=[
        Row(
            "m = 64, c = 6",
            "tnt:S/16",
            {"num_words": 64, "inner_hidden_dim": 6, "inner_mlp_dim": 24, "inner_num_heads": 2},
            printed={PARAMS.name: "23.8", MACS.name: "5.1"},
            reasons={PARAMS.name: _UNUSED},
        ),
        Row("m = 16, c = 24", "tnt:S/16", printed={PARAMS.name: "23.8", MACS.name: "5.2"}),
        Row(
            "m = 4, c = 96",
            "tnt:S/16",
            {"num_words": 4, "inner_hidden_dim": 96, "inner_mlp_dim": 384},
            printed={PARAMS.name: "25.1", MACS.name: "6.0"},
            reasons={PARAMS.name: _UNUSED},
        ),
    ],
)
