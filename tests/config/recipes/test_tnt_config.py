"""The recipes of TnT have the numbers of the paper and its authors, and all of them make a step."""

import jax
import pytest

from tests.config.recipes import common as recipes
from tests.config.recipes.common import check_refused, check_step
from tests.config.recipes.test_deit_config import check_chains, check_optimizer
from vit_jax import config as schema
from vit_jax.experiment import abstract_params

FILE = "tnt.py"
load = recipes.load


@pytest.mark.parametrize("model", ["Ti", "S", "B"])
def test_training_is_table_3(model):
    config = load(FILE, model)
    assert (config.batch_size, config.duration) == (1024, "300 epochs")
    assert (config.data.name, config.data.train_split, config.data.eval_split) == (
        "imagenet2012",
        "train",
        "validation",
    )
    assert (config.model.name, config.model.drop_path_rate) == (f"tnt:{model}/16", 0.1)
    assert (config.model.dtype, config.model.dropout_rate) == ("bfloat16", None)  # no dropout by default
    check_chains(config, 224, 248, 0.5, 0.5)
    check_optimizer(config, 0.05, 1e-3, 1e-5)
    assert (config.optimizer.ema_decay, config.init_from) == (0.99996, None)


@pytest.mark.parametrize(
    ("dataset", "epochs", "batch", "weight_decay", "peak", "end", "splits"),
    [
        ("imagenet2012", 30, 512, 1e-8, 5e-6, 5e-6, ("train", "validation")),  # DeiT's
        ("cifar10", 64, 128, 5e-4, 5e-5, 1e-5, ("train", "test")),
        ("cifar100", 64, 128, 5e-4, 5e-5, 1e-5, ("train", "test")),
        ("oxford_flowers102", 300, 128, 5e-4, 5e-5, 1e-5, ("train", "test")),
        ("oxford_iiit_pet", 300, 128, 5e-4, 5e-5, 1e-5, ("train", "test")),
        ("inaturalist2019", 300, 128, 5e-4, 5e-5, 1e-5, ("train", "val")),
    ],
)
def test_transfer_is_table_9(dataset, epochs, batch, weight_decay, peak, end, splits):
    config = load(FILE, f"B,{dataset},384")
    assert (config.batch_size, config.duration) == (batch, f"{epochs} epochs")
    name = "folder" if dataset == "inaturalist2019" else dataset
    assert (config.data.name, config.data.train_split, config.data.eval_split) == (name, *splits)
    assert (config.model.name, config.init_from) == ("tnt:B/16", "tnt_b_patch16_224.pth")
    check_chains(config, 384, 426, 0.5, 0.5)
    check_optimizer(config, weight_decay, peak, end)
    assert config.optimizer.ema_decay == 0


def test_training_makes_a_step():
    experiment = check_step(load(FILE, "Ti"))
    params = abstract_params(experiment.model, experiment.task)
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6) == 6  # Table 1: 6.1 M


@pytest.mark.slow
@pytest.mark.parametrize(("arg", "size"), [("S", 224), ("B", 224), ("S,cifar10,384", 384), ("B,384", 384)])
def test_every_model_makes_a_step(arg, size):
    assert check_step(load(FILE, arg)).model.image_size == (size, size)


@pytest.mark.slow
def test_the_small_version_runs_and_is_fine_tuned(own_home, tmp_path):
    assert recipes.train(load(FILE, "S,runlocal"), tmp_path / "trained")["examples"] == 355
    config = load(FILE, "S,cifar10,384,runlocal", f"--config.init_from={tmp_path / 'trained'}")
    assert recipes.train(config, tmp_path / "tuned")["examples"] == 355


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("L", "configs/tnt.py has no option 'L'"),
        ("S,B", "give at most one of Ti, S, B"),
        ("S,cifar10", "no training at 224 pixels on cifar10, only on imagenet2012"),
        ("S,cifar,384", "no option 'cifar'; did you mean 'cifar10'?"),
    ],
)
def test_unknown_options(arg, message):
    check_refused(FILE, arg, message)


def test_default_is_s():
    default = schema.load_config(str(recipes.CONFIGS / FILE), [])
    assert schema.flatten(default) == schema.flatten(load(FILE, "S"))
