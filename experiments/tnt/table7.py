"""TNT, Table 7: heads of the inner attention, on Fashion-MNIST for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial


def _trial(heads: int, printed: str) -> Trial:
    overrides = {"model.inner_num_heads": heads}
    recipes = (Recipe(config, overrides) for config in ("configs/small.py:fashion,tnt", "configs/tnt.py:S"))
    return Trial(str(heads), *recipes, printed=printed, x=heads)


COMPARISON = Comparison(
    title="TNT, Table 7: heads of the inner attention",
    question="How many heads does the attention between words need?",
    trials=[
        _trial(heads, printed) for heads, printed in [(1, "81.0"), (2, "81.4"), (4, "81.5"), (6, "81.3"), (8, "81.1")]
    ],
    claims=[Claim("4", "1"), Claim("4", "8")],
    source="arXiv:2103.00112, TNT-S on ImageNet",
    data=[("fashion_mnist",)],
    note="Here: a TNT of 4 layers with words of width 24, 20,000 training images of Fashion-MNIST, 3 epochs.",
    x_label="heads of the inner attention",
)
