"""TimeSformer (arXiv:2102.05095): the paper's recipes, and small ones that train on a CPU.

  python -m vit_jax data check ~/k400                                 # which clips can be decoded
  python -m vit_jax train --config=configs/timesformer.py:k400 --workdir=runs/k400 \\
      --config.data.path=~/k400 --config.init_from=B_16-i21k.npz
  python -m vit_jax data prepare motion/fashion --path=DIR            # DIR holds Fashion-MNIST's four idx files
  python -m vit_jax train --config=configs/timesformer.py:motion --workdir=runs/motion

The argument is DATASET[,OPTION...]:

- `k400`, `k600`, `ssv2`, `diving48`: add `hr` or `l` for TimeSformer-HR or -L, and an attention scheme (Table 1) other
  than divided attention, for example `k400,hr` or `ssv2,joint_space_time`. The paper's top-1 accuracy in percent:

            k400 (Table 5)  k600 (Table 6)  ssv2 (Table 7)  diving48 (Table 7)
  base      78.0            79.1            59.5            74.9
  hr        79.7            81.8            62.2            78.0
  l         80.7            82.2            62.4            81.0

  These numbers are not comparable with runs that start from other weights or train on fewer clips. In the paper, the
  models of the first two columns start from ImageNet-21k weights and the others from ImageNet-1k weights. In the
  authors' code, all start from timm's `vit_base_patch16_224`, which was pre-trained on ImageNet-21k and fine-tuned on
  ImageNet-1k. `init_from` accepts a ViT-B/16 in any format that docs/checkpoints.md lists.
- `howto100m`: add 8, 32, 64 or 96 frames, for example `howto100m,96`, and start from a model trained with `k400`. Top-1
  accuracy in Table 8: 56.8, 61.2, 62.2 and 62.6 %.
- `motion`: six motions of garments; accepts an attention scheme and trains on a CPU. `motion,object` classifies the
  garments instead of their motions. As in the paper, it should start from an image model: `motion,frames` trains one on
  single frames (`motion/fashion_frames`), whose workdir is then the `init_from` of `motion,object`.
- `runlocal`: a few steps of a tiny model, to check that everything works.
"""

from collections.abc import Iterable

from vit_jax.config import Config, default_config
from vit_jax.errors import UserError, nearest

ARGUMENTS = (
    "k400",
    "k400,hr",
    "k400,l",
    "k600",
    "ssv2",
    "diving48",
    "howto100m",
    "motion",
    "motion,object",
    "motion,frames",
)  # that `python -m vit_jax configs` lists

SCHEMES = ("space_only", "joint_space_time", "divided_space_time", "sparse_local_global", "axial")

# Section 4 and the authors' configs: suffix of the model's name, number of frames, stride in frames (at 30 frames per
# second), crop size in pixels, range of the shorter side. HR's stride is that of the authors' config
# TimeSformer_divST_16x16_448; the paper states 32 for all models.
VARIANTS = {
    "base": ("", 8, 32, 224, (256, 320)),
    "hr": ("-HR", 16, 16, 448, (448, 512)),
    "l": ("-L", 96, 4, 224, (256, 320)),
}
HOWTO_CLIPS = {"8": 48, "32": 12, "64": 6, "96": 4}  # Table 8: evaluation clips per video, by number of frames


def get_config(arg: str = "k400") -> Config:
    dataset, *options = [option.strip() for option in arg.split(",")]
    if dataset not in _DATASETS:
        raise UserError(f"configs/timesformer.py: unknown data set {dataset!r}{nearest(dataset, _DATASETS)}")
    make, known = _DATASETS[dataset]
    for option in options:
        if option not in (*known, *SCHEMES):
            hint = nearest(option, (*known, *SCHEMES))
            raise UserError(f"configs/timesformer.py:{dataset} has no option {option!r}{hint}")
    variant, scheme = (_at_most_one(arg, options, choices) for choices in (known, SCHEMES))
    config = make(*variant)
    if scheme:
        config.model.attention_type = scheme[0]
    return config


def _at_most_one(arg: str, options: list[str], choices: Iterable[str]) -> list[str]:
    chosen = [option for option in options if option in choices]
    if len(chosen) > 1:
        raise UserError(f"configs/timesformer.py:{arg}: give at most one of {', '.join(choices)}")
    return chosen


def kinetics(variant: str = "base") -> Config:
    """Kinetics-400: section 4.1 and the authors' configs/Kinetics.

    Also used for Kinetics-600 and Diving-48, for which the authors published no configs.
    """
    preset, frames, stride, pixels, sides = VARIANTS[variant]
    config = _sgd(preset, frames, pixels)
    # the authors resize floats bilinearly without antialiasing; these transforms resize bytes
    config.data.train_transforms = f"random_resize{sides}|random_crop|flip|normalize(mean=0.45, std=0.225)"
    config.data.sampling = f"stride(frames={stride}, fps=30)"
    return config


