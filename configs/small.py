"""Small recipes: what `python -m vit_jax reproduce TABLE --scale=small` trains, with the overrides of each row.

  python -m vit_jax train --config=configs/small.py:digits --workdir=runs/digits
  python -m vit_jax train --config=configs/small.py:digits,tnt --workdir=runs/digits-tnt
  python -m vit_jax train --config=configs/small.py:fashion --workdir=runs/fashion
  python -m vit_jax train --config=configs/small.py:motion --workdir=runs/motion

The argument is DATASET, or DATASET,tnt for the two sets of images.

- `digits`: scikit-learn's handwritten digits, 1,442 to train and 355 to test. They need no download.
- `fashion`: Fashion-MNIST, prepared by `python -m vit_jax data prepare fashion_mnist --path=DIR`.
- `motion`: six motions of digits over photographs, prepared by `python -m vit_jax data prepare motion/digits`.
- `messages`: interface strings of programs on PyPI, English to Italian. `reproduce transformer/table3 --scale=small`
  downloads them.

The model of images is a ViT of 0.1 M parameters with 16 or 49 patches, or with `tnt` a TNT whose patches have 16 words;
that of clips, a TimeSformer with 16 patches a frame; that of text, a Transformer of 0.3 M parameters. All recipes use
AdamW and a cosine schedule, and those of images light augmentation. Scores are in docs/tables.md.
"""

from vit_jax.config import Config, default_config
from vit_jax.config.recipes import choose
from vit_jax.errors import UserError

FILE = "configs/small.py"


def get_config(arg: str = "digits") -> Config:
    chosen = choose(FILE, arg, dataset=tuple(_DATASETS), model=("tnt",))
    dataset = chosen["dataset"] or "digits"
    if chosen["model"] and dataset not in ("digits", "fashion"):
        raise UserError(f"{FILE}:{arg}: tnt is a model of images, for digits or fashion")
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
    _DATASETS[dataset](config)
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


def _motion(config: Config) -> None:
    """Sets a TimeSformer of divided attention with patches of 8 x 8 pixels, on clips of 8 frames of 32 x 32."""
    config.batch_size = 32
    config.duration = "625 steps"
    config.eval_every = config.checkpoint.every = "625 steps"
    config.log_every = "125 steps"
    config.optimizer.schedule.warmup = "50 steps"
    config.optimizer.weight_decay = 0.01
    config.model.name = "timesformer:Ti/8"
    config.model.attention_type = "divided_space_time"
    config.model.weight_init = "scratch"
    config.model.drop_path_rate = 0.0
    config.model.hidden_dim = 64
    config.model.mlp_dim = 256
    config.model.num_layers = 3
    config.data.name = "motion/digits"
    config.data.label = "label"
    config.data.train_split, config.data.eval_split = "train[:20000]", "test"
    config.data.num_frames = 8
    config.data.sampling = "first"
    config.data.image_size = (32, 32)
    # neither crops nor flips: a flip would turn a motion to the left into one to the right
    config.data.train_transforms = config.data.eval_transforms = "normalize(mean=0.5, std=0.5)"


def _messages(config: Config) -> None:
    """Sets a Transformer with pre-norm blocks, which suit a short training, unlike those of the paper."""
    config.batch_size = 1024  # tokens per side
    config.duration = "800 steps"
    config.eval_every = "800 steps"
    config.checkpoint.every = "40 steps"
    config.checkpoint.keep_last = 5
    config.checkpoint.best = "bleu"
    config.log_every = "100 steps"
    config.optimizer.schedule.peak = 3e-3
    config.optimizer.schedule.warmup = "100 steps"
    config.optimizer.b2, config.optimizer.eps = 0.98, 1e-9
    config.optimizer.weight_decay = 0.0
    config.model.name = "transformer:base"
    config.model.norm = "pre"
    config.model.dropout_rate = 0.1
    config.model.hidden_dim = 64
    config.model.mlp_dim = 256
    config.model.num_layers = 2
    config.data.name = "text"
    config.data.languages = ("en", "it")
    config.data.train_split, config.data.eval_split = "train", "test"
    config.data.vocab_size = 1_000
    config.data.buckets = (12, 32, 96)  # the longest test sentence has 90 sub-words
    config.task.name = "translation"
    config.task.label_smoothing = 0.1
    config.task.extra_length = 12


def _tnt(config: Config) -> None:
    """Sets a TNT with patches of 8 x 8 pixels and words of 2 x 2, on images of 32 x 32 pixels; half as many epochs."""
    epochs = int(config.duration.split()[0]) // 2
    config.duration = config.eval_every = config.checkpoint.every = f"{epochs} epochs"
    config.model.name = "tnt:S/8"
    config.model.inner_hidden_dim = 24
    config.model.inner_mlp_dim = 96
    config.model.inner_num_heads = 4
    config.data.image_size = (32, 32)
    for chain in ("train_transforms", "eval_transforms"):
        config.data[chain] = f"resize(32)|{config.data[chain]}"


_DATASETS = {"digits": _digits, "fashion": _fashion, "motion": _motion, "messages": _messages}
