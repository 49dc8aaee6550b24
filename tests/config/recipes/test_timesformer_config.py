"""The recipes of TimeSformer: they have the numbers of the paper and of the authors' configs, and all of them build."""

import pathlib
import types

import jax
import pytest

from vit_jax import config as schema
from vit_jax.data.image import geometry
from vit_jax.data.modality import get_modality
from vit_jax.data.video.sampling import Segments, Stride
from vit_jax.errors import UserError
from vit_jax.experiment import Experiment, make_model
from vit_jax.models.blocks.timesformer import ATTENTIONS
from vit_jax.schedule import make_schedule
from vit_jax.state import initial_state

FILE = str(pathlib.Path(__file__).parents[3] / "configs" / "timesformer.py")

# dataset and variant: frames, stride in frames (None: segments), pixels, range of the shorter side, clips, crops;
# read in the authors' yaml files, and in sections 4 and 4.6 of the paper where there are none
PUBLISHED = {
    "k400": (8, 32, 224, (256, 320), 1, 3),
    "k400,hr": (16, 16, 448, (448, 512), 1, 3),
    "k400,l": (96, 4, 224, (256, 320), 1, 3),
    "k600": (8, 32, 224, (256, 320), 1, 3),
    "k600,hr": (16, 16, 448, (448, 512), 1, 3),
    "k600,l": (96, 4, 224, (256, 320), 1, 3),
    "ssv2": (8, None, 224, (256, 320), 1, 3),
    "ssv2,hr": (16, None, 448, (448, 512), 1, 3),
    "ssv2,l": (64, None, 224, (256, 320), 1, 3),
    "diving48": (8, 32, 224, (256, 320), 1, 3),
    "diving48,hr": (16, 16, 448, (448, 512), 1, 3),
    "diving48,l": (96, 4, 224, (256, 320), 1, 3),
    "howto100m": (8, 32, 224, (256, 320), 48, 3),
    "howto100m,32": (32, 32, 224, (256, 320), 12, 3),
    "howto100m,64": (64, 32, 224, (256, 320), 6, 3),
    "howto100m,96": (96, 32, 224, (256, 320), 4, 3),
}
SMALL = ("motion", "motion,space_only", "motion,object", "motion,axial,object", "motion,frames", "runlocal")


def load(arg):
    return schema.load_config(f"{FILE}:{arg}", [])


def make_encoder(config, *, train):
    return get_modality("video").make_encoder(config, train=train)


@pytest.mark.parametrize("arg", PUBLISHED)
def test_the_data_are_the_papers(arg):
    frames, stride, pixels, sides, clips, crops = PUBLISHED[arg]
    config = load(arg)
    train, test = (make_encoder(config, train=which) for which in (True, False))
    assert (config.data.name, config.data.train_split, config.data.eval_split) == ("video", "train", "val")
    assert (test.num_frames, test.image_size, test.channels) == (frames, (pixels, pixels), 3)
    assert (test.clips, test.crops, config.task.average_views) == (clips, crops, "logits")
    sampling = Segments() if stride is None else Stride(frames=stride, fps=30)
    assert train._sampling == test._sampling == sampling

    resize, crop, *flip, normalize = train.steps
    assert resize == geometry.RandomResize(*sides, inverse=arg.startswith("ssv2"), method="bilinear", antialias=False)
    assert crop == geometry.RandomCrop(size=(pixels, pixels))
    assert flip == ([] if arg.startswith("ssv2") else [geometry.Flip()])
    assert (normalize.mean, normalize.std) == (0.45, 0.225)
    assert test.steps[0] == geometry.Resize(pixels, "bilinear", antialias=False)
    assert test.steps[1:] == (geometry.CenterCrop((pixels, pixels)), normalize)


@pytest.mark.parametrize("arg", PUBLISHED)
def test_the_optimizer_is_the_papers(arg):
    config = load(arg)
    assert (config.batch_size, config.duration, config.accum_steps) == (64, "15 epochs", 1)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, True)
    assert (optimizer.weight_decay, optimizer.weight_decay_mask, optimizer.clip_norm) == (1e-4, ".*", 0)
    assert (config.task.loss, config.task.label_smoothing, config.task.mixup_alpha) == ("softmax", 0, 0)
    rate = make_schedule(optimizer.schedule, total_steps=1500, steps_per_epoch=100, hidden_dim=768)
    assert [float(rate(epoch * 100)) for epoch in range(15)] == pytest.approx([5e-3] * 11 + [5e-4] * 3 + [5e-5])
    assert float(rate(1099)) == pytest.approx(5e-3)


@pytest.mark.parametrize("arg", ["k400", "k400,hr", "ssv2,l", "howto100m,32"])
def test_the_model_is_b16(arg):
    config = load(arg)
    frames, _, pixels, *_ = PUBLISHED[arg]
    model = make_model(config, make_encoder(config, train=False), ("a", "b"))
    assert (model.hidden_dim, model.num_layers, model.num_heads, model.patch_size) == (768, 12, 12, (16, 16))
    assert (model.num_frames, model.image_size) == (frames, (pixels, pixels))
    assert (model.attention_type, model.drop_path_rate, model.dropout_rate) == ("divided_space_time", 0.1, 0)


@pytest.mark.parametrize("arg", [*PUBLISHED, *SMALL])
def test_every_recipe_has_a_model(arg):
    config = load(arg)
    for train in (True, False):
        preprocessing = make_encoder(config, train=train)
        assert make_model(config, preprocessing, ("a", "b")).num_frames == config.data.num_frames


@pytest.mark.parametrize("arg", ["k400", *SMALL])
def test_recipes_build(arg):
    config = load(arg)
    data = types.SimpleNamespace(encoder=make_encoder(config, train=False), labels=tuple("abcdef"), steps_per_epoch=500)
    experiment = Experiment.assemble(config, data)
    state = jax.eval_shape(lambda: initial_state(experiment))
    assert state.params["head"]["kernel"].shape == (experiment.model.hidden_dim, 6)


@pytest.mark.parametrize("scheme", ATTENTIONS)
def test_schemes(scheme):
    for dataset in ("k400", "ssv2", "motion", "runlocal"):
        assert load(f"{dataset},{scheme}").model.attention_type == scheme
    assert load(f"ssv2,hr,{scheme}").data.num_frames == 16


def test_the_small_ones_read_the_motion_sets():
    assert (load("motion").data.name, load("motion").data.label) == ("motion/fashion", "label")
    assert load("motion,object").data.label == load("motion,frames").data.label == "object"
    assert load("motion,frames").model.attention_type == "space_only"
    assert (load("runlocal").data.name, load("runlocal").duration) == ("motion/digits_tiny", "20 steps")
    for arg in ("motion", "runlocal"):
        config = load(arg)
        assert "flip" not in config.data.train_transforms
        assert (config.data.channels, config.data.sampling, config.data.eval_crops) == (1, "first", 1)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("k4000", "unknown data set 'k4000'; did you mean 'k400'"),
        ("k400,xl", "k400 has no option 'xl'; did you mean 'l'"),
        ("ssv2,object", "ssv2 has no option 'object'"),
        ("howto100m,16", "howto100m has no option '16'"),
        ("k400,hr,l", "k400,hr,l: give at most one of base, hr, l"),
        ("motion,axial,space_only", "at most one of space_only"),
    ],
)
def test_unknown_options(arg, message):
    with pytest.raises(UserError) as caught:
        load(arg)
    assert message in str(caught.value)


def test_default_is_kinetics():
    assert schema.flatten(schema.load_config(FILE, [])) == schema.flatten(load("k400"))
