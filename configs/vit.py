"""ViT (arXiv:2010.11929): pre-training (Table 3) and fine-tuning (Table 4).

  python -m vit_jax train --config=configs/vit.py:B/16,imagenet21k --workdir=runs/b16 --config.data.path=~/imagenet21k
  python -m vit_jax train --config=configs/vit.py:B/16,imagenet2012,384 --workdir=runs/b16-384 \\
      --config.init_from=runs/b16
  python -m vit_jax train --config=configs/vit.py:B/16,imagenet2012,runlocal --workdir=runs/try

The argument is MODEL,DATASET[,SIZE][,runlocal]. MODEL is `B/16`, `B/32`, `L/16`, `L/32`, `H/14`, or a hybrid:
`R50+B/16`, `R50+B/32`, `R50+L/16`, `R50+L/32`.

- Without SIZE, the model is pre-trained at 224 pixels on `imagenet2012`, or on a folder of your own images, whose path
  is `config.data.path`, with the values for `imagenet21k` or `jft`. The hybrids are pre-trained on `jft` only.
- With SIZE, a pre-trained model is fine-tuned at 224, 384, 512 or 518 pixels on `imagenet2012`, `cifar10`, `cifar100`,
  `oxford_iiit_pet` or `oxford_flowers102`. It starts from `config.init_from`: a workdir or a file in any format that
  docs/checkpoints.md lists, by default the authors' file in the current folder, such as `ViT-B_16.npz`.
- `runlocal` trains a tiny model of the same recipe on digits for about a minute.

Top-1 accuracy in percent after fine-tuning at 384 pixels (Table 5, and Table 6 for the hybrids):

                      B/16   B/32   L/16   L/32   H/14   R50+B/16  R50+B/32  R50+L/16  R50+L/32
  imagenet2012, then
    imagenet2012      77.91  73.38  76.53  71.16
    cifar10           98.13  97.77  97.86  97.94
    cifar100          87.13  86.31  86.35  87.07
    oxford_flowers102 89.49  85.43  89.66  86.36
    oxford_iiit_pet   93.81  92.04  93.64  91.35
  imagenet21k, then
    imagenet2012      83.97  81.28  85.15  80.99  85.13
    cifar10           98.95  98.79  99.16  99.13  99.27
    cifar100          91.67  91.97  93.44  93.04  93.82
    oxford_flowers102 99.38  99.11  99.61  99.19  99.51
    oxford_iiit_pet   94.43  93.02  94.73  93.09  94.82
  jft, then
    imagenet2012      84.15  80.73  87.12  84.37  88.04  85.58     84.90     87.12     85.68
    cifar10           99.00  98.61  99.38  99.19  99.50  99.14     99.01     99.31     99.24
    cifar100          91.87  90.49  94.04  92.52  94.55  92.63     92.24     93.89     92.93
    oxford_flowers102 99.56  99.27  99.56  99.45  99.68  99.40     99.46     99.11     99.43
    oxford_iiit_pet   95.80  93.40  97.11  95.83  97.56  96.65     95.75     97.36     96.97

Fine-tuned on `imagenet2012` at higher resolution (Table 2): L/16 at 512 pixels 85.30 after `imagenet21k` and 87.76
after `jft`, H/14 at 518 pixels 88.55 after `jft`.

Hardware: pre-training took the authors 230 TPUv3 core-days for L/16 on ImageNet-21k, and on JFT 680 for L/16 and 2,500
for H/14. On few devices, divide the batch of 4,096 by `config.accum_steps`, and compute in bfloat16
(`config.model.dtype`). Not run at full size, so its memory was not measured.
"""

from vit_jax.config import Config, default_config
from vit_jax.config.recipes import (
    NORMALIZE,
    PRETRAINING_SETS,
    big_vision_images,
    check_dataset,
    choose,
    google_fine_tuning,
    read_images,
    shrink,
    width,
)

FILE = "configs/vit.py"
ARGUMENTS = (
    "B/16,imagenet2012",
    "B/32,imagenet2012",
    "L/16,imagenet2012",
    "L/32,imagenet2012",
    "H/14,imagenet2012",
    "R50+B/16,jft",
    "R50+B/32,jft",
    "R50+L/16,jft",
    "R50+L/32,jft",
    "B/16,imagenet2012,384",
)  # that `python -m vit_jax configs` lists

# Table 3: epochs and peak learning rate. L/16 and R50+L/16 were also pre-trained for 7 epochs on JFT, and L/16 and L/32
# for 30 on ImageNet-21k: config.duration.
PRETRAINING = {
    "jft": {
        "B/16": (7, 8e-4),
        "B/32": (7, 8e-4),
        "L/16": (14, 4e-4),
        "L/32": (7, 6e-4),
        "H/14": (14, 3e-4),
        "R50+B/16": (7, 8e-4),
        "R50+B/32": (7, 8e-4),
        "R50+L/16": (14, 4e-4),
        "R50+L/32": (7, 2e-4),
    },
    "imagenet21k": dict.fromkeys(("B/16", "B/32", "L/16", "L/32"), (90, 1e-3)),
    "imagenet2012": dict.fromkeys(("B/16", "B/32", "L/16", "L/32", "H/14"), (300, 3e-3)),
}
REGULARISATION = {"jft": (0.1, 0.0), "imagenet21k": (0.03, 0.1), "imagenet2012": (0.3, 0.1)}  # weight decay, dropout

