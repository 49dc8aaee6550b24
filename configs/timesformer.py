"""TimeSformer (arXiv:2102.05095): the paper's recipes, and small ones that run here.

  python -m vit_jax data check ~/k400                                 # which clips can be decoded
  python -m vit_jax train --config=configs/timesformer.py:k400 --workdir=runs/k400 \\
      --config.data.path=~/k400 --config.init_from=B_16-i21k.npz
  python -m vit_jax data prepare motion/fashion --path=DIR            # DIR holds Fashion-MNIST's four idx files
  python -m vit_jax train --config=configs/timesformer.py:motion --workdir=runs/motion

The argument is DATASET[,WORD...]:

- `k400`, `k600`, `ssv2`, `diving48`, with `hr` or `l` for TimeSformer-HR and -L, and an attention scheme (Table 1) if
  not divided: `k400,hr`, `ssv2,joint_space_time`. Top-1 in percent:

            k400 (Table 5)  k600 (Table 6)  ssv2 (Table 7)  diving48 (Table 7)
  base      78.0            79.1            59.5            74.9
  hr        79.7            81.8            62.2            78.0
  l         80.7            82.2            62.4            81.0

  On other initial weights or fewer clips they are not comparable. The first two columns start from ImageNet-21k, the
  others from ImageNet-1k; the authors' code starts all from timm's `vit_base_patch16_224`, pre-trained on ImageNet-21k
  and then fine-tuned on ImageNet-1k. A ViT-B/16 of any format in docs/checkpoints.md will do.
- `howto100m`, with 8, 32, 64 or 96 frames: `howto100m,96`. Starts from a model trained by `k400`. Table 8: 56.8, 61.2,
  62.2, 62.6.
- `motion`, with an attention scheme. Runs on a CPU. `motion,object` learns what moves in place of how it moves, and is
  to start, as the paper's models do, from an image model: `motion,frames` trains one on single frames
  (`motion/fashion_frames`), for its `init_from`.
- `runlocal`: a few steps of next to nothing, to see that all works.
"""

from collections.abc import Iterable

from vit_jax.config import Config, default_config
from vit_jax.errors import UserError, nearest

SCHEMES = ("space_only", "joint_space_time", "divided_space_time", "sparse_local_global", "axial")

# section 4 and the authors' configs: preset of the model, frames, stride in frames at 30 a second, pixels of the crop,
# range of the shorter side. HR's stride is from the config TimeSformer_divST_16x16_448; the paper says 32 of all.
VARIANTS = {
    "base": ("", 8, 32, 224, (256, 320)),
    "hr": ("-HR", 16, 16, 448, (448, 512)),
    "l": ("-L", 96, 4, 224, (256, 320)),
}
HOWTO_CLIPS = {"8": 48, "32": 12, "64": 6, "96": 4}  # Table 8: by frames, the clips that cover a video in testing


def get_config(arg: str = "k400") -> Config:
    dataset, *words = [word.strip() for word in arg.split(",")]
    if dataset not in _DATASETS:
        raise UserError(f"configs/timesformer.py: no config {dataset!r}{nearest(dataset, _DATASETS)}")
    make, known = _DATASETS[dataset]
    for word in words:
        if word not in (*known, *SCHEMES):
            raise UserError(f"configs/timesformer.py:{dataset} takes no {word!r}{nearest(word, (*known, *SCHEMES))}")
    variant, scheme = (_only_one(arg, words, choices) for choices in (known, SCHEMES))
    config = make(*variant)
    if scheme:
        config.model.attention_type = scheme[0]
    return config


def _only_one(arg: str, words: list[str], choices: Iterable[str]) -> list[str]:
    chosen = [word for word in words if word in choices]
    if len(chosen) > 1:
        raise UserError(f"configs/timesformer.py:{arg}: one of {', '.join(choices)} at most")
    return chosen


def kinetics(variant: str = "base") -> Config:
    """Section 4.1; the authors' configs/Kinetics. Kinetics-600 and Diving-48 have no published configs: taken alike."""
    preset, frames, stride, pixels, sides = VARIANTS[variant]
    config = _sgd(preset, frames, pixels)
    # theirs are bilinear without antialiasing, on floats where ours are on bytes
    config.data.train_transforms = f"random_resize{sides}|random_crop|flip|normalize(mean=0.45, std=0.225)"
    config.data.sampling = f"stride(frames={stride}, fps=30)"
    return config


def ssv2(variant: str = "base") -> Config:
    """The authors' configs/SSv2: frame folders made at 30 frames a second, segments, no flip, inverse jitter.

    TimeSformer-L has 96 frames in the paper and 64 in the config and in the published weights, as here. Their loader
    feeds these frames as OpenCV reads them, blue first, and REVERSE_INPUT_CHANNEL of the configs is used nowhere.
    """
    config = kinetics(variant)
    config.data.num_frames = 64 if variant == "l" else config.data.num_frames
    low, high = VARIANTS[variant][-1]
    config.data.train_transforms = (
        f"random_resize({low}, {high}, inverse=True)|random_crop|normalize(mean=0.45, std=0.225)"
    )
    config.data.sampling = "segments"
    return config


