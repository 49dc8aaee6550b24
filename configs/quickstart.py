"""The quickstart: a ViT of 0.2 M parameters on scikit-learn's handwritten digits.

  python -m vit_jax train --config=configs/quickstart.py --workdir=runs/quickstart

Accuracy on the 355 test images: between 96.9 and 98.9 % over five seeds, after 1 to 2 minutes on two CPU cores.
"""

from vit_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.batch_size = 128
    config.duration = "100 epochs"
    config.eval_every = "10 epochs"
    config.checkpoint.every = "10 epochs"
    config.log_every = "5 epochs"

    config.model.name = "vit:Ti/2"
    config.model.hidden_dim = 64
    config.model.mlp_dim = 256
    config.model.num_layers = 4
    config.model.num_heads = 4
    config.model.pool = "gap"

    config.data.name = "digits"
    config.data.image_size = (8, 8)
    config.data.channels = 1
    # the digits already have this size; with `resize`, the checkpoint also accepts images of other sizes
    config.data.train_transforms = (
        "random_affine(degrees=12, shift=0.1, scale=(0.9, 1.1))|resize|normalize(mean=0.5, std=0.5)"
    )
    config.data.eval_transforms = "resize|normalize(mean=0.5, std=0.5)"

    config.optimizer.schedule.peak = 3e-3
    config.optimizer.schedule.warmup = "5 epochs"
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    return config
