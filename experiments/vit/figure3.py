"""ViT, Figures 3 and 4: pre-training on more images, on Fashion-MNIST and digits for the small scale."""

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial

IMAGES = (500, 4_000, 32_000)  # for pre-training
SIZES = {"small": (32, 2), "large": (64, 4)}  # width and layers
SHOTS = 5
_CHAIN = "resize(16)|normalize(mean=0.5, std=0.5)"
_IMAGE = {"data.image_size": "(16, 16)", "data.eval_transforms": _CHAIN, "eval_every": "600 steps"}
_SCHEDULE = {"checkpoint.every": "600 steps", "log_every": "100 steps", "optimizer.schedule.warmup": "60 steps"}


def _model(size: str) -> dict[str, object]:
    width, layers = SIZES[size]
    sizes = {"model.hidden_dim": width, "model.mlp_dim": 4 * width, "model.num_layers": layers}
    return {"model.name": "vit:Ti/4", **sizes, **_IMAGE, **_SCHEDULE}


def _pretrained(size: str, images: int) -> Trial:
    splits = {"data.train_split": f"train[:{images}]", "data.eval_split": "test[:1000]"}
    training = {**splits, "data.train_transforms": f"flip|{_CHAIN}", "duration": "600 steps"}
    return Trial(f"{size}, {images} images", Recipe("configs/small.py:fashion", {**_model(size), **training}))


def _target(size: str, **start: str) -> Recipe:
    """Returns training on 144 labelled digits, from scratch or from a pre-trained model."""
    augmentation = "random_affine(degrees=12, shift=0.1, scale=(0.9, 1.1))"
    split = {"data.train_split": "train[:10%]", "data.train_transforms": f"{augmentation}|{_CHAIN}"}
    return Recipe("configs/small.py:digits", {**_model(size), **split, "duration": "200 steps", **start})


def _finetuned(size: str, images: int) -> Trial:
    recipe = _target(size, init_from=f"{{{size}, {images} images}}")
    return Trial(f"{size} ViT, fine-tuned after {images:,} images", recipe, x=images, series=f"{size} ViT, fine-tuned")


def _few_shot(size: str, images: int) -> Trial:
    name = f"{size} ViT, frozen after {images:,} images"
    scoring = {"few_shot": SHOTS, "data": "digits"}
    of = f"{size}, {images} images"
    return Trial(name, x=images, series=f"{size} ViT, {SHOTS}-shot linear", of=of, scoring=scoring)


COMPARISON = Comparison(
    title="ViT, Figures 3 and 4: pre-training on more images",
    question="How many images does pre-training need until a model transfers, and until a larger one transfers better?",
    trials=[
        *(make(size, images) for make in (_finetuned, _few_shot) for size in SIZES for images in IMAGES),
        *(Trial(f"{size} ViT from scratch", _target(size), series=f"{size} ViT, fine-tuned") for size in SIZES),
    ],
    preparation=[_pretrained(size, images) for size in SIZES for images in IMAGES],
    claims=[
        Claim("large ViT, fine-tuned after 32,000 images", "large ViT from scratch"),
        Claim("large ViT, fine-tuned after 32,000 images", "large ViT, fine-tuned after 500 images"),
        Claim("small ViT, fine-tuned after 500 images", "large ViT, fine-tuned after 500 images"),
        Claim("large ViT, fine-tuned after 32,000 images", "small ViT, fine-tuned after 32,000 images"),
        Claim("large ViT, frozen after 32,000 images", "large ViT, frozen after 500 images"),
        Claim("large ViT, frozen after 32,000 images", "small ViT, frozen after 32,000 images"),
    ],
    source="none: the figures of arXiv:2010.11929 have no printed numbers",
    data=[("digits",), ("fashion_mnist",)],
    note=(
        "Here: ViTs of 2 layers of width 32 and of 4 layers of width 64, with 16 patches, pre-trained for 600 updates "
        "on some images of Fashion-MNIST; then fine-tuned on 144 labelled digits, or frozen and scored by a linear "
        "classifier of their features of 5 labelled digits per class (the paper's few-shot protocol). Top-1 accuracy "
        "on 355 test digits."
    ),
    x_label="images of pre-training",
)
