"""TimeSformer, Table 2: the cost of inference on Kinetics-400, with three crops of one clip."""

from vit_jax.reproduce.tables import INFERENCE, PARAMS, Row, Table

TABLE = Table(
    title="TimeSformer, Table 2: cost of inference",
    source="arXiv:2102.05095",
    note="A clip of 8 frames of 224 x 224 pixels, and the 400 classes of Kinetics-400.",
    columns=(PARAMS, INFERENCE),
    rows=[
        Row(
            "TimeSformer",
            "timesformer:B/16",
            printed={PARAMS.name: "121.4", INFERENCE.name: "0.59"},
            reasons={PARAMS.name: "121.4 is the size with the 174 classes of SSv2."},
        ),
    ],
)
