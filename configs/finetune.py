"""Fine-tune a trained model on a folder of images: the architecture and the preprocessing come from the checkpoint.

  python -m vit_jax train --config=configs/finetune.py --workdir=runs/flowers \\
      --config.init_from=runs/quickstart --config.data.path=DIR

`init_from` is a run of ours or a weight file that `docs/checkpoints.md` lists. `DIR` holds `train/CLASS/*.jpg` and
`val/CLASS/*.jpg`. `configs/finetune.py:384` resamples the positions to images of 384 x 384 pixels (ViT, section 3.2).

SGD with momentum, a cosine schedule and gradients clipped at norm 1, as the ViT paper fine-tunes (section B.1.1). Its
learning rates, 0.001 to 0.03 at a batch size of 512, were chosen by data set; the one here is a middle one.
"""

from vit_jax.config import Config, default_config


def get_config(arg: str = "") -> Config:
    config = default_config()
    config.batch_size = 64
    config.duration = "20 epochs"
    config.checkpoint.every = "1 epoch"

    config.data.name = "folder"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    if arg:
        config.data.image_size = (int(arg), int(arg))

    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.schedule.peak = 0.003
    config.optimizer.schedule.warmup = "1 epoch"
    config.optimizer.clip_norm = 1.0
    return config
