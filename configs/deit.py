"""DeiT (arXiv:2012.12877) without distillation: Ti, S and B, and B fine-tuned at 384 pixels.

  python -m vit_jax train --config=configs/deit.py:S --workdir=runs/deit-s
  python -m vit_jax train --config=configs/deit.py:B,384 --workdir=runs/deit-b-384 --config.init_from=runs/deit-b
  python -m vit_jax train --config=configs/deit.py:Ti,runlocal --workdir=runs/try

The argument is MODEL[,384][,runlocal], with MODEL `Ti`, `S` or `B`. Top-1 accuracy in percent on ImageNet (the authors'
README_deit.md): Ti 72.2, S 79.9, B 81.8, and B at 384 pixels 82.9. The paper's table prints 79.8 for S and 83.1 for B
at 384 pixels.

- With `384`, the model starts from `config.init_from`, by default the authors' file
  `deit_base_patch16_224-b5f2ef4d.pth` in the current folder.
- `runlocal` trains a tiny model of the same recipe on digits for about a minute.
- For a folder with `train/` and `val/` instead of TFDS, as the authors use: `--config.data.name=folder
  --config.data.path=DIR --config.data.eval_split=val`.

Hardware: the authors trained Ti and S on 4 GPUs with 256 images each, and B on 16 GPUs with 64 images each. Not run
at full size, so its memory was not measured.
"""

from vit_jax.config import Config, default_config
from vit_jax.config.recipes import choose, deit_training, shrink
from vit_jax.errors import UserError

FILE = "configs/deit.py"
ARGUMENTS = ("Ti", "S", "B", "B,384")  # that `python -m vit_jax configs` lists


def get_config(arg: str = "S") -> Config:
    chosen = choose(FILE, arg, model=("Ti", "S", "B"), size=("384",), runlocal=("runlocal",))
    is_small = bool(chosen["runlocal"])
    if chosen["size"]:
        if chosen["model"] not in ("", "B"):
            raise UserError(f"{FILE}:{arg}: the authors fine-tune only B at 384 pixels, not {chosen['model']}")
        config = fine_tuning(48 if is_small else 384)
    else:
        config = training(chosen["model"] or "S", 32 if is_small else 224)
    return shrink(config) if is_small else config


def training(model: str, size: int = 224) -> Config:
    """Training from scratch: see `deit_training`.

    There is no moving average: the authors' code keeps one, with a decay of 0.99996, but all their results are those of
    the model itself (their issue 67). To evaluate the average: `--config.optimizer.ema_decay=0.99996`.
    """
    config = default_config()
    config.model.name = f"vit:{model}/16"
    deit_training(
        config,
        "imagenet2012",
        ("train", "validation"),
        size,
        normalize="normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))",
        resize=size * 8 // 7,
    )
    return config


def fine_tuning(size: int = 384) -> Config:
    """Fine-tuning of B at 384 pixels: the command in the authors' README_deit.md."""
    config = training("B", size)
    config.init_from = "deit_base_patch16_224-b5f2ef4d.pth"
    config.batch_size = 512
    config.duration = "30 epochs"
    config.optimizer.weight_decay = 1e-8
    config.optimizer.schedule.peak = config.optimizer.schedule.end = 5e-6
    return config
