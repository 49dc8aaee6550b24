"""Fine-tune a trained model on a folder of images.

The architecture and the preprocessing are taken from the checkpoint.

  python -m vit_jax train --config=configs/finetune.py --workdir=runs/flowers \\
      --config.init_from=runs/quickstart --config.data.path=DIR

`init_from` is a workdir, or a weight file in a format that docs/checkpoints.md lists. `DIR` holds `train/CLASS/*.jpg`
and `val/CLASS/*.jpg`. `configs/finetune.py:384` resamples the position embeddings for images of 384 x 384 pixels (ViT,
section 3.2).

The recipe is that of the ViT paper (section B.1.1): SGD with momentum, a cosine schedule, and gradients clipped at norm
1. The paper chooses the learning rate for each data set, between 0.001 and 0.03 at a batch size of 512; the value here
lies in the middle of this range.
"""

from vit_jax.config import Config, default_config
from vit_jax.errors import UserError

ARGUMENTS = ("", "384")  # that `python -m vit_jax configs` lists


def get_config(arg: str = "") -> Config:
    config = default_config()
    config.batch_size = 64
    config.duration = "20 epochs"
    config.checkpoint.every = "1 epoch"

    config.data.name = "folder"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    if arg:
        if not arg.isdecimal():
            raise UserError(f"configs/finetune.py:{arg}: the argument is the image size in pixels, such as 384")
        config.data.image_size = (int(arg), int(arg))

    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.schedule.peak = 0.003
    config.optimizer.schedule.warmup = "1 epoch"
    config.optimizer.clip_norm = 1.0
    return config
