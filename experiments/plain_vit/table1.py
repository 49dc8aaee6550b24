"""Better plain ViT baselines, Table 1: the ablation, on Fashion-MNIST for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial

_SMALL = {
    "model.pool": "gap",
    "model.pos_embed": "sincos2d",
    "model.representation_dim": 48,
    "task.mixup_alpha": 0.2,
    "data.train_transforms": "flip|randaug(2, 10)|normalize(mean=0.2860, std=0.3530)",
}
_PLAIN = {"task.mixup_alpha": 0.0, "data.train_transforms": "flip|normalize(mean=0.2860, std=0.3530)"}


def _trial(name: str, printed: str, ablation: str = "", **changes: object) -> Trial:
    """Returns a row; a change with the value None leaves the key of the small recipe unset."""
    small = {key: value for key, value in {**_SMALL, **changes}.items() if value is not None}
    paper = f"configs/plain_vit.py:90ep{',' if ablation else ''}{ablation}"
    return Trial(name, Recipe("configs/small.py:fashion", small), Recipe(paper), printed)


COMPARISON = Comparison(
    title="Better plain ViT baselines, Table 1: ablation",
    question="Which of the improvements to ViT matter?",
    trials=[
        _trial("our improvements", "76.5"),
        _trial("no RandAug and MixUp", "73.6", "no_aug", **_PLAIN),
        _trial("learned positions", "75.0", "learned", **{"model.pos_embed": "learned"}),
        _trial("class token", "75.0", "cls", **{"model.pool": "cls"}),
        _trial("linear head", "76.7", "linear", **{"model.representation_dim": None}),
    ],
    claims=[
        Claim("our improvements", "no RandAug and MixUp"),
        Claim("our improvements", "learned positions"),
        Claim("our improvements", "class token"),
        Claim("linear head", "our improvements"),
    ],
    source="arXiv:2205.01580, ViT-S/16 on ImageNet after 90 epochs",
    data=[("fashion_mnist",)],
    note="Here: a ViT of 4 layers with 49 patches, on 20,000 training images of Fashion-MNIST for 6 epochs.",
)
