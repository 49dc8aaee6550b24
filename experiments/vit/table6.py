"""ViT, Table 6: the compute of pre-training on JFT-300M.

    exaFLOPs = multiply-accumulates x 2 x 3 x images x epochs / 10^18

A multiply-accumulate is two operations, and the backward pass costs twice the forward pass. JFT-300M has 303 million
images (section 4.1). Without the head, this gives the printed number of every model with patches of 16 x 16 pixels.
"""

from vit_jax.reproduce.tables import Column, Row, Table

_IMAGES = 303e6
_FEW_PATCHES = (
    "The rows of 7 x 7 patches are printed 0.4 to 2 % lower, and the paper does not say why. Without the class token, "
    "ViT-B/32 would take 55.0, but then ViT-L/32 would no longer take 196."
)
EXAFLOPS = Column("exaFLOPs", lambda row, found: found.macs * 6 * _IMAGES * row.epochs / 1e18)


def _row(name: str, epochs: int, printed: str, reason: str = "") -> Row:
    return Row(
        f"{name}, {epochs} epochs",
        "vit:" + name.replace("R50x1+", "R50+").replace("ViT-", ""),
        {"num_classes": None},
        printed={EXAFLOPS.name: printed},
        reasons={EXAFLOPS.name: reason},
        epochs=epochs,
    )


TABLE = Table(
    title="ViT, Table 6: compute of pre-training",
    source="arXiv:2010.11929, appendix D.5",
    note="303 million images of 224 x 224 pixels; the head is not counted.",
    columns=(EXAFLOPS,),
    rows=[
        _row("ViT-B/32", 7, "55", _FEW_PATCHES),
        _row("ViT-B/16", 7, "224"),
        _row("ViT-L/32", 7, "196"),
        _row("ViT-L/16", 7, "783"),
        _row("ViT-L/16", 14, "1567"),
        _row("ViT-H/14", 14, "4262", "0.1 % higher than what is counted here; the reason is not known."),
        _row("R50x1+ViT-B/32", 7, "106", _FEW_PATCHES),
        _row("R50x1+ViT-B/16", 7, "274"),
        _row("R50x1+ViT-L/32", 7, "246", _FEW_PATCHES),
        _row("R50x1+ViT-L/16", 7, "859", "The next row, of twice as many epochs, has 1668, which is twice 834."),
        _row("R50x1+ViT-L/16", 14, "1668"),
    ],
)
