"""TimeSformer, Tables 3 and 5: the three variants, and the cost of inference with three crops of one clip."""

from vit_jax.reproduce.tables import INFERENCE, PARAMS, Row, Table

TABLE = Table(
    title="TimeSformer, Tables 3 and 5: variants",
    source="arXiv:2102.05095, Table 5",
    note="8 x 224, 16 x 448 and 96 x 224 frames x pixels, and the 400 classes of Kinetics-400.",
    columns=(PARAMS, INFERENCE),
    rows=[
        Row("TimeSformer", "timesformer:B/16", printed={INFERENCE.name: "0.59"}),
        Row("TimeSformer-HR", "timesformer:B/16-HR", printed={INFERENCE.name: "5.11"}),
        Row("TimeSformer-L", "timesformer:B/16-L", printed={INFERENCE.name: "7.14"}),
    ],
)
