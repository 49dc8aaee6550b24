"""How to train your ViT (AugReg, arXiv:2106.10270): its grid of pre-trainings, and transfer.

  python -m vit_jax train --config=configs/augreg.py:B/16,imagenet2012,medium2 --workdir=runs/b16
  python -m vit_jax train --config=configs/augreg.py:S/16,imagenet21k,light1,wd_0.03,do_0.0,30ep --workdir=runs/s16 \\
      --config.data.path=~/imagenet21k
  python -m vit_jax train --config=configs/augreg.py:B/16,imagenet2012,384 --workdir=runs/b16-384 \\
      --config.init_from=runs/b16
  python -m vit_jax train --config=configs/augreg.py:B/16,strong2,do_0.1,runlocal --workdir=runs/try

The argument is MODEL,DATASET[,OPTION...][,runlocal]. MODEL is `Ti/16`, `S/32`, `S/16`, `B/32`, `B/16`, `L/16`, or a
hybrid: `R+Ti/16`, `R26+S/32`, `R50+L/32`.

- Pre-training at 224 pixels, on `imagenet2012` or on a folder with ImageNet-21k (`imagenet21k`, whose path is
  `config.data.path`). The options are a point in the paper's grid: augmentation `none`, `light1`, `light2`, `medium1`,
  `medium2`, `strong1` or `strong2`; weight decay `wd_0.03` or `wd_0.1`; `do_0.0`, or `do_0.1` for dropout and
  stochastic depth of 0.1; on ImageNet-21k also `30ep` or `300ep`. Without options, `imagenet21k` is the pre-training of
  the checkpoint that the authors recommend, and `imagenet2012` that of big_vision's configs/vit_i1k.py, which has no
  hybrids.
- With `224` or `384` pixels, transfer (Table 4) to `imagenet2012`, `cifar100`, `oxford_iiit_pet` or `resisc45`. It
  starts from `config.init_from`, by default the file that the authors recommend, in the current folder.
- `runlocal` trains a tiny model of the same recipe on digits for about a minute.

Top-1 accuracy in percent on ImageNet (Table 3). "At once" is the pre-trained model itself; the other columns are
transferred, at 224 or 384 pixels, after 300 epochs on ImageNet, or 30 and 300 epochs on ImageNet-21k:

             imagenet2012           imagenet21k, 30ep  imagenet21k, 300ep
             at once  224    384    224    384         224    384
  Ti/16      72.59    69.56  74.64  68.89  74.20       73.75  78.22
  S/32       72.07    69.19  75.65  68.49  75.74       73.47  79.58
  S/16       79.00    77.51  80.70  76.04  80.22       80.46  83.73
  B/32       74.42    71.38  76.60  72.24  78.65       79.13  83.59
  B/16       79.84    78.73  81.63  80.42  83.46       83.96  85.49
  L/16       75.72    74.01  77.21  82.05  84.48       83.98  85.59
  R+Ti/16    70.13    67.30  73.48  65.65  71.97       69.69  75.40
  R26+S/32   79.61    78.20  81.55  77.42  81.11       80.81  83.85
  R50+L/32   76.84    74.17  76.71  80.26  83.19       82.74  85.99

For each model and set, these are the best of the 28 points of the grid on held-out images, not all the same. With B/32,
the authors' transfer (big_vision's configs/transfer.py) reaches 91.35 on `cifar100` and 93.78 on `oxford_iiit_pet`.

Hardware: the authors used TPUs. On few devices, divide the batch of 4,096 by `config.accum_steps`, and compute in
bfloat16 (`config.model.dtype`). Not run at full size, so its memory was not measured.
"""

from vit_jax.config import Config, default_config
from vit_jax.config.recipes import (
    PRETRAINING_SETS,
    big_vision_images,
    check_dataset,
    choose,
    google_fine_tuning,
    shrink,
    width,
)
from vit_jax.errors import UserError

