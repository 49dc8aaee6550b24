"""TNT, Table 8: the number of words in a patch, m, and their width, c, in TNT-S; on Fashion-MNIST if trained here."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial
from vit_jax.reproduce.tables import MACS, PARAMS, Row, Table

_UNUSED = "The authors' code has a frozen, unused parameter, outer_tokens, of 0.075 M numbers."

TABLE = Table(
    title="TNT, Table 8: words in a patch",
    source="arXiv:2103.00112",
    note="Images of 224 x 224 pixels and 1,000 classes.",
    rows=[
        Row(
            "m = 64, c = 6",
            "tnt:S/16",
            {"num_words": 64, "inner_hidden_dim": 6, "inner_mlp_dim": 24, "inner_num_heads": 2},
            printed={PARAMS.name: "23.8", MACS.name: "5.1"},
            reasons={PARAMS.name: _UNUSED},
        ),
        Row("m = 16, c = 24", "tnt:S/16", printed={PARAMS.name: "23.8", MACS.name: "5.2"}),
        Row(
            "m = 4, c = 96",
            "tnt:S/16",
            {"num_words": 4, "inner_hidden_dim": 96, "inner_mlp_dim": 384},
            printed={PARAMS.name: "25.1", MACS.name: "6.0"},
            reasons={PARAMS.name: _UNUSED},
        ),
    ],
)


def _trial(words: int, width: int, heads: int, printed: str) -> Trial:
    sizes = {"num_words": words, "inner_hidden_dim": width, "inner_mlp_dim": 4 * width, "inner_num_heads": heads}
    overrides = {f"model.{field}": value for field, value in sizes.items()}
    recipes = (Recipe(config, overrides) for config in ("configs/small.py:fashion,tnt", "configs/tnt.py:S"))
    return Trial(f"m = {words}, c = {width}", *recipes, printed=printed)


COMPARISON = Comparison(
    title="TNT, Table 8: words in a patch",
    question="Into how many words should a patch be divided, if a patch keeps its width?",
    trials=[_trial(64, 6, 2, "81.0"), _trial(16, 24, 4, "81.5"), _trial(4, 96, 4, "81.1")],
    claims=[Claim("m = 16, c = 24", "m = 64, c = 6"), Claim("m = 16, c = 24", "m = 4, c = 96")],
    source="arXiv:2103.00112, TNT-S on ImageNet",
    data=[("fashion_mnist",)],
    note="Here: a TNT of 4 layers with patches of 8 x 8 pixels, 20,000 training images of Fashion-MNIST, 3 epochs.",
)
