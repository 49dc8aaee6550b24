"""The recipes of DeiT have the numbers of the authors' code, and all of them make a step."""

import jax
import pytest

from tests.config.recipes import common as recipes
from tests.config.recipes.common import chain, check_refused, check_step, rates
from vit_jax import config as schema
from vit_jax.data.image import geometry
from vit_jax.data.image.randaugment import RandAugment
from vit_jax.data.image.values import RandomErasing
from vit_jax.experiment import abstract_params

FILE = "deit.py"
load = recipes.load


def check_chains(config, size, resize, mean, std):
    """Checks preprocessing and mixing, which TnT has as well."""
    crop, flip, randaugment, normalize, erasing = chain(config, train=True)
    assert crop == geometry.RandomResizedCrop((0.08, 1.0), (3 / 4, 4 / 3), "bicubic", size=(size, size))
    assert flip == geometry.Flip(0.5)
    assert (randaugment.config, randaugment.method) == ("rand-m9-mstd0.5-inc1", "bicubic")
    assert isinstance(randaugment, RandAugment)
    assert (normalize.mean, normalize.std) == (mean, std)
    assert erasing == RandomErasing(p=0.25, mode="pixel", area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3))
    assert chain(config, train=False) == (
        geometry.Resize(resize, "bicubic"),
        geometry.CenterCrop((size, size)),
        normalize,
    )
    task = config.task
    assert (task.mixup_alpha, task.cutmix_alpha, task.mix_probability) == (0.8, 1.0, 1.0)
    assert (task.loss, task.label_smoothing, config.data.repeats) == ("softmax", 0.1, 3)


def check_optimizer(config, weight_decay, peak, end):
    """Checks the optimizer and the schedule, which TnT shares."""
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.eps) == ("adamw", 0.9, 0.999, 1e-8)
    assert (optimizer.weight_decay, optimizer.weight_decay_mask, optimizer.clip_norm) == (weight_decay, ".*/kernel", 0)
    found = rates(config, (0, 2_500, 5_000, 152_500, 300_000), total=300_000)
    assert found == pytest.approx([1e-6, (1e-6 + peak) / 2, peak, (peak + end) / 2, end], rel=1e-5)  # float32


@pytest.mark.parametrize("model", ["Ti", "S", "B"])
def test_training_is_the_authors(model):
    config = load(FILE, model)
    assert (config.batch_size, config.duration) == (1024, "300 epochs")
    assert (config.data.name, config.data.train_split, config.data.eval_split) == (
        "imagenet2012",
        "train",
        "validation",
    )
    assert (config.model.name, config.model.drop_path_rate, config.model.gelu) == (f"vit:{model}/16", 0.1, "exact")
    assert (config.model.dtype, config.model.dropout_rate) == ("bfloat16", None)  # no dropout by default
    check_chains(config, 224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    check_optimizer(config, 0.05, 1e-3, 1e-5)
    assert (config.optimizer.ema_decay, config.init_from) == (0, None)


def test_fine_tuning_is_the_authors():
    config = load(FILE, "B,384")
    assert (config.batch_size, config.duration) == (512, "30 epochs")
    assert (config.model.name, config.init_from) == ("vit:B/16", "deit_base_patch16_224-b5f2ef4d.pth")
    check_chains(config, 384, 438, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    check_optimizer(config, 1e-8, 5e-6, 5e-6)


def test_training_makes_a_step():
    experiment = check_step(load(FILE, "Ti"))
    params = abstract_params(experiment.model, experiment.task)
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6) == 6  # 5.7 M


@pytest.mark.slow
@pytest.mark.parametrize(("arg", "size"), [("S", 224), ("B", 224), ("B,384", 384)])
def test_every_model_makes_a_step(arg, size):
    assert check_step(load(FILE, arg)).model.image_size == (size, size)


@pytest.mark.slow
def test_the_small_version_runs_and_is_fine_tuned(own_home, tmp_path):
    assert recipes.train(load(FILE, "B,runlocal"), tmp_path / "trained")["examples"] == 355
    config = load(FILE, "B,384,runlocal", f"--config.init_from={tmp_path / 'trained'}")
    assert recipes.train(config, tmp_path / "tuned")["examples"] == 355


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("L", "configs/deit.py has no option 'L'"),
        ("S,B", "give at most one of Ti, S, B"),
        ("S,385", "no option '385'; did you mean '384'?"),
        ("S,384", "the authors fine-tune only B at 384 pixels, not S"),
    ],
)
def test_unknown_options(arg, message):
    check_refused(FILE, arg, message)


def test_default_is_s():
    default = schema.load_config(str(recipes.CONFIGS / FILE), [])
    assert schema.flatten(default) == schema.flatten(load(FILE, "S"))
