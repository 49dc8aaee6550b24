"""Predicts by how many degrees a digit is tilted, with the model, task, data, transform and optimizer of this package.

  cd examples
  python -m vit_jax train --config=mylab/config.py --workdir=runs/tilt
  python -m vit_jax train --config=mylab/config.py --workdir=runs/wide --config.model.extra.token_mlp_dim=128
  python -m vit_jax evaluate runs/tilt --trust

Import paths are looked up from the current directory, and among the installed packages.
"""

from vit_jax.config import Config, default_config


def get_config(arg: str = "") -> Config:
    config = default_config()
    config.batch_size = 64
    config.duration = "20 epochs"
    config.eval_every = config.checkpoint.every = "5 epochs"
    config.checkpoint.best = "r2"

    config.model.name = "mylab.nets:Mixer"
    config.model.hidden_dim = 64
    config.model.extra.token_mlp_dim = 64

    config.task.name = "mylab.tasks:Regression"
    config.task.extra.scale = 45.0

    config.data.name = "mylab.data:open_split"
    config.data.extra.max_degrees = 45.0
    config.data.image_size = (16, 16)
    config.data.channels = 1
    config.data.train_transforms = "mylab.transforms.Shade(0.3)|resize|normalize(mean=0.5, std=0.5)"
    config.data.eval_transforms = "resize|normalize(mean=0.5, std=0.5)"

    config.optimizer.name = "mylab.optim:signum"
    config.optimizer.extra.momentum = 0.9
    config.optimizer.extra.weight_decay = 0.1
    config.optimizer.schedule.peak = 1e-3
    config.optimizer.schedule.warmup = "1 epoch"
    return config
