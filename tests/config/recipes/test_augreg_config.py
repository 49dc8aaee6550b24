"""The recipes of AugReg have the numbers of the paper and of big_vision, and make a step."""

import itertools

import pytest

from tests.config.recipes import common as recipes
from tests.config.recipes.common import chain, check_refused, check_step, rates
from vit_jax import config as schema
from vit_jax.data.image import geometry
from vit_jax.data.image.randaugment import RandAug

FILE = "augreg.py"
load = recipes.load

# Section 3: layers and magnitude of RandAugment, alpha of mixup
AUGMENTATIONS = {
    "none": (0, 0, 0.0),
    "light1": (2, 0, 0.0),
    "light2": (2, 10, 0.2),
    "medium1": (2, 15, 0.2),
    "medium2": (2, 15, 0.5),
    "strong1": (2, 20, 0.5),
    "strong2": (2, 20, 0.8),
}
# README.md of google-research/vision_transformer: augmentation, weight decay, dropout, stochastic depth, and learning
# rate of the transfer to ImageNet
RECOMMENDED = {
    "L/16": ("strong1", 0.1, 0.0, 0.0, 0.01),
    "B/16": ("medium1", 0.1, 0.0, 0.0, 0.03),
    "S/16": ("light1", 0.03, 0.0, 0.0, 0.03),
    "R50+L/32": ("medium1", 0.1, 0.1, 0.1, 0.01),
    "R26+S/32": ("light1", 0.1, 0.0, 0.0, 0.01),
    "Ti/16": ("none", 0.03, 0.0, 0.0, 0.03),
    "B/32": ("light1", 0.1, 0.0, 0.0, 0.01),
    "S/32": ("none", 0.1, 0.0, 0.0, 0.01),
    "R+Ti/16": ("none", 0.03, 0.0, 0.0, 0.03),
}
ON_IMAGENET = {  # vit_i1k.py
    "Ti/16": "light1",
    "S/32": "medium1",
    "S/16": "medium2",
    "B/32": "medium2",
    "B/16": "medium2",
    "L/16": "medium2",
}


def check_augmentation(config, name):
    layers, magnitude, alpha = AUGMENTATIONS[name]
    crop, flip, *randaug, normalize = chain(config, train=True)
    assert (crop, flip) == (geometry.InceptionCrop(area=(0.05, 1.0), size=(224, 224)), geometry.Flip())
    assert randaug == ([RandAug(layers, magnitude)] if layers else [])
    assert (normalize.mean, normalize.std) == (0.5, 0.5)
    assert (config.task.mixup_alpha, config.task.cutmix_alpha) == (alpha, 0)


@pytest.mark.parametrize("dataset", ["imagenet2012", "imagenet21k"])
@pytest.mark.parametrize(
    ("augmentation", "weight_decay", "dropout"), list(itertools.product(AUGMENTATIONS, (0.03, 0.1), (0.0, 0.1)))
)
def test_the_grid_has_28_points(dataset, augmentation, weight_decay, dropout):
    config = load(FILE, f"B/32,{dataset},{augmentation},wd_{weight_decay},do_{dropout}")
    check_augmentation(config, augmentation)
    assert config.optimizer.weight_decay == weight_decay
    assert (config.model.dropout_rate, config.model.drop_path_rate) == (dropout, dropout)


@pytest.mark.parametrize(("dataset", "epochs"), [("imagenet2012", 300), ("imagenet21k", 300), ("imagenet21k", 30)])
def test_pretraining_is_the_papers(dataset, epochs):
    config = load(FILE, f"S/16,{dataset}" + (",30ep" if epochs == 30 else ""))
    is_imagenet = dataset == "imagenet2012"
    assert (config.batch_size, config.duration) == (4096, f"{epochs} epochs")
    assert config.data.name == (dataset if is_imagenet else "folder")
    splits = ("train[:99%]", "validation") if is_imagenet else ("train[51200:]", "train[:25600]")
    assert (config.data.train_split, config.data.eval_split) == splits
    assert chain(config, train=False)[:2] == (geometry.Resize(256, "box"), geometry.CenterCrop((224, 224)))

    assert (config.task.loss, config.model.head_bias_init) == ("sigmoid", -6.9 if is_imagenet else -10)
    assert config.model.representation_dim == (384 if is_imagenet else None)
    assert (config.model.pool, config.model.pos_embed, config.model.dtype) == (None, None, "float32")  # ViT's defaults

    optimizer = config.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.mu_dtype) == ("adamw", 0.9, 0.999, "bfloat16")
    assert (optimizer.weight_decay_mask, optimizer.clip_norm) == (".*/kernel", 1)
    assert rates(config, (0, 5_000, 10_000, 55_000), total=100_000) == pytest.approx([0, 5e-4, 1e-3, 5e-4])


