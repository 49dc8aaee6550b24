"""Configs: the schema, overrides, free dicts, durations, and the messages for mistakes."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import types

import pytest

from vit_jax import config as schema
from vit_jax.errors import UserError

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))
OTHERS = ("augreg", "deit", "plain_vit", "timesformer", "tnt", "transformer", "vit")  # tested in files of their own
QUICKSTART = str(next(path for path in CONFIGS if path.stem == "quickstart"))


EXTRAS = {f"{section}.extra" for section in ("model", "data", "task", "optimizer")}


def test_every_key_is_documented():
    for name, key in schema.keys().items():
        assert re.match(r"\w|\(", key.meaning), name


def test_model_keys_are_the_fields_of_the_modules():
    """But for those that data and task determine; the families named in a meaning are those that have the field."""
    import dataclasses

    from vit_jax.config import families
    from vit_jax.config.model_keys import _MODEL_MEANINGS, DERIVED_FIELDS
    from vit_jax.config.schema import MODEL
    from vit_jax.models import build_model

    names = {"vit:B/16": "ViT", "tnt:S/16": "TnT", "timesformer:B/16": "TimeSformer", "transformer:base": "Transformer"}
    fields = {}
    for name in names:
        model = build_model(name)
        fields[name] = [field.name for field in dataclasses.fields(model) if field.name not in ("parent", "name")]
        assert list(families.module_fields(name.partition(":")[0])) == fields[name]
        for field, kind in families.module_fields(name.partition(":")[0]).items():
            value = getattr(model, field)
            assert kind is None or value is None or type(value) is kind, (name, field)
    every = {field for family in fields.values() for field in family}
    assert set(MODEL) == (every - set(DERIVED_FIELDS)) | {"name", "extra"}
    assert set(DERIVED_FIELDS) <= every
    assert set(_MODEL_MEANINGS) == set(MODEL) - {"name", "dtype", "extra"}
    for field in _MODEL_MEANINGS:
        having = {names[name] for name in names if field in fields[name]}
        only = re.search(r"\(([\w, ]+) only\)$", MODEL[field].meaning)
        assert set(only[1].split(", ") if only else names.values()) == having, field


def test_loading_a_config_imports_no_jax():
    code = (
        "import sys; from vit_jax.config import extensions; from vit_jax import config; "
        f"config.load_config({QUICKSTART!r}, ['--config.model.name=mylab.nets:MyViT']); "
        "assert not {'jax', 'flax', 'optax', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(__file__).parents[2])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_what_it_is(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__doc__
    config = schema.load_config(str(path), [])
    assert config.is_locked
    assert set(schema.flatten(config)) == set(schema.keys()) - EXTRAS


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem not in OTHERS], ids=lambda path: path.stem)
def test_every_config_of_images_builds_its_model_optimizer_and_preprocessing(path):
    import jax

    from vit_jax.data.modality import get_modality
    from vit_jax.experiment import Experiment
    from vit_jax.state import initial_state

    config = schema.resolve_defaults(schema.load_config(str(path), []))
    encoders = [get_modality("image").make_encoder(config, train=train) for train in (True, False)]
    data = types.SimpleNamespace(encoder=encoders[-1], labels=tuple("abcdefghij"), steps_per_epoch=50)
    experiment = Experiment.assemble(config, data)
    state = jax.eval_shape(lambda: initial_state(experiment))
    assert state.params["head"]["kernel"].shape == (experiment.model.hidden_dim, 10)
    assert experiment.task.num_classes == 10


def test_a_task_says_what_it_does_not_learn_from():
    from vit_jax.data.modality import get_modality
    from vit_jax.experiment import make_task

    config = schema.load_config(QUICKSTART, ["--config.task.name=translation"])
    encoder = get_modality("image").make_encoder(config, train=False)
    with pytest.raises(UserError, match="'translation' does not learn from image; 'classification' does"):
        make_task(config, encoder, ("a", "b"))


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
        (["--config.batch_size=many"], "config.batch_size must be a whole number from 1 to 16,777,216, got 'many'"),
        (["--config.batch_size"], "--config.batch_size needs a value: --config.batch_size=VALUE"),
        (["--config.model.extra=3"], "config.model.extra is a dict of fields; set them one by one"),
        (["--config.model.extra.width"], "write fields of your own as --config.model.extra.FIELD=VALUE"),
        (["--config.model.extra.a-b=3"], "write fields of your own as --config.model.extra.FIELD=VALUE"),
        (["--config.model.ekstra.width=3"], "did you mean 'model.extra'"),
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
    overrides = ["--config.data.path=/images", "--config.optimizer.b2=0.95", "--config.task.extra.bins=[1, (2, 3)]"]
    config = schema.load_config(QUICKSTART, overrides)
    assert config.task.extra.bins == (1, (2, 3))
    back = schema.from_dict(json.loads(config.to_json()))
    assert back == config
    assert schema.differences(json.loads(config.to_json()), back) == []


def test_a_free_dict_takes_literals_and_else_strings(tmp_path):
    """The command line overrides the file, whatever the type of the value there."""
    file = tmp_path / "own.py"
    file.write_text(
        "from vit_jax.config import default_config\n"
        "def get_config(arg=''):\n    c = default_config()\n    c.model.extra.width = 'wide'\n"
        "    c.model.extra.layers = [1, 2]\n    c.data.extra = {'noise': 0.5, 'sides': {'left': 1}}\n    return c\n"
    )
    config = schema.load_config(str(file), [])
    assert config.model.extra.to_dict() == {"width": "wide", "layers": (1, 2)}
    assert config.data.extra.to_dict() == {"noise": 0.5, "sides": {"left": 1}}
    given = {"width": "64", "layers": "(1,2)", "rate": "1e-3", "bias": "False", "seed": "None", "act": "relu", "e": ""}
    config = schema.load_config(
        str(file),
        [
            *(f"--config.model.extra.{name}={value}" for name, value in given.items()),
            "--config.data.extra.sides.top=[3]",
        ],
    )
    expected = {"width": 64, "layers": (1, 2), "rate": 1e-3, "bias": False, "seed": None, "act": "relu", "e": ""}
    assert config.model.extra.to_dict() == expected
    assert config.data.extra.to_dict() == {"noise": 0.5, "sides": {"left": 1, "top": (3,)}}
    assert config.is_locked
    assert config.model.is_locked
    assert schema.differences(json.loads(config.to_json()), config) == []


def test_a_free_dict_refuses_what_a_checkpoint_cannot_store(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from vit_jax.config import default_config\n"
        "def get_config(arg=''):\n    c = default_config()\n    c.model.extra.act = max\n    return c\n"
    )
    with pytest.raises(UserError, match=r"config\.model\.extra\.act must be a number, .* got builtin_function"):
        schema.load_config(str(file), [])


def test_what_init_from_does_not_supply_has_its_default():
    """Nothing else is filled in, and what is set stays."""
    config = schema.default_config()
    assert config.model.name is config.data.image_size is config.data.channels is None
    config.data.channels = 1
    resolved = schema.resolve_defaults(config)
    assert (resolved.model.name, resolved.data.image_size, resolved.data.channels) == ("vit:B/16", (224, 224), 1)
    assert resolved.data.train_transforms == "random_resized_crop|flip|normalize(mean=0.5, std=0.5)"
    assert resolved.data.eval_transforms == "resize(256)|center_crop|normalize(mean=0.5, std=0.5)"
    assert resolved.model.patch_size is resolved.data.path is config.model.name is None
    assert resolved.is_locked


def test_a_run_from_before_a_key_was_there_has_its_default():
    old = json.loads(schema.default_config().to_json())
    del old["data"]["frames_fps"]
    new = schema.default_config()
    assert schema.differences(old, new) == []
    new.data.frames_fps = 12.0
    assert schema.differences(old, new) == ["data.frames_fps: 30.0 -> 12.0"]


def test_what_the_weights_supply_fills_what_is_unset():
    """All of the model but its dtype, its own fields included, and the image's form; nothing else."""
    origin = schema.load_config(QUICKSTART, ["--config.model.extra.width=64", "--config.model.extra.depth=[1, 2]"])
    origin.seed, origin.model.dtype, origin.data.path = 5, "bfloat16", "/there"
    config = schema.default_config()
    config.model.num_heads, config.model.extra.width = 8, 32
    filled = schema.copy(config)
    schema.fill(filled, schema.flatten(origin), schema.FROM_WEIGHTS)
    assert (filled.model.name, filled.model.num_layers, filled.model.num_heads) == ("vit:Ti/2", 4, 8)
    assert filled.model.extra.to_dict() == {"width": 32, "depth": (1, 2)}
    assert (filled.data.image_size, filled.data.channels) == ((8, 8), 1)
    assert filled.data.eval_transforms == origin.data.eval_transforms
    assert (filled.seed, filled.model.dtype, filled.data.path) == (0, "float32", None)
    assert config.model.name is config.data.image_size is None
    assert config.model.extra.to_dict() == {"width": 32}


def test_a_run_with_keys_that_were_removed_loads_and_resumes():
    """The keys of the cache of decoded clips, for example."""
    config = schema.load_config(QUICKSTART, [])
    old = json.loads(config.to_json())
    old["data"] |= {"cache": None, "cache_gb": 50.0, "cache_side": 320}
    for section in ("model", "data", "task", "optimizer"):
        del old[section]["extra"]
    assert schema.from_dict(old) == config
    assert schema.differences(old, config) == []


def test_differences_name_what_is_below_extra():
    old = json.loads(schema.load_config(QUICKSTART, ["--config.model.extra.width=64"]).to_json())
    new = schema.load_config(QUICKSTART, ["--config.model.extra.depth=3"])
    assert schema.differences(old, new) == ["model.extra.depth: None -> 3", "model.extra.width: 64 -> None"]


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
