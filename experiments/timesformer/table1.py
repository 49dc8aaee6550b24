"""TimeSformer, Table 1: the parameters of the five attention schemes."""

from vit_jax.reproduce.tables import PARAMS, Row, Table

TABLE = Table(
    title="TimeSformer, Table 1: attention schemes",
    source="arXiv:2102.05095",
    note="Clips of 8 frames of 224 x 224 pixels, and the 174 classes of SSv2, which fit every printed number.",
    rows=[
        Row(name, "timesformer:B/16", {"attention_type": scheme, "num_classes": 174}, printed={PARAMS.name: printed})
        for name, scheme, printed in [
            ("Space", "space_only", "85.9"),
            ("Joint Space-Time", "joint_space_time", "85.9"),
            ("Divided Space-Time", "divided_space_time", "121.4"),
            ("Sparse Local Global", "sparse_local_global", "121.4"),
            ("Axial", "axial", "156.8"),
        ]
    ],
)
