"""AugReg, Table 2: the hybrids, whose patches are of a ResNet's feature map."""

from vit_jax.reproduce.tables import PARAMS, Row, Table

TABLE = Table(
    title="AugReg, Table 2: hybrids",
    source="arXiv:2106.10270",
    note="Images of 224 x 224 pixels, 1,000 classes, and the tanh layer before the head that pre-training uses.",
    rows=[
        Row("R+Ti/16", "vit:R+Ti/16", {"representation_dim": 192}, printed={PARAMS.name: "6.4"}),
        Row("R26+S/32", "vit:R26+S/32", {"representation_dim": 384}, printed={PARAMS.name: "36.6"}),
        Row("R50+L/32", "vit:R50+L/32", {"representation_dim": 1024}, printed={PARAMS.name: "330.0"}),
    ],
)
