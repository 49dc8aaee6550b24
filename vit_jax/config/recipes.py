"""What the recipes for images in `configs/` have in common.

They share the form of their argument (`choose`), values that come from one source (google-research's code, DeiT), and
the version of each that runs on a CPU (`shrink`).
"""

from collections.abc import Collection

from vit_jax.config import Config
from vit_jax.errors import UserError, nearest

NORMALIZE = "normalize(mean=0.5, std=0.5)"  # values from -1 to 1, as in the code of google-research and of TnT

# Data sets for pre-training: config.data.name, and training and evaluation split. ImageNet-21k is not in TFDS and
# JFT-300M is not public, so both are read from folders. The held-out images are those of big_vision's vit_i1k.py and
# vit_i21k.py.
PRETRAINING_SETS = {
    "imagenet2012": ("imagenet2012", ("train[:99%]", "validation")),
    "imagenet21k": ("folder", ("train[51200:]", "train[:25600]")),
    "jft": ("folder", ("train[51200:]", "train[:25600]")),
}
_WIDTHS = {"Ti": 192, "S": 384, "B": 768, "L": 1024, "H": 1280}
_RESIZE = {224: 256, 384: 448}  # shorter side before a crop, by its size; both in pixels


def choose(file: str, arg: str, **groups: Collection[str]) -> dict[str, str]:
    """Reads the argument of a config file, such as `B/16,imagenet2012,384`.

    It consists of words separated by commas, in any order, with at most one from each group.

    Example:
      >>> choose("configs/vit.py", "B/16,384", model=("B/16", "L/16"), dataset=("cifar10",), size=("384",))
      {'model': 'B/16', 'dataset': '', 'size': '384'}

    Returns:
      The word from each group; an empty string if there is none.

    Raises:
      UserError: A word belongs to no group, or two words to the same.
    """
    chosen = dict.fromkeys(groups, "")
    for word in filter(None, (part.strip() for part in arg.split(","))):
        group = next((group for group, words in groups.items() if word in words), None)
        if group is None:
            known = list(dict.fromkeys(word for words in groups.values() for word in words))
            raise UserError(f"{file} has no option {word!r}{nearest(word, known)}")
        if chosen[group]:
            raise UserError(f"{file}:{arg}: give at most one of {', '.join(groups[group])}")
        chosen[group] = word
    return chosen


def check_dataset(file: str, arg: str, dataset: str, known: Collection[str], what: str) -> None:
    """Checks that a paper has `what`, such as fine-tuning, on a data set.

    Raises:
      UserError: It has not.
    """
    if dataset not in known:
        raise UserError(f"{file}:{arg}: the paper has no {what} on {dataset}, only on {', '.join(known)}")


def width(model: str) -> int:
    """Returns the token width of a ViT such as `B/16` or `R50+B/16`."""
    return _WIDTHS[model.split("+")[-1].split("/")[0]]


def read_images(config: Config, name: str, splits: tuple[str, str], size: int, *, train: str, evaluation: str) -> None:
    """Sets the data of a recipe: RGB images of `size` x `size` pixels.

    Args:
      splits: Training and evaluation split.
      train, evaluation: The chains of transforms.
    """
    config.data.name = name
    config.data.train_split, config.data.eval_split = splits
    config.data.image_size = (size, size)
    config.data.channels = 3
    config.data.train_transforms, config.data.eval_transforms = train, evaluation


def big_vision_images(
    config: Config,
    name: str,
    splits: tuple[str, str],
    size: int,
    *,
    crop: str = "inception_crop",
    augmentation: str = "",
) -> None:
    """Sets the data of a recipe, with the preprocessing of google-research/big_vision's configs.

    Deviation: big_vision's `resize_small` averages by area, here with a box filter.

    Args:
      crop: `inception_crop`, or `random_crop` of the image resized as in evaluation.
      augmentation: A transform after the flip; empty for none.
    """
    resize = f'resize({_RESIZE.get(size, size)}, method="box")'
    chain = (resize if crop == "random_crop" else "", crop, "flip", augmentation, NORMALIZE)
    evaluation = f"{resize}|center_crop|{NORMALIZE}"
    read_images(config, name, splits, size, train="|".join(filter(None, chain)), evaluation=evaluation)


