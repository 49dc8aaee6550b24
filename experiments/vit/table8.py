"""ViT, Table 8: position embeddings, on digits for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial


def _trial(name: str, pos_embed: str, printed: str, **more: str) -> Trial:
    overrides = {"model.pos_embed": pos_embed, **{f"model.{field}": value for field, value in more.items()}}
    return Trial(name, Recipe("configs/small.py:digits", overrides), printed=printed)


COMPARISON = Comparison(
    title="ViT, Table 8: position embeddings",
    question="Does the model need to know where a patch is, and does it matter how it is told?",
    trials=[
        _trial("none", "none", "61.4"),
        _trial("1-D", "learned", "64.2"),
        _trial("1-D, every layer", "learned", "64.0", pos_embed_at="every_layer"),
        _trial("1-D, every layer, shared", "learned", "64.3", pos_embed_at="every_layer_shared"),
        _trial("2-D", "learned2d", "64.0"),
        _trial("relative", "relative", "64.0"),
    ],
    claims=[Claim("1-D", "none"), Claim("2-D", "none"), Claim("relative", "none"), Claim("1-D", "2-D")],
    source="arXiv:2010.11929, Table 8, 5-shot linear accuracy on ImageNet of ViT-B/16",
    note="Here: top-1 accuracy on 355 test digits of a ViT with 16 patches of 2 x 2 pixels.",
)
