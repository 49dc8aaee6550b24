"""Small recipes: what `python -m vit_jax reproduce TABLE --scale=small` trains, with the overrides of each row.

  python -m vit_jax train --config=configs/small.py:digits --workdir=runs/digits
  python -m vit_jax train --config=configs/small.py:digits,tnt --workdir=runs/digits-tnt
  python -m vit_jax train --config=configs/small.py:fashion --workdir=runs/fashion

The argument is DATASET[,tnt].

- `digits`: scikit-learn's handwritten digits, 1,442 to train and 355 to test. They need no download.
- `fashion`: Fashion-MNIST, prepared by `python -m vit_jax data prepare fashion_mnist --path=DIR`.

The model is a ViT of 0.1 M parameters with 16 or 49 patches, or with `tnt` a TNT whose patches have 16 words. All
recipes use AdamW, a cosine schedule and light augmentation. No table has been trained with them yet; scores will be in
docs/tables.md.
"""

from vit_jax.config import Config, default_config
from vit_jax.config.recipes import choose

FILE = "configs/small.py"


def get_config(arg: str = "digits") -> Config:
    chosen = choose(FILE, arg, dataset=("digits", "fashion"), model=("tnt",))
    config = default_config()
    config.batch_size = 128
    config.log_every = "5 epochs"

    config.model.hidden_dim = 48
    config.model.mlp_dim = 192
    config.model.num_layers = 4
    config.model.num_heads = 4
    config.data.channels = 1
    config.optimizer.schedule.peak = 2e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    _digits(config) if (chosen["dataset"] or "digits") == "digits" else _fashion(config)
    if chosen["model"]:
        _tnt(config)
    return config


def _digits(config: Config) -> None:
    config.duration = "60 epochs"
    config.eval_every = config.checkpoint.every = "20 epochs"
    config.optimizer.schedule.warmup = "5 epochs"
    config.model.name = "vit:Ti/2"
    config.data.name = "digits"
    config.data.image_size = (8, 8)
    config.data.train_transforms = "random_affine(degrees=12, shift=0.1, scale=(0.9, 1.1))|normalize(mean=0.5, std=0.5)"
    config.data.eval_transforms = "normalize(mean=0.5, std=0.5)"


def _fashion(config: Config) -> None:
    config.duration = "6 epochs"
    config.eval_every = config.checkpoint.every = "2 epochs"
    config.log_every = "0.5 epochs"
    config.optimizer.schedule.warmup = "0.5 epochs"
    config.model.name = "vit:Ti/4"
    config.data.name = "fashion_mnist"
    config.data.train_split, config.data.eval_split = "train[:20000]", "test"
    config.data.image_size = (28, 28)
    config.data.train_transforms = "flip|normalize(mean=0.2860, std=0.3530)"
    config.data.eval_transforms = "normalize(mean=0.2860, std=0.3530)"


def _tnt(config: Config) -> None:
    """Sets a TNT with patches of 8 x 8 pixels and words of 2 x 2, on images of 32 x 32 pixels."""
    config.model.name = "tnt:S/8"
    config.model.inner_hidden_dim = 24
    config.model.inner_mlp_dim = 96
    config.model.inner_num_heads = 4
    config.data.image_size = (32, 32)
    for chain in ("train_transforms", "eval_transforms"):
        config.data[chain] = f"resize(32)|{config.data[chain]}"
