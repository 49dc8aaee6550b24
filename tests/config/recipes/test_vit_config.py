"""The recipes of ViT have the numbers of the paper and its code, and all of them make a step."""

import pytest

from tests.config.recipes import common as recipes
from tests.config.recipes.common import chain, check_refused, check_step, rates
from vit_jax import config as schema
from vit_jax.data.image import geometry

FILE = "vit.py"
load = recipes.load

# Table 3: epochs, learning rate, decay, weight decay, dropout
TABLE_3 = {
    "B/16,jft": (7, 0.0008, "linear", 0.1, 0.0),
    "B/32,jft": (7, 0.0008, "linear", 0.1, 0.0),
    "L/32,jft": (7, 0.0006, "linear", 0.1, 0.0),
    "L/16,jft": (14, 0.0004, "linear", 0.1, 0.0),
    "H/14,jft": (14, 0.0003, "linear", 0.1, 0.0),
    "R50+B/16,jft": (7, 0.0008, "linear", 0.1, 0.0),
    "R50+B/32,jft": (7, 0.0008, "linear", 0.1, 0.0),
    "R50+L/32,jft": (7, 0.0002, "linear", 0.1, 0.0),
    "R50+L/16,jft": (14, 0.0004, "linear", 0.1, 0.0),
    "B/16,imagenet21k": (90, 0.001, "linear", 0.03, 0.1),
    "B/32,imagenet21k": (90, 0.001, "linear", 0.03, 0.1),
    "L/16,imagenet21k": (90, 0.001, "linear", 0.03, 0.1),
    "L/32,imagenet21k": (90, 0.001, "linear", 0.03, 0.1),
    "B/16,imagenet2012": (300, 0.003, "cosine", 0.3, 0.1),
    "B/32,imagenet2012": (300, 0.003, "cosine", 0.3, 0.1),
    "L/16,imagenet2012": (300, 0.003, "cosine", 0.3, 0.1),
    "L/32,imagenet2012": (300, 0.003, "cosine", 0.3, 0.1),
    "H/14,imagenet2012": (300, 0.003, "cosine", 0.3, 0.1),
}

# Table 4: steps, and the rates from which one is chosen; from the authors' code, the rate and the warm-up
TABLE_4 = {
    "imagenet2012": (20_000, (0.003, 0.01, 0.03, 0.06), 0.03, 500),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03), 0.03, 500),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03), 0.03, 500),
    "oxford_iiit_pet": (500, (0.001, 0.003, 0.01, 0.03), 0.01, 100),
    "oxford_flowers102": (500, (0.001, 0.003, 0.01, 0.03), 0.01, 100),
}


@pytest.mark.parametrize("arg", TABLE_3)
def test_pretraining_is_table_3(arg):
    epochs, peak, decay, weight_decay, dropout = TABLE_3[arg]
    config = load(FILE, arg)
    model, dataset = arg.split(",")
    assert (config.batch_size, config.duration) == (4096, f"{epochs} epochs")
    assert (config.model.name, config.model.dropout_rate) == (f"vit:{model}", dropout)
    assert (config.model.pool, config.model.pos_embed, config.model.dtype) == (None, None, "float32")  # ViT's defaults

    optimizer = config.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2) == ("adamw", 0.9, 0.999)
    assert (optimizer.weight_decay, optimizer.weight_decay_mask) == (weight_decay, ".*/kernel")
    assert optimizer.clip_norm == (1 if dataset == "imagenet2012" else 0)
    half = (1 - 1e-5 / peak) / 2 + 1e-5 / peak if decay == "linear" else 0.5
    found = rates(config, (0, 5_000, 10_000, 55_000), total=100_000)
    assert found == pytest.approx([0, peak / 2, peak, peak * half])


@pytest.mark.parametrize("dataset", ["jft", "imagenet21k", "imagenet2012"])
def test_the_data_of_pretraining_are_big_visions(dataset):
    config = load(FILE, f"B/16,{dataset}")
    is_imagenet = dataset == "imagenet2012"
    assert config.data.name == (dataset if is_imagenet else "folder")
    splits = ("train[:99%]", "validation") if is_imagenet else ("train[51200:]", "train[:25600]")
    assert (config.data.train_split, config.data.eval_split) == splits
    assert (config.task.loss, config.task.mixup_alpha) == ("softmax" if is_imagenet else "sigmoid", 0)
    assert config.model.head_bias_init == (None if is_imagenet else -10)

    crop, flip, normalize = chain(config, train=True)
    assert (crop, flip) == (geometry.InceptionCrop(area=(0.05, 1.0), size=(224, 224)), geometry.Flip())
    assert (normalize.mean, normalize.std) == (0.5, 0.5)
    assert chain(config, train=False) == (
        geometry.Resize(256, "box"),
        geometry.CenterCrop((224, 224)),
        normalize,
    )


