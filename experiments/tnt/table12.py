"""TNT, Table 12: TNT-S with squeeze-and-excitation; on Fashion-MNIST if trained here."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial
from vit_jax.reproduce.tables import MACS, PARAMS, Row, Table

TABLE = Table(
    title="TNT, Table 12: squeeze-and-excitation",
    source="arXiv:2103.00112",
    note="Images of 224 x 224 pixels and 1,000 classes.",
    rows=[
        Row("TNT-S", "tnt:S/16", printed={PARAMS.name: "23.8", MACS.name: "5.2"}),
        Row("TNT-S + SE", "tnt:S/16", {"squeeze_excitation": True}, printed={PARAMS.name: "24.7", MACS.name: "5.2"}),
    ],
)


def _trial(name: str, printed: str, **overrides: bool) -> Trial:
    fields = {f"model.{field}": value for field, value in overrides.items()}
    recipes = (Recipe(config, fields) for config in ("configs/small.py:fashion,tnt", "configs/tnt.py:S"))
    return Trial(name, *recipes, printed=printed)


COMPARISON = Comparison(
    title="TNT, Table 12: squeeze-and-excitation",
    question="Does rescaling the channels of the outer MLP help?",
    trials=[_trial("TNT-S", "81.5"), _trial("TNT-S + SE", "81.7", squeeze_excitation=True)],
    claims=[Claim("TNT-S + SE", "TNT-S")],
    source="arXiv:2103.00112, on ImageNet",
    data=[("fashion_mnist",)],
    note="Here: a TNT of 4 layers, 20,000 training images of Fashion-MNIST, 3 epochs.",
)
