"""What the recipes for images in `configs/` share: their argument, parts of their values, and a version to try them."""

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
_EVAL_RESIZE = {224: 256, 384: 448}


def choose(file: str, arg: str, **groups: Collection[str]) -> dict[str, str]:
    """Reads the argument of a config file: words separated by commas, in any order, at most one from each group.

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
            known = [word for words in groups.values() for word in words]
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
    """Returns the token width of a ViT, such as `B/16` or `R50+B/16`: the width of the hidden layer of its head."""
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
    config.data.num_workers = 8


def big_vision_images(config: Config, name: str, splits: tuple[str, str], size: int, augmentation: str = "") -> None:
    """Sets the data of a recipe, with the preprocessing of google-research/big_vision's configs.

    Deviation: big_vision resizes by area for evaluation, here by a box filter.
    """
    chain = ("inception_crop", "flip", augmentation, NORMALIZE)
    resize = f'resize({_EVAL_RESIZE.get(size, size)}, method="box")'
    evaluation = f"{resize}|center_crop|{NORMALIZE}"
    read_images(config, name, splits, size, train="|".join(filter(None, chain)), evaluation=evaluation)


def google_fine_tuning(config: Config, *, steps: int, warmup: int, peak: float) -> None:
    """Sets optimizer and length of the fine-tuning of ViT (appendix B.1.1) and AugReg (Table 4): SGD in batches of 512.

    The papers state a cosine schedule, momentum of 0.9, no weight decay and clipping at norm 1; the momentum is stored
    in bfloat16 in the authors' code.
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
    """Sets the training of DeiT (arXiv:2012.12877, Table 9, and the authors' main.py), which TnT adopts.

    Deviations: the authors' cosine schedule counts from step 0 instead of from the end of the warm-up, and changes once
    per epoch. They compute in float16 with scaled losses; bfloat16 needs no scaling. The copies of an image are in the
    same batch here, and on different GPUs there. Initial values are those of the models here: for DeiT, the authors'
    are N(0, 0.02).

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
    """Makes a recipe for images run for about a minute on two CPU cores, and returns it.

    It then trains two narrow blocks on scikit-learn's digits for 300 steps. Preprocessing, loss, regularisation,
    optimizer and the form of the schedule remain those of the recipe, and so does the patch size. Its accuracy says
    nothing about the recipe.
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
