"""TimeSformer, Figure 5 (right): accuracy by the number of frames, on moving digits for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial


def _trial(frames: int) -> Trial:
    clip = {"data.num_frames": frames, "data.sampling": "stride(frames=1)"}
    name = f"{frames} frames" if frames > 1 else "1 frame"
    return Trial(name, Recipe("configs/small.py:motion", clip), x=frames)


COMPARISON = Comparison(
    title="TimeSformer, Figure 5 (right): frames",
    question="Does a longer clip, of more frames, help?",
    trials=[_trial(1), _trial(2), _trial(4), _trial(8)],
    claims=[Claim("2 frames", "1 frame"), Claim("4 frames", "2 frames"), Claim("8 frames", "4 frames")],
    source="none: the figure of arXiv:2102.05095 has no printed numbers, and shows that the accuracy rises",
    data=[("motion/digits",)],
    note=(
        "Here: six motions of digits over photographs, 20,000 clips of which consecutive frames of 32 x 32 pixels are "
        "chosen; 2,000 test clips. A single frame contains no information about the motion."
    ),
    x_label="frames",
)