def howto100m(frames: str = "8") -> Config:
    """Section 4.6: whole videos, in clips next to each other. The authors published no config.

    The optimizer, the number of epochs and the three crops are Kinetics', which the paper does not say of HowTo100M.
    The table in the authors' README gives 448 pixels for 64 frames, the name of the weights 224, as here.
    """
    config = kinetics()
    config.data.num_frames = int(frames)
    config.data.eval_clips = HOWTO_CLIPS[frames]
    return config


def _sgd(preset: str, frames: int, pixels: int) -> Config:
    """What all recipes of the paper have in common."""
    config = default_config()
    # the code accumulates gradients to 64 clips an update, 8 on each of 8 GPUs; the paper says 16
    config.batch_size = 64
    config.duration = "15 epochs"
    # the authors validate on a random clip and one crop while they train; here every evaluation is the published one
    config.eval_every = "5 epochs"
    config.checkpoint.every = "5 epochs"

    # drop path 0.1 is the model's default, as in the code; DROPOUT_RATE 0.5 of the configs reaches no ViT
    config.model.name = f"timesformer:B/16{preset}"
    config.model.attention_type = "divided_space_time"

    config.data.name = "video"
    config.data.train_split, config.data.eval_split = "train", "val"
    config.data.num_frames = frames
    config.data.image_size = (pixels, pixels)
    config.data.channels = 3
    config.data.eval_transforms = (
        f'resize({pixels}, method="bilinear", antialias=False)|center_crop|normalize(mean=0.45, std=0.225)'
    )
    config.data.eval_clips, config.data.eval_crops = 1, 3
    config.data.num_workers = 8

    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True  # default of the code; the paper says momentum
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_mask = ".*"  # the code spares no parameter
    config.optimizer.schedule.name = "step"
    config.optimizer.schedule.peak = 0.005
    config.optimizer.schedule.boundaries = ("11 epochs", "14 epochs")
    config.optimizer.schedule.step_factor = 0.1
    return config


def motion(learned: str = "motion") -> Config:
    """Fashion-MNIST's images moving over photographs: six motions, or ten objects.

    Of unseen objects divided attention tells 95 to 98 % of the motions (three seeds), in 9 minutes on one CPU core, and
    70 % of the objects (one seed), in a quarter of an hour after 43 minutes on two for the image model.
    """
    label = "label" if learned == "motion" else "object"
    dataset, frames = ("motion/fashion_frames", 1) if learned == "frames" else ("motion/fashion", 8)
    config = _small(dataset, label, frames=frames, pixels=32)
    config.batch_size = 64
    config.duration = "6 epochs"
    config.eval_every = config.checkpoint.every = "0.5 epochs"
    config.log_every = "0.1 epochs"

    # motions are learned with large patches, objects with those of 8 pixels, of which a step takes three times as long
    config.model.name = "timesformer:Ti/16" if learned == "motion" else "timesformer:Ti/8"
    config.model.hidden_dim = 96
    config.model.mlp_dim = 384
    config.model.num_layers = 3
    config.model.num_heads = 3
    config.optimizer.schedule.warmup = "0.15 epochs"

    if learned != "motion":
        config.data.train_transforms = f"flip|rot90|{config.data.train_transforms}"  # objects have any angle
    if learned == "object":
        config.duration = "3 epochs"
        config.optimizer.schedule.peak = 5e-4
    if learned == "frames":
        config.model.attention_type = "space_only"
        config.batch_size = 256
        config.duration = "20 epochs"
        config.eval_every = config.checkpoint.every = "0.5 epochs"
        # after 1,876 of the 18,750 steps it is right on 45 % of the test frames; AdamW, at a peak of 1e-3, on 36 %
        config.optimizer.name = "muon"
        config.optimizer.momentum = 0.95
        config.optimizer.weight_decay = 0.05
        config.optimizer.schedule.peak = 3e-3
        config.optimizer.schedule.warmup = "200 steps"
    return config


def runlocal(label: str = "label") -> Config:
    """Scikit-learn's digits, few and small."""
    config = _small("motion/digits_tiny", label, frames=4, pixels=16)
    config.batch_size = 16
    config.duration = "20 steps"
    config.eval_every = config.checkpoint.every = "10 steps"
    config.log_every = "5 steps"

    config.model.hidden_dim = 24
    config.model.mlp_dim = 48
    config.model.num_layers = 1
    config.model.num_heads = 2
    config.optimizer.schedule.warmup = "2 steps"
    return config


def _small(dataset: str, label: str, *, frames: int, pixels: int) -> Config:
    config = default_config()
    config.model.name = "timesformer:Ti/8"
    config.model.attention_type = "divided_space_time"
    config.model.drop_path_rate = 0.0
    config.model.weight_init = "scratch"

    config.data.name = dataset
    config.data.label = label
    config.data.num_frames = frames
    config.data.image_size = (pixels, pixels)
    config.data.channels = 3
    config.data.channels = 1
    config.data.sampling = "first"
    # no crop, and for motions no flip: left would become right
    config.data.train_transforms = config.data.eval_transforms = "normalize(mean=0.5, std=0.5)"

    config.optimizer.schedule.peak = 1e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 1.0
    return config


_DATASETS = {
    "k400": (kinetics, VARIANTS),
    "k600": (kinetics, VARIANTS),
    "ssv2": (ssv2, VARIANTS),
    "diving48": (kinetics, VARIANTS),
    "howto100m": (howto100m, HOWTO_CLIPS),
    "motion": (motion, ("object", "frames")),
    "runlocal": (runlocal, ("object",)),
}
