"""TNT, Table 6: sentence and word positions, on Fashion-MNIST for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial


def _trial(name: str, printed: str, sentence: str, word: str) -> Trial:
    overrides = {"model.pos_embed": sentence, "model.word_pos_embed": word}
    recipes = (Recipe(config, overrides) for config in ("configs/small.py:fashion,tnt", "configs/tnt.py:S"))
    return Trial(name, *recipes, printed=printed)


COMPARISON = Comparison(
    title="TNT, Table 6: position embeddings",
    question="Do both the sentences and the words need positions?",
    trials=[
        _trial("neither", "80.5", "none", "none"),
        _trial("sentences", "80.8", "learned", "none"),
        _trial("words", "80.7", "none", "learned"),
        _trial("both", "81.5", "learned", "learned"),
    ],
    claims=[
        Claim("sentences", "neither"),
        Claim("words", "neither"),
        Claim("both", "sentences"),
        Claim("both", "words"),
    ],
    source="arXiv:2103.00112, TNT-S on ImageNet",
    data=[("fashion_mnist",)],
    note="Here: a TNT of 4 layers, 20,000 training images of Fashion-MNIST, 3 epochs.",
)