FILE = "configs/augreg.py"
ARGUMENTS = (
    "Ti/16,imagenet2012",
    "S/32,imagenet2012",
    "S/16,imagenet2012",
    "B/32,imagenet2012",
    "B/16,imagenet2012",
    "L/16,imagenet2012",
    "R+Ti/16,imagenet21k",
    "R26+S/32,imagenet21k",
    "R50+L/32,imagenet21k",
    "B/16,imagenet2012,384",
)  # that `python -m vit_jax configs` lists

# Section 3 and big_vision's configs/vit_i21k.py: RandAugment of two layers, alpha of mixup. With magnitude 0, some of
# its operations still change the image.
AUGMENTATIONS = {
    "none": ("", 0.0),
    "light1": ("randaug(2, 0)", 0.0),
    "light2": ("randaug(2, 10)", 0.2),
    "medium1": ("randaug(2, 15)", 0.2),
    "medium2": ("randaug(2, 15)", 0.5),
    "strong1": ("randaug(2, 20)", 0.5),
    "strong2": ("randaug(2, 20)", 0.8),
}
WEIGHT_DECAY = {"wd_0.03": 0.03, "wd_0.1": 0.1}
DROPOUT = {"do_0.0": 0.0, "do_0.1": 0.1}
EPOCHS = {"30ep": 30, "300ep": 300}

# google-research/vision_transformer, README.md: the recommended checkpoints, pre-trained for 300 epochs on
# ImageNet-21k, and the learning rate of their transfer to ImageNet at 384 pixels.
RECOMMENDED = {
    "Ti/16": ("none", "wd_0.03", "do_0.0", 0.03),
    "S/32": ("none", "wd_0.1", "do_0.0", 0.01),
    "S/16": ("light1", "wd_0.03", "do_0.0", 0.03),
    "B/32": ("light1", "wd_0.1", "do_0.0", 0.01),
    "B/16": ("medium1", "wd_0.1", "do_0.0", 0.03),
    "L/16": ("strong1", "wd_0.1", "do_0.0", 0.01),
    "R+Ti/16": ("none", "wd_0.03", "do_0.0", 0.03),
    "R26+S/32": ("light1", "wd_0.1", "do_0.0", 0.01),
    "R50+L/32": ("medium1", "wd_0.1", "do_0.1", 0.01),
}
ON_IMAGENET = {  # big_vision's configs/vit_i1k.py, which has a weight decay of 0.1 and no dropout
    "Ti/16": "light1",
    "S/32": "medium1",
    "S/16": "medium2",
    "B/32": "medium2",
    "B/16": "medium2",
    "L/16": "medium2",
}

# Table 4: steps, warm-up in steps, learning rate; then the crop, and the training and evaluation split. On held-out
# images, the paper chooses steps and warm-up from (500, 100) and (2,500, 200) for Pets, and from (2,500, 200) and
# (10,000, 500) for CIFAR-100 and Resisc45, and the rate from 0.001, 0.003 and 0.01. These are the values of
# big_vision's configs/transfer.py; for Resisc45, which it lacks, the shorter training, the middle rate, and the splits
# of google-research/task_adaptation.
TRANSFER = {
    "imagenet2012": (20_000, 500, None, "inception_crop", ("train[:99%]", "validation")),
    "cifar100": (10_000, 500, 0.01, "random_crop", ("train[:98%]", "test")),
    "oxford_iiit_pet": (500, 100, 0.003, "inception_crop", ("train[:90%]", "test")),
    "resisc45": (2_500, 200, 0.003, "inception_crop", ("train[:60%]", "train[80%:]")),
}


def get_config(arg: str = "B/16,imagenet2012") -> Config:
    chosen = choose(
        FILE,
        arg,
        model=RECOMMENDED,
        dataset=(*TRANSFER, "imagenet21k"),
        augmentation=AUGMENTATIONS,
        weight_decay=WEIGHT_DECAY,
        dropout=DROPOUT,
        epochs=EPOCHS,
        size=("224", "384"),
        runlocal=("runlocal",),
    )
    model, dataset = chosen["model"] or "B/16", chosen["dataset"] or "imagenet2012"
    grid = {axis: chosen[axis] for axis in ("augmentation", "weight_decay", "dropout", "epochs") if chosen[axis]}
    known = TRANSFER if chosen["size"] else ("imagenet2012", "imagenet21k")
    check_dataset(FILE, arg, dataset, known, "transfer" if chosen["size"] else "pre-training")
    if chosen["size"]:
        if grid:
            raise UserError(f"{FILE}:{arg}: {', '.join(grid.values())} has no effect on a transfer; leave it out")
        config = transfer(model, dataset, 48 if chosen["runlocal"] else int(chosen["size"]))
    else:
        config = pretraining(model, dataset, size=32 if chosen["runlocal"] else 224, **grid)
    return shrink(config) if chosen["runlocal"] else config