@pytest.mark.parametrize("model", RECOMMENDED)
def test_imagenet21k_is_the_recommended_pretraining(model):
    augmentation, weight_decay, dropout, depth, peak = RECOMMENDED[model]
    config = load(FILE, f"{model},imagenet21k")
    check_augmentation(config, augmentation)
    assert (config.model.name, config.duration) == (f"vit:{model}", "300 epochs")
    assert (config.model.dropout_rate, config.model.drop_path_rate) == (dropout, depth)
    assert config.optimizer.weight_decay == weight_decay

    tuned = load(FILE, f"{model},imagenet2012,384")
    name = model.replace("+", "_").replace("/", "_")
    grid = f"aug_{augmentation}-wd_{weight_decay}-do_{dropout}-sd_{depth}"
    assert tuned.init_from == f"{name}-i21k-300ep-lr_0.001-{grid}.npz"
    assert tuned.optimizer.schedule.peak == peak


@pytest.mark.parametrize("model", ON_IMAGENET)
def test_imagenet_is_big_visions_pretraining(model):
    config = load(FILE, f"{model},imagenet2012")
    check_augmentation(config, ON_IMAGENET[model])
    assert (config.optimizer.weight_decay, config.model.dropout_rate, config.model.drop_path_rate) == (0.1, 0, 0)


@pytest.mark.parametrize("size", [224, 384])
@pytest.mark.parametrize(
    ("dataset", "steps", "warmup", "grid", "splits"),
    [
        ("imagenet2012", 20_000, 500, (0.01, 0.03), ("train[:99%]", "validation")),
        ("cifar100", 10_000, 500, (1e-3, 3e-3, 0.01), ("train[:98%]", "test")),
        ("oxford_iiit_pet", 500, 100, (1e-3, 3e-3, 0.01), ("train[:90%]", "test")),
        ("resisc45", 2_500, 200, (1e-3, 3e-3, 0.01), ("train[:60%]", "train[80%:]")),
    ],
)
def test_transfer_is_table_4(dataset, steps, warmup, grid, splits, size):
    config = load(FILE, f"B/32,{dataset},{size}")
    assert (config.batch_size, config.duration) == (512, f"{steps} steps")
    assert (config.data.name, config.data.train_split, config.data.eval_split) == (dataset, *splits)

    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.mu_dtype) == ("sgd", 0.9, "bfloat16")
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.schedule.peak in grid) == (0, 1, True)
    peak = optimizer.schedule.peak
    assert rates(config, (0, warmup, (warmup + steps) // 2), total=steps) == pytest.approx([0, peak, peak / 2])

    *crop, flip, normalize = chain(config, train=True)
    resize = geometry.Resize({224: 256, 384: 448}[size], "box")
    inception = geometry.InceptionCrop(area=(0.05, 1.0), size=(size, size))
    assert crop == ([resize, geometry.RandomCrop((size, size))] if dataset == "cifar100" else [inception])
    assert flip == geometry.Flip()
    assert chain(config, train=False) == (resize, geometry.CenterCrop((size, size)), normalize)
    assert (config.model.dropout_rate, config.model.representation_dim, config.task.loss) == (None, None, "softmax")


def test_big_visions_best_rates():
    assert load(FILE, "B/32,cifar100,384").optimizer.schedule.peak == 0.01
    assert load(FILE, "B/32,oxford_iiit_pet,384").optimizer.schedule.peak == 0.003


def test_pretraining_makes_a_step():
    model = check_step(load(FILE, "Ti/16,imagenet2012")).model
    assert (model.image_size, model.representation_dim) == ((224, 224), model.hidden_dim)


@pytest.mark.slow
@pytest.mark.parametrize("model", RECOMMENDED)
def test_every_model_makes_a_step(model):
    assert check_step(load(FILE, f"{model},imagenet21k")).model.representation_dim is None
    assert check_step(load(FILE, f"{model},imagenet2012,384")).model.image_size == (384, 384)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arg", ["B/16,strong2,do_0.1,runlocal", "R26+S/32,imagenet21k,30ep,runlocal", "Ti/16,cifar100,384,runlocal"]
)
def test_small_versions_run(arg, own_home, tmp_path):
    assert recipes.train(load(FILE, arg), tmp_path / "run")["examples"] == 355


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("B/16,heavy1", "configs/augreg.py has no option 'heavy1'"),
        ("B/16,medium", "no option 'medium'; did you mean 'medium"),
        ("B/16,light1,light2", "give at most one of none, light1"),
        ("B/16,cifar100", "no pre-training on cifar100, only on imagenet2012, imagenet21k"),
        ("B/16,imagenet21k,384", "no transfer on imagenet21k, only on imagenet2012"),
        ("R26+S/32", "no augmentation for R26+S/32 on imagenet2012; add one of none, light1"),
        ("B/16,30ep", "30ep is an option of imagenet21k only"),
        ("B/16,384,wd_0.1", "wd_0.1 has no effect on a transfer"),
    ],
)
def test_unknown_options(arg, message):
    check_refused(FILE, arg, message)


def test_default_is_b16_on_imagenet():
    default = schema.load_config(str(recipes.CONFIGS / FILE), [])
    assert schema.flatten(default) == schema.flatten(load(FILE, "medium2,wd_0.1"))
