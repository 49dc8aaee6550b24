"""Attention Is All You Need, Table 4: English constituency parsing; the full recipes, on licensed trees."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial


def _trial(name: str, arg: str, printed: str) -> Trial:
    """Returns a row whose last step is scored on section 23, as the paper's rows are; nothing is selected there."""
    return Trial(name, None, Recipe(f"configs/transformer.py:{arg}", {"data.eval_split": "test"}), printed)


COMPARISON = Comparison(
    title="Attention Is All You Need, Table 4: English constituency parsing",
    question="How well does a Transformer parse, and what do the trees of other parsers add?",
    trials=[
        _trial("WSJ only", "parsing", "91.3"),
        _trial("semi-supervised", "parsing,semi", "92.7"),
    ],
    claims=[Claim("semi-supervised", "WSJ only")],
    source="arXiv:1706.03762, F1 on section 23 of the Wall Street Journal",
    metric="f1",
)
