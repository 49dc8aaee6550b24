"""TNT, Table 9: the models that are fine-tuned at 384 x 384 pixels."""

from vit_jax.reproduce.tables import PARAMS, Row, Table

_AT_224 = "The paper repeats the number at 224 pixels; the positions of 576 patches instead of 196 are more numbers."

TABLE = Table(
    title="TNT, Table 9: models at 384 pixels",
    source="arXiv:2103.00112",
    note="Images of 384 x 384 pixels and 1,000 classes.",
    rows=[
        Row(
            name,
            model,
            {"image_size": (384, 384)},
            printed={PARAMS.name: printed},
            reasons={PARAMS.name: _AT_224},
        )
        for name, model, printed in [
            ("DeiT-B at 384", "vit:B/16", "86.4"),
            ("TNT-S at 384", "tnt:S/16", "23.8"),
            ("TNT-B at 384", "tnt:B/16", "65.6"),
        ]
    ],
)