def pretraining(model: str, dataset: str, *, size: int = 224, epochs: str = "300ep", **grid: str) -> Config:
    """Pre-training: section 3 and big_vision's configs/vit_i1k.py and vit_i21k.py.

    The loss, its initial bias and the images that are held out are those of big_vision. On ImageNet, the head has a
    hidden layer with tanh. The model has a class token, as in the paper; big_vision's vit_i21k.py averages the patches.
    big_vision multiplies weight decay by the schedule, but not by the peak, so that its 1e-4 is 0.1 here.
    Deviation: ImageNet-21k is read from a folder, with one label per image.

    Args:
      grid: `augmentation`, `weight_decay` and `dropout`; by default those of `RECOMMENDED` or `ON_IMAGENET`.
    """
    is_imagenet = dataset == "imagenet2012"
    if epochs == "30ep" and is_imagenet:
        raise UserError(f"{FILE}: 30ep is an option of imagenet21k only; imagenet2012 has 300 epochs")
    standard = (ON_IMAGENET.get(model, ""), "wd_0.1", "do_0.0") if is_imagenet else RECOMMENDED[model][:3]
    grid = dict(zip(("augmentation", "weight_decay", "dropout"), standard, strict=True)) | grid
    if not grid["augmentation"]:
        raise UserError(
            f"{FILE}: the authors state no augmentation for {model} on {dataset}; add one of {', '.join(AUGMENTATIONS)}"
        )
    randaug, mixup = AUGMENTATIONS[grid["augmentation"]]

    config = default_config()
    config.batch_size = 4096
    config.duration = f"{EPOCHS[epochs]} epochs"
    config.eval_every = config.checkpoint.every = "2_500 steps"

    config.model.name = f"vit:{model}"
    config.model.dropout_rate = config.model.drop_path_rate = DROPOUT[grid["dropout"]]
    config.model.head_bias_init = -6.9 if is_imagenet else -10.0
    if is_imagenet:
        config.model.representation_dim = width(model)
    name, splits = PRETRAINING_SETS[dataset]
    big_vision_images(config, name, splits, size, augmentation=randaug)
    config.task.loss = "sigmoid"
    config.task.mixup_alpha = mixup

    config.optimizer.b1, config.optimizer.b2 = 0.9, 0.999
    config.optimizer.mu_dtype = "bfloat16"
    config.optimizer.weight_decay = WEIGHT_DECAY[grid["weight_decay"]]
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule.peak = 1e-3
    config.optimizer.schedule.warmup = "10_000 steps"
    return config


def transfer(model: str, dataset: str, size: int = 384) -> Config:
    """Transfer: Table 4 and big_vision's configs/transfer.py.

    The head is a single linear layer, and the positions are resampled. There is no augmentation beyond crops and flips,
    no dropout and no weight decay. Deviation: if the classes are those of the pre-training, its head is kept, unless it
    has a hidden layer.
    """
    steps, warmup, peak, crop, splits = TRANSFER[dataset]
    augmentation, weight_decay, dropout, on_imagenet = RECOMMENDED[model]
    config = default_config()
    pretraining = f"i21k-300ep-lr_0.001-aug_{augmentation}-{weight_decay}-{dropout}-{dropout.replace('do', 'sd')}"
    config.init_from = f"{model.replace('+', '_').replace('/', '_')}-{pretraining}.npz"
    config.model.name = f"vit:{model}"
    big_vision_images(config, dataset, splits, size, crop=crop)
    google_fine_tuning(config, steps=steps, warmup=warmup, peak=peak or on_imagenet)
    return config
