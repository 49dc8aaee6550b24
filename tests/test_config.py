"""Configs: the schema, overrides, durations, and the messages for mistakes."""

import importlib.util
import json
import pathlib
import re

import pytest

from vit_jax import config as schema
from vit_jax.errors import UserError

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))
OTHERS = ("timesformer", "transformer")  # tested in files of their own
QUICKSTART = str(next(path for path in CONFIGS if path.stem == "quickstart"))


def test_every_key_is_documented():
    for name, key in schema.keys().items():
        assert key.meaning, name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_what_it_is(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__doc__
    config = schema.load_config(str(path), [])
    assert config.is_locked
    assert set(schema.flatten(config)) == set(schema.keys())


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem not in OTHERS], ids=lambda path: path.stem)
def test_every_config_of_images_builds_its_model_optimizer_and_preprocessing(path):
    import jax

    from vit_jax.experiment import make_model, make_preprocessing, make_task
    from vit_jax.train import init_state, make_plan

    config = schema.load_config(str(path), [])
    labels = tuple("abcdefghij")
    make_preprocessing(config, "image", train=True)
    preprocessing = make_preprocessing(config, "image", train=False)
    model, task = make_model(config, preprocessing, labels), make_task(config, preprocessing, labels)
    state = jax.eval_shape(lambda: init_state(config, model, task, make_plan(config, 50))[0])
    assert state.params["head"]["kernel"].shape == (model.hidden_dim, 10)
    assert task.num_classes == 10


def test_a_task_says_what_it_does_not_learn_from():
    from vit_jax.experiment import make_preprocessing, make_task

    config = schema.load_config(QUICKSTART, ["--config.task.name=translation"])
    preprocessing = make_preprocessing(config, "image", train=False)
    with pytest.raises(UserError, match="'translation' does not learn from image; 'classification' does"):
        make_task(config, preprocessing, ("a", "b"))


def test_overrides_keep_the_type_of_the_key():
    config = schema.load_config(
        QUICKSTART,
        [
            "--config.optimizer.schedule.peak=1",
            "--config.model.patch_size=(4, 2)",
            "--config.data.image_size=32,16",
            "--config.data.path=/images",
            "--config.data.strict=true",
        ],
    )
    assert config.optimizer.schedule.peak == 1.0
    assert isinstance(config.optimizer.schedule.peak, float)
    assert (config.model.patch_size, config.data.image_size) == ((4, 2), (32, 16))
    assert (config.data.path, config.data.strict) == ("/images", True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.batchsize=3"], "unknown config key 'batchsize'; did you mean 'batch_size'"),
        (["--config.optimizer.schedul.peak=3"], "did you mean 'optimizer.schedule.peak'"),
        (["--config.batch_size=many"], "batch_size"),
        (["--batch_size=3"], "unexpected argument '--batch_size=3'"),
        (["batch_size=3"], "unexpected argument 'batch_size=3'"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        schema.load_config(QUICKSTART, overrides)
    assert "\n" not in str(caught.value)


def test_a_config_file_with_an_unknown_key_is_named(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from vit_jax.config import default_config\n"
        "def get_config(arg=''):\n    c = default_config()\n    c.data.nmae = 'digits'\n    return c\n"
    )
    with pytest.raises(UserError, match=r"'nmae'.*did you mean 'name'"):
        schema.load_config(str(bad), [])
    with pytest.raises(UserError, match=r"no config file 'nowhere\.py'"):
        schema.load_config("nowhere.py:arg", [])


def test_json_round_trip_keeps_every_value():
    config = schema.load_config(QUICKSTART, ["--config.data.path=/images", "--config.optimizer.b2=0.95"])
    assert schema.from_dict(json.loads(config.to_json())) == config


def test_a_run_from_before_a_key_was_there_has_its_default():
    old = json.loads(schema.default_config().to_json())
    del old["data"]["frames_fps"]
    new = schema.default_config()
    assert schema.differences(old, new) == []
    new.data.frames_fps = 12.0
    assert schema.differences(old, new) == ["data.frames_fps: 30.0 -> 12.0"]


def test_differences_name_what_changes_results_only():
    old = json.loads(schema.load_config(QUICKSTART, []).to_json())
    new = schema.load_config(QUICKSTART, ["--config.seed=3", "--config.data.num_workers=2"])
    assert schema.differences(old, new) == ["seed: 0 -> 3"]


@pytest.mark.parametrize(
    ("duration", "steps"),
    [("3 epochs", 37), ("1 epoch", 12), ("0.5 epochs", 6), ("10_000 steps", 10_000), ("1e3 steps", 1000)],
)
def test_durations(duration, steps):
    assert schema.steps("duration", duration, 12.3) == steps


@pytest.mark.parametrize("duration", ["3", "epochs", "3 days", "-1 steps", ""])
def test_a_wrong_duration_names_its_key(duration):
    with pytest.raises(UserError, match=r"config\.eval_every"):
        schema.steps("eval_every", duration, 10)