def ssv2(variant: str = "base") -> Config:
    """Something-Something v2: the authors' configs/SSv2.

    Clips are folders of frames, extracted at 30 frames per second. Frames are sampled from segments, the inverse of
    the shorter side is drawn uniformly, and clips are not flipped. TimeSformer-L has 96 frames in the paper, but
    64 in the authors' config and published weights, as here. The authors' loader returns the frames in OpenCV's channel
    order, blue first; their option REVERSE_INPUT_CHANNEL has no effect.
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
    """HowTo100M: section 4.6. Evaluation covers the whole video with consecutive clips.

    The authors published no config. The paper does not state the optimizer, the number of epochs or the number of
    crops; they are those of Kinetics. For 64 frames, the table in the authors' README states 448 pixels, but the name
    of the weights 224, which is used here.
    """
    config = kinetics()
    config.data.num_frames = int(frames)
    config.data.eval_clips = HOWTO_CLIPS[frames]
    return config


def _sgd(preset: str, frames: int, pixels: int) -> Config:
    """Returns what all recipes of the paper have in common."""
    config = default_config()
    # the authors' code uses 64 clips per update, 8 on each of 8 GPUs; the paper states 16
    config.batch_size = 64
    config.duration = "15 epochs"
    # during training, the authors evaluate one random clip and one crop; here every evaluation uses their test views
    config.eval_every = "5 epochs"
    config.checkpoint.every = "5 epochs"

    # a drop path rate of 0.1 is the model's default, as in the authors' code; DROPOUT_RATE 0.5 in their configs has no
    # effect on the ViT
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
    # the authors' code sums the logits of the views, which gave their published numbers; the paper's text averages the
    # probabilities
    config.task.average_views = "logits"

    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True  # the default of the authors' code; the paper only states momentum
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_mask = ".*"  # the authors' code applies weight decay to all parameters
    config.optimizer.schedule.name = "step"
    config.optimizer.schedule.peak = 0.005
    config.optimizer.schedule.boundaries = ("11 epochs", "14 epochs")
    config.optimizer.schedule.step_factor = 0.1
    return config


def motion(learned: str = "motion") -> Config:
    """Garments from Fashion-MNIST moving over photographs: six motions, or ten classes of garments.

    Divided attention reaches a top-1 accuracy of 95 to 98 % for the motions of unseen garments (three seeds), after 9
    minutes on one CPU core. For the classes of the garments it reaches 70 % (one seed), after 15 minutes; its image
    model trains for 43 minutes on two cores.
    """
    label = "label" if learned == "motion" else "object"
    dataset, frames = ("motion/fashion_frames", 1) if learned == "frames" else ("motion/fashion", 8)
    config = _small(dataset, label, frames=frames, pixels=32)
    config.batch_size = 64
    config.duration = "6 epochs"
    config.eval_every = config.checkpoint.every = "0.5 epochs"
    config.log_every = "0.1 epochs"

    # patches of 16 pixels suffice for motions; objects need patches of 8, with which a step takes three times as long
    config.model.name = "timesformer:Ti/16" if learned == "motion" else "timesformer:Ti/8"
    config.model.hidden_dim = 96
    config.model.mlp_dim = 384
    config.model.num_layers = 3
    config.model.num_heads = 3
    config.optimizer.schedule.warmup = "0.15 epochs"

    if learned != "motion":
        config.data.train_transforms = f"flip|rot90|{config.data.train_transforms}"  # objects occur at any angle
    if learned == "object":
        config.duration = "3 epochs"
        config.optimizer.schedule.peak = 5e-4
    if learned == "frames":
        config.model.attention_type = "space_only"
        config.batch_size = 256
        config.duration = "20 epochs"
        config.eval_every = config.checkpoint.every = "0.5 epochs"
        # after 1,876 of the 18,750 steps, Muon reaches a top-1 accuracy of 45 %, and AdamW with a peak of 1e-3, 36 %
        config.optimizer.name = "muon"
        config.optimizer.momentum = 0.95
        config.optimizer.weight_decay = 0.05
        config.optimizer.schedule.peak = 3e-3
        config.optimizer.schedule.warmup = "200 steps"
    return config


def runlocal(label: str = "label") -> Config:
    """A few steps on a few moving digits from scikit-learn."""
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
    config.data.channels = 1
    config.data.sampling = "first"
    # neither crops nor flips: a flip would turn a motion to the left into one to the right
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