def google_fine_tuning(config: Config, *, steps: int, warmup: int, peak: float) -> None:
    """Sets the optimizer of fine-tuning in ViT (appendix B.1.1) and AugReg (Table 4).

    The papers state SGD with a momentum of 0.9 in batches of 512, a cosine schedule, no weight decay, and clipping at
    norm 1. The authors' code stores the momentum in bfloat16.
    """
    config.batch_size = 512
    config.duration = f"{steps} steps"
    config.eval_every = config.checkpoint.every = f"{steps // 10} steps"
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.mu_dtype = "bfloat16"
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule.peak = peak
    config.optimizer.schedule.warmup = f"{warmup} steps"


def deit_training(
    config: Config, name: str, splits: tuple[str, str], size: int, *, normalize: str, resize: int
) -> None:
    """Sets the training of DeiT, which TnT adopts.

    The values are those of DeiT's paper (arXiv:2012.12877, Table 9) and of the defaults in the authors' main.py.
    Deviations: the authors' cosine schedule counts from step 0 instead of from the end of the warm-up, and changes once
    per epoch. They compute matrix products in float16 with scaled losses, and keep the tokens between them in float32;
    here both are bfloat16. The copies of an image are on different GPUs there, and neighbours in a batch here. DeiT's
    initial values are N(0, 0.02), here those of `ViT`.

    Args:
      normalize: The transform `normalize` of the recipe.
      resize: Shorter side in pixels before the crop, in evaluation.
    """
    config.batch_size = 1024
    config.duration = "300 epochs"
    config.eval_every = config.checkpoint.every = "5 epochs"

    config.model.dtype = "bfloat16"
    config.model.gelu = "exact"
    config.model.drop_path_rate = 0.1

    # the authors' colour jitter has no effect together with RandAugment
    augmentation = 'random_resized_crop|flip|randaugment("rand-m9-mstd0.5-inc1")'
    read_images(
        config,
        name,
        splits,
        size,
        train=f"{augmentation}|{normalize}|random_erasing(p=0.25)",
        evaluation=f"resize({resize})|center_crop|{normalize}",
    )
    config.data.repeats = 3
    config.task.label_smoothing = 0.1
    config.task.mixup_alpha = 0.8
    config.task.cutmix_alpha = 1.0

    config.optimizer.weight_decay = 0.05  # of kernels: neither biases and norms nor positions and class tokens decay
    config.optimizer.schedule.peak = 1e-3
    config.optimizer.schedule.warmup = "5 epochs"
    config.optimizer.schedule.start = 1e-6
    config.optimizer.schedule.end = 1e-5


def shrink(config: Config) -> Config:
    """Changes a recipe so that it runs for about a minute on two CPU cores; returns it.

    It then trains two narrow blocks on scikit-learn's digits for 300 steps, or 100 for a hybrid. Preprocessing, loss,
    regularisation, optimizer and the form of the schedule remain those of the recipe, and so does the patch size. Its
    accuracy says nothing about the recipe.
    """
    config.batch_size = 64
    config.duration = "300 steps"
    config.eval_every = config.checkpoint.every = "100 steps"
    config.log_every = "50 steps"
    config.init_from = None

    config.model.hidden_dim = 64
    config.model.mlp_dim = 128
    config.model.num_layers = 2
    config.model.num_heads = 4
    if config.model.representation_dim:
        config.model.representation_dim = 64
    if "+" in config.model.name:  # a hybrid, whose ResNet keeps its depth
        config.duration = "100 steps"
        config.model.resnet_width = 32
    if config.model.name.startswith("tnt:"):
        config.model.inner_hidden_dim = 8
        config.model.inner_mlp_dim = 16
        config.model.inner_num_heads = 2

    config.data.name = "digits"
    config.data.train_split, config.data.eval_split = "train", "test"
    config.data.num_workers = 0

    config.optimizer.schedule.warmup = "30 steps"
    if config.optimizer.ema_decay:
        config.optimizer.ema_decay = 0.9  # the recipe's average would stay close to the initial parameters
    return config