@pytest.mark.parametrize("dataset", TABLE_4)
@pytest.mark.parametrize("size", [224, 384, 512])
def test_fine_tuning_is_table_4(dataset, size):
    steps, grid, peak, warmup = TABLE_4[dataset]
    config = load(FILE, f"B/32,{dataset},{size}")
    assert (config.batch_size, config.duration) == (512, f"{steps} steps")
    assert (config.data.name, config.data.train_split) == (dataset, "train")
    assert config.data.eval_split == ("validation" if dataset == "imagenet2012" else "test")

    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, False)
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.mu_dtype) == (0, 1, "bfloat16")
    assert optimizer.ema_decay == (0.9999 if size == 512 else 0)
    assert optimizer.schedule.peak in grid
    found = rates(config, (0, warmup, (warmup + steps) // 2), total=steps)
    assert found == pytest.approx([0, peak, peak / 2])

    crop, flip, normalize = chain(config, train=True)
    assert (crop, flip) == (geometry.InceptionCrop(area=(0.05, 1.0), size=(size, size)), geometry.Flip())
    assert chain(config, train=False) == (geometry.Resize((size, size), "bilinear", antialias=False), normalize)
    assert config.model.representation_dim is None


@pytest.mark.parametrize(
    ("arg", "dropout", "weights"),
    [
        ("B/16,384", 0.0, "ViT-B_16.npz"),
        ("B/32,384", 0.0, "ViT-B_32.npz"),
        ("L/16,512", 0.1, "ViT-L_16.npz"),
        ("L/32,384", 0.0, "ViT-L_32.npz"),
        ("H/14,518", 0.1, "ViT-H_14.npz"),
        ("R50+B/16,cifar100,384", 0.1, "R50+ViT-B_16.npz"),
        ("R50+L/32,384", 0.1, "R50+ViT-L_32.npz"),
    ],
)
def test_models_are_fine_tuned_as_in_the_authors_configs(arg, dropout, weights):
    config = load(FILE, arg)
    assert (config.model.dropout_rate, config.init_from) == (dropout, weights)


def test_one_learning_rate_differs():
    assert load(FILE, "B/16,cifar10,384").optimizer.schedule.peak == 0.01
    assert load(FILE, "B/16,cifar100,384").optimizer.schedule.peak == 0.03


def test_pretraining_makes_a_step():
    model = check_step(load(FILE, "B/16,imagenet2012")).model
    assert (model.image_size, model.representation_dim) == ((224, 224), model.hidden_dim)


@pytest.mark.slow
@pytest.mark.parametrize("arg", [arg for arg in TABLE_3 if arg != "B/16,imagenet2012"])
def test_every_pretraining_makes_a_step(arg):
    model = check_step(load(FILE, arg)).model
    assert (model.image_size, model.representation_dim) == ((224, 224), model.hidden_dim)


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["B/16,cifar10,384", "L/16,512", "R50+L/32,384", "H/14,518"])
def test_fine_tuning_makes_a_step(arg):
    model = check_step(load(FILE, arg)).model
    size = int(arg.rpartition(",")[2])
    assert (model.image_size, model.representation_dim) == ((size, size), None)


@pytest.mark.slow
def test_the_small_version_runs_and_is_fine_tuned(own_home, tmp_path):
    result = recipes.train(load(FILE, "B/16,imagenet2012,runlocal"), tmp_path / "pretrained")
    assert result["examples"] == 355
    config = load(FILE, "B/16,imagenet2012,384,runlocal", f"--config.init_from={tmp_path / 'pretrained'}")
    assert recipes.train(config, tmp_path / "tuned")["examples"] == 355


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["L/32,imagenet21k,runlocal", "R50+B/16,jft,runlocal", "H/14,518,runlocal"])
def test_small_versions_of_other_models_run(arg, own_home, tmp_path):
    assert recipes.train(load(FILE, arg), tmp_path / "run")["examples"] == 355


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("B/17", "configs/vit.py has no option 'B/17'; did you mean 'B/16'?"),
        ("B/16,imagenet", "no option 'imagenet'; did you mean 'imagenet"),
        ("B/16,L/16", "configs/vit.py:B/16,L/16: give at most one of B/16, B/32"),
        ("B/16,cifar10", "the paper has no pre-training of B/16 on cifar10, only on jft, imagenet21k, imagenet2012"),
        ("H/14,imagenet21k", "no pre-training of H/14 on imagenet21k, only on jft, imagenet2012"),
        ("B/16,jft,384", "no fine-tuning on jft, only on imagenet2012, cifar10"),
    ],
)
def test_unknown_options(arg, message):
    check_refused(FILE, arg, message)


def test_default_is_b16_on_imagenet():
    default = schema.load_config(str(recipes.CONFIGS / FILE), [])
    assert schema.flatten(default) == schema.flatten(load(FILE, "imagenet2012,B/16"))
