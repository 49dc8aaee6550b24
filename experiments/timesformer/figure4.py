"""TimeSformer, Figure 4: accuracy by the number of training clips, on moving digits for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial

SIZES = {"25 %": 1000, "50 %": 2000, "75 %": 3000, "100 %": 4000}


def _trial(share: str, clips: int) -> Trial:
    small = Recipe("configs/small.py:motion", {"data.train_split": f"train[:{clips}]"})
    paper = Recipe("configs/timesformer.py:ssv2", {"data.train_split": f"train[:{share.replace(' ', '')}]"})
    return Trial(share, small, paper, x=clips)


COMPARISON = Comparison(
    title="TimeSformer, Figure 4: training clips",
    question="How much does a model of divided attention gain from more training clips?",
    trials=[_trial(share, clips) for share, clips in SIZES.items()],
    claims=[Claim("50 %", "25 %"), Claim("75 %", "50 %"), Claim("100 %", "75 %")],
    source="none: the figure of arXiv:2102.05095 has no printed numbers, and shows that the accuracy rises",
    data=[("motion/digits",)],
    note=(
        "Here: six motions of digits over photographs; 25, 50, 75 and 100 % of 4,000 clips, and 625 updates of 32 "
        "clips in every row; 2,000 test clips."
    ),
    x_label="training clips",
)
