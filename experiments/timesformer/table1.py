"""TimeSformer, Table 1: the five attention schemes; on moving digits if trained here.

The small rows are motions, as in Something-Something v2. `experiments/motion.py` trains larger models on moving
garments, also to classify the garments, and separates the family of a motion from its direction.
"""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial
from vit_jax.reproduce.tables import PARAMS, Row, Table

SCHEMES = [  # name, attention_type, parameters, accuracy on Kinetics-400 and on Something-Something v2
    ("Space", "space_only", "85.9", "76.9", "36.6"),
    ("Joint Space-Time", "joint_space_time", "85.9", "77.4", "58.5"),
    ("Divided Space-Time", "divided_space_time", "121.4", "78.0", "59.5"),
    ("Sparse Local Global", "sparse_local_global", "121.4", "75.9", "56.3"),
    ("Axial", "axial", "156.8", "73.5", "56.2"),
]

TABLE = Table(
    title="TimeSformer, Table 1: attention schemes",
    source="arXiv:2102.05095",
    note="Clips of 8 frames of 224 x 224 pixels, and the 174 classes of SSv2, which fit every printed number.",
    rows=[
        Row(name, "timesformer:B/16", {"attention_type": scheme, "num_classes": 174}, printed={PARAMS.name: printed})
        for name, scheme, printed, *_ in SCHEMES
    ],
)


def _ssv2(name: str, scheme: str, printed: str) -> Trial:
    small = Recipe("configs/small.py:motion", {"model.attention_type": scheme})
    return Trial(name, small, Recipe(f"configs/timesformer.py:ssv2,{scheme}"), printed)


def _k400(name: str, scheme: str, printed: str) -> Trial:
    return Trial(f"{name}, K400", None, Recipe(f"configs/timesformer.py:k400,{scheme}"), printed)


COMPARISON = Comparison(
    title="TimeSformer, Table 1: attention schemes",
    question="Which attention in space and time distinguishes a motion from its reverse?",
    trials=[
        *(_ssv2(name, scheme, printed) for name, scheme, _, _, printed in SCHEMES),
        *(_k400(name, scheme, printed) for name, scheme, _, printed, _ in SCHEMES),
    ],
    claims=[
        Claim("Joint Space-Time", "Space"),
        Claim("Divided Space-Time", "Space"),
        Claim("Divided Space-Time", "Joint Space-Time"),
        Claim("Divided Space-Time", "Sparse Local Global"),
        Claim("Divided Space-Time", "Axial"),
    ],
    source="arXiv:2102.05095, top-1 accuracy on Something-Something v2, and on Kinetics-400 where the row says so",
    data=[("motion/digits",)],
    note=(
        "Here: six motions of digits over photographs, 20,000 clips of 8 frames of 32 x 32 pixels, each seen once; "
        "2,000 test clips. A model that cannot tell the order of the frames reaches at most 50 %."
    ),
)
