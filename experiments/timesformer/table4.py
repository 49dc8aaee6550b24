"""TimeSformer, Table 4: positions in space and time, on moving garments for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial


def _trial(name: str, printed: str, pos_embed: str) -> Trial:
    overrides = {"model.pos_embed": pos_embed}
    small = Recipe("configs/timesformer.py:motion", {**overrides, "duration": "3 epochs"})
    return Trial(name, small, Recipe("configs/timesformer.py:ssv2", overrides), printed)


COMPARISON = Comparison(
    title="TimeSformer, Table 4: position embeddings",
    question="Does a model of divided attention need to know where and when a patch is?",
    trials=[
        _trial("none", "45.8", "none"),
        _trial("space", "52.5", "space"),
        _trial("space-time", "59.5", "space_time"),
    ],
    claims=[Claim("space", "none"), Claim("space-time", "space")],
    source="arXiv:2102.05095, top-1 accuracy on Something-Something v2",
    data=[("motion/fashion",)],
    note="Here: six motions of garments over photographs, 40,000 clips of 8 frames for 3 epochs, 2,000 test clips.",
)
