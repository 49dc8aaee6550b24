"""The recipe of "Better plain ViT baselines" has the authors' numbers, and makes a step."""

import pytest

from tests.config.recipes import common as recipes
from tests.config.recipes.common import chain, check_refused, check_step, rates
from vit_jax import config as schema
from vit_jax.data.image import geometry
from vit_jax.data.image.randaugment import RandAug

FILE = "plain_vit.py"
load = recipes.load


@pytest.mark.parametrize("epochs", [90, 150, 300])
def test_the_recipe_is_the_authors(epochs):
    config = load(FILE, f"{epochs}ep")
    assert (config.batch_size, config.duration) == (1024, f"{epochs} epochs")
    assert (config.data.name, config.data.train_split, config.data.eval_split) == (
        "imagenet2012",
        "train[:99%]",
        "validation",
    )
    model = config.model
    assert (model.name, model.pool, model.pos_embed, model.representation_dim) == ("vit:S/16", "gap", "sincos2d", 384)
    assert (model.dropout_rate, model.drop_path_rate, model.dtype) == (None, None, "float32")  # none by default

    crop, flip, randaug, normalize = chain(config, train=True)
    assert (crop, flip) == (geometry.InceptionCrop(area=(0.05, 1.0), size=(224, 224)), geometry.Flip())
    assert randaug == RandAug(2, 10)
    assert (normalize.mean, normalize.std) == (0.5, 0.5)
    assert chain(config, train=False) == (geometry.Resize(256, "box"), geometry.CenterCrop((224, 224)), normalize)
    task = config.task
    assert (task.loss, task.mixup_alpha, task.cutmix_alpha, task.label_smoothing) == ("softmax", 0.2, 0, 0)

    optimizer = config.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.mu_dtype) == ("adamw", 0.9, 0.999, "bfloat16")
    assert (optimizer.weight_decay, optimizer.weight_decay_mask, optimizer.clip_norm) == (0.1, ".*/kernel", 1)
    assert rates(config, (0, 5_000, 10_000, 55_000), total=100_000) == pytest.approx([0, 5e-4, 1e-3, 5e-4])


@pytest.mark.parametrize(
    ("ablation", "changed"),
    [
        (
            "no_aug",
            {"data.train_transforms": "inception_crop|flip|normalize(mean=0.5, std=0.5)", "task.mixup_alpha": 0},
        ),
        ("learned", {"model.pos_embed": "learned"}),
        ("4096", {"batch_size": 4096}),
        ("cls", {"model.pool": "cls"}),
        ("linear", {"model.representation_dim": None}),
    ],
)
def test_an_ablation_is_one_row_of_table_1(ablation, changed):
    full, ablated = (schema.flatten(load(FILE, arg)) for arg in ("150ep", f"150ep,{ablation}"))
    assert {name: value for name, value in ablated.items() if value != full[name]} == changed


def test_it_makes_a_step():
    model = check_step(load(FILE, "90ep")).model
    assert (model.grid, model.has_class_token, model.representation_dim) == ((14, 14), False, model.hidden_dim)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["no_aug", "learned", "4096", "cls", "linear"])
def test_every_ablation_makes_a_step(ablation):
    check_step(load(FILE, f"90ep,{ablation}"))


@pytest.mark.slow
def test_the_small_version_runs(own_home, tmp_path):
    assert recipes.train(load(FILE, "runlocal"), tmp_path / "run")["examples"] == 355


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("60ep", "configs/plain_vit.py has no option '60ep'; did you mean '90ep'?"),
        ("90ep,300ep", "give at most one of 90ep, 150ep, 300ep"),
        ("cls,linear", "give at most one of no_aug, learned, 4096, cls, linear"),
    ],
)
def test_unknown_options(arg, message):
    check_refused(FILE, arg, message)


def test_default_is_90_epochs():
    default = schema.load_config(str(recipes.CONFIGS / FILE), [])
    assert schema.flatten(default) == schema.flatten(load(FILE, "90ep"))