# Table 4: number of steps. Warm-up and learning rate are not in the paper, which chooses the rate on a held-out part of
# the training data, from 0.003, 0.01, 0.03 and 0.06 for ImageNet, and from 0.001, 0.003, 0.01 and 0.03 for the other
# sets. These are the values of the authors' configs/common.py and, for the last two sets, of their configs/augreg.py.
FINE_TUNING = {
    "imagenet2012": (20_000, 500, 0.03),
    "cifar10": (10_000, 500, 0.03),
    "cifar100": (10_000, 500, 0.03),
    "oxford_iiit_pet": (500, 100, 0.01),
    "oxford_flowers102": (500, 100, 0.01),
}
DROPOUT = ("L/16", "H/14", "R50+B/16", "R50+L/32")  # the models that the authors fine-tune with dropout, by default


def get_config(arg: str = "B/16,imagenet2012") -> Config:
    chosen = choose(
        FILE,
        arg,
        model=PRETRAINING["jft"],
        dataset=(*PRETRAINING, *FINE_TUNING),
        size=("224", "384", "512", "518"),
        runlocal=("runlocal",),
    )
    model, dataset = chosen["model"] or "B/16", chosen["dataset"] or "imagenet2012"
    known = FINE_TUNING if chosen["size"] else [name for name, models in PRETRAINING.items() if model in models]
    check_dataset(FILE, arg, dataset, known, "fine-tuning" if chosen["size"] else f"pre-training of {model}")
    if chosen["size"]:
        config = fine_tuning(model, dataset, 48 if chosen["runlocal"] else int(chosen["size"]))
        config.optimizer.ema_decay = 0.9999 if chosen["size"] in ("512", "518") else 0.0  # Table 2
    else:
        config = pretraining(model, dataset, 32 if chosen["runlocal"] else 224)
    return shrink(config) if chosen["runlocal"] else config


def pretraining(model: str, dataset: str, size: int = 224) -> Config:
    """Pre-training: Table 3 and section B.1.

    The head has a hidden layer with tanh (section 3.1). The paper states neither loss nor preprocessing. All
    preprocessing, and a sigmoid loss with an initial bias of -10 for the two large sets, are those of
    google-research/big_vision's configs/vit_i21k.py.
    Deviation: ImageNet-21k and JFT-300M are read from folders, with one label per image.
    """
    epochs, peak = PRETRAINING[dataset][model]
    config = default_config()
    config.batch_size = 4096
    config.duration = f"{epochs} epochs"
    config.eval_every = config.checkpoint.every = "2_500 steps"

    config.model.name = f"vit:{model}"
    config.model.representation_dim = width(model)
    name, splits = PRETRAINING_SETS[dataset]
    big_vision_images(config, name, splits, size)

    config.optimizer.b1, config.optimizer.b2 = 0.9, 0.999
    config.optimizer.weight_decay, config.model.dropout_rate = REGULARISATION[dataset]
    config.optimizer.schedule.peak = peak
    config.optimizer.schedule.warmup = "10_000 steps"
    if dataset == "imagenet2012":
        config.optimizer.clip_norm = 1.0
        return config
    config.task.loss = "sigmoid"
    config.model.head_bias_init = -10.0
    config.optimizer.schedule.name = "linear"
    config.optimizer.schedule.end = 1e-5  # `linear_end` in the authors' vit_jax/utils.py
    return config


def fine_tuning(model: str, dataset: str, size: int = 384) -> Config:
    """Fine-tuning: Table 4, appendix B.1.1, and the authors' vit_jax/configs and input_pipeline.py.

    The head is a single linear layer, and the positions are resampled. As in the paper, the model is trained on the
    whole training split; to choose the learning rate, hold out 1 % of ImageNet, 2 % of CIFAR and 10 % of Pets and
    Flowers: `--config.data.train_split='train[:99%]' --config.data.eval_split='train[99%:]'`.
    """
    steps, warmup, peak = FINE_TUNING[dataset]
    config = default_config()
    *stem, encoder = model.split("+")
    config.init_from = "+".join([*stem, f"ViT-{encoder.replace('/', '_')}.npz"])
    config.model.name = f"vit:{model}"
    config.model.dropout_rate = 0.1 if model in DROPOUT else 0.0

    read_images(
        config,
        dataset,
        ("train", "validation" if dataset == "imagenet2012" else "test"),
        size,
        train=f"inception_crop|flip|{NORMALIZE}",
        evaluation=f'resize(method="bilinear", antialias=False)|{NORMALIZE}',  # to a square, without a crop
    )
    is_special = (model, dataset) == ("B/16", "cifar10")  # authors' configs/vit.py
    google_fine_tuning(config, steps=steps, warmup=warmup, peak=0.01 if is_special else peak)
    return config
