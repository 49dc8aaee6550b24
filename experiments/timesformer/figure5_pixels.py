"""TimeSformer, Figure 5 (left): accuracy by spatial resolution, on moving digits for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial

NORMALIZE = "normalize(mean=0.5, std=0.5)"


def _trial(pixels: int) -> Trial:
    chain = f"resize({pixels})|{NORMALIZE}"
    size = {"data.image_size": f"({pixels}, {pixels})", "data.train_transforms": chain, "data.eval_transforms": chain}
    return Trial(f"{pixels} pixels", Recipe("configs/small.py:motion", size), x=pixels)


COMPARISON = Comparison(
    title="TimeSformer, Figure 5 (left): resolution",
    question="Does a higher resolution help, with patches of the same number of pixels?",
    trials=[_trial(8), _trial(16), _trial(24), _trial(32)],
    claims=[
        Claim("16 pixels", "8 pixels"),
        Claim("24 pixels", "16 pixels"),
        Claim("32 pixels", "24 pixels"),
    ],
    source="none: the figure of arXiv:2102.05095 has no printed numbers, and shows that the accuracy rises",
    data=[("motion/digits",)],
    note=(
        "Here: six motions of digits over photographs, 20,000 clips of 8 frames, resized, with patches of 8 x 8 "
        "pixels; 2,000 test clips."
    ),
    x_label="image size in pixels",
)
