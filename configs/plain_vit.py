"""Better plain ViT baselines for ImageNet-1k (arXiv:2205.01580): ViT-S/16, 90 to 300 epochs.

  python -m vit_jax train --config=configs/plain_vit.py:90ep --workdir=runs/s16
  python -m vit_jax train --config=configs/plain_vit.py:90ep,cls --workdir=runs/s16-cls
  python -m vit_jax train --config=configs/plain_vit.py:runlocal --workdir=runs/try

The argument is EPOCHS[,ABLATION][,runlocal]. Top-1 accuracy in percent on ImageNet (Table 1):

                                              90ep   150ep  300ep
                                              76.5   78.5   80.0
  no_aug   neither RandAugment nor mixup      73.6   73.7   73.7
  learned  learned positions                  75.0   78.0   79.6
  4096     batches of 4,096                   74.7   77.3   78.6
  cls      class token                        75.0   76.9   78.2
  linear   head without hidden layer          76.7   78.6   79.8

ReaL and ImageNet-v2 (Table 2): 83.1 and 64.2 after 90 epochs, 84.5 and 66.4 after 150, 85.4 and 68.3 after 300.

`runlocal` trains a tiny model of the same recipe on digits for about a minute.

Hardware: 90 epochs took the authors six and a half hours on a TPUv3-8, and 300 epochs less than a day. Each of its
eight cores had 128 images, and has 16 GiB of memory. Not run at full size.
"""

from vit_jax.config import Config, default_config
from vit_jax.config.recipes import PRETRAINING_SETS, big_vision_images, choose, shrink, width

ARGUMENTS = ("90ep", "150ep", "300ep")  # that `python -m vit_jax configs` lists

EPOCHS = {"90ep": 90, "150ep": 150, "300ep": 300}
ABLATIONS = ("no_aug", "learned", "4096", "cls", "linear")


def get_config(arg: str = "90ep") -> Config:
    chosen = choose("configs/plain_vit.py", arg, epochs=EPOCHS, ablation=ABLATIONS, runlocal=("runlocal",))
    config = s16(chosen["epochs"] or "90ep", chosen["ablation"], 32 if chosen["runlocal"] else 224)
    return shrink(config) if chosen["runlocal"] else config


def s16(epochs: str = "90ep", ablation: str = "", size: int = 224) -> Config:
    """ViT-S/16: the paper's text, and the authors' config big_vision/configs/vit_s16_i1k.py.

    big_vision multiplies weight decay by the schedule, but not by the peak, so that its 1e-4 is 0.1 here.
    """
    config = default_config()
    config.batch_size = 4096 if ablation == "4096" else 1024
    config.duration = f"{EPOCHS[epochs]} epochs"
    config.eval_every = config.checkpoint.every = "2_500 steps"

    config.model.name = "vit:S/16"
    config.model.pool = "cls" if ablation == "cls" else "gap"
    config.model.pos_embed = "learned" if ablation == "learned" else "sincos2d"
    if ablation != "linear":
        config.model.representation_dim = width("S/16")

    name, splits = PRETRAINING_SETS["imagenet2012"]
    big_vision_images(config, name, splits, size, augmentation="" if ablation == "no_aug" else "randaug(2, 10)")
    config.task.mixup_alpha = 0.0 if ablation == "no_aug" else 0.2

    config.optimizer.b1, config.optimizer.b2 = 0.9, 0.999
    config.optimizer.mu_dtype = "bfloat16"
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule.peak = 1e-3
    config.optimizer.schedule.warmup = "10_000 steps"
    return config
