"""TNT, Tables 1 and 4: TNT against a plain ViT, on Fashion-MNIST for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial


def _vit(hidden_dim: int) -> Recipe:
    sizes = {"model.hidden_dim": hidden_dim, "model.mlp_dim": 4 * hidden_dim, "data.image_size": "(32, 32)"}
    resized = "resize(32)|normalize(mean=0.2860, std=0.3530)"
    chains = {"data.train_transforms": f"flip|{resized}", "data.eval_transforms": resized}
    length = {"duration": "3 epochs", "eval_every": "3 epochs", "checkpoint.every": "3 epochs"}
    return Recipe("configs/small.py:fashion", {"model.name": "vit:S/8", **sizes, **chains, **length})


COMPARISON = Comparison(
    title="TNT, Table 4: TNT and DeiT on ImageNet",
    question="Does an inner transformer over the words of a patch help, at equal parameters or equal cost?",
    trials=[
        Trial("DeiT-Ti", None, Recipe("configs/deit.py:Ti"), "72.2"),
        Trial("TNT-Ti", None, Recipe("configs/tnt.py:Ti"), "73.9"),
        Trial("DeiT-S", None, Recipe("configs/deit.py:S"), "79.8"),
        Trial("TNT-S", None, Recipe("configs/tnt.py:S"), "81.5"),
        Trial("DeiT-B", None, Recipe("configs/deit.py:B"), "81.8"),
        Trial("TNT-B", None, Recipe("configs/tnt.py:B"), "82.9"),
        Trial("TNT", Recipe("configs/small.py:fashion,tnt")),
        Trial("ViT, equal parameters", _vit(68)),
        Trial("ViT, equal cost", _vit(116)),
    ],
    claims=[Claim("TNT", "ViT, equal parameters"), Claim("TNT", "ViT, equal cost")],
    source="arXiv:2103.00112",
    data=[("fashion_mnist",)],
    note=(
        "Here: 16 patches of 8 x 8 pixels in images of 32 x 32, 20,000 training images of Fashion-MNIST, 3 epochs. "
        "TNT has 0.24 M parameters and 11.6 M multiply-accumulates; the ViTs have widths of 68 and 116."
    ),
)
