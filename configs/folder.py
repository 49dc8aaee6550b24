"""Train a ViT on a folder of images, from scratch or from the weights of another run.

  python -m vit_jax train --config=configs/folder.py:S/16,64 --workdir=runs/folder --config.data.path=DIR

The argument is VARIANT,SIZE, with the image size in pixels; the default is `B/16,224`. `DIR` holds `train/CLASS/*.jpg`
and `val/CLASS/*.jpg`. The augmentation is AugReg's light1 (arXiv:2106.10270), with drop path in addition. To start from
a trained model, add `--config.init_from=WORKDIR`.
"""

from vit_jax.config import Config, default_config
from vit_jax.errors import UserError

ARGUMENTS = ("B/16", "S/16", "Ti/16")  # that `python -m vit_jax configs` lists


def get_config(arg: str = "") -> Config:
    variant, _, size = arg.partition(",")
    variant, size = variant or "B/16", size or "224"
    if not size.isdecimal():
        raise UserError(
            f"configs/folder.py:{arg}: the argument is VARIANT,SIZE with the size in pixels, such as S/16,64"
        )
    pixels = int(size)
    config = default_config()
    config.batch_size = 64
    config.duration = "30 epochs"
    config.checkpoint.every = "1 epoch"

    config.model.name = f"vit:{variant}"
    config.model.drop_path_rate = 0.1

    config.data.name = "folder"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    config.data.image_size = (pixels, pixels)
    config.data.channels = 3
    config.data.train_transforms = "random_resized_crop|flip|randaug(2, 0)|normalize(mean=0.5, std=0.5)"
    config.data.eval_transforms = f"resize({pixels * 8 // 7})|center_crop|normalize(mean=0.5, std=0.5)"

    config.optimizer.schedule.peak = 3e-4
    config.optimizer.schedule.warmup = "2 epochs"
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    return config
