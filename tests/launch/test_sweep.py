"""What a sweep consists of, and mistakes in it."""

import json

import pytest

from vit_jax.errors import UserError
from vit_jax.launch.sweep import Sweep, load_sweep, swept_keys

CONFIG = "configs/quickstart.py"


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def parse(*sweeps, overrides=(), seeds=None):
    return Sweep.parse(CONFIG, list(overrides), sweeps, seeds)


def test_every_combination_is_a_run_with_a_name_of_its_own():
    sweep = parse("optimizer.schedule.peak=1e-3,3e-3", "model.num_layers=2,4", seeds=2)
    assert len(sweep.points) == 8
    assert sweep.points[1].name == "peak=1e-3,num_layers=2,seed=1"
    assert sweep.points[1].overrides == [
        "--config.optimizer.schedule.peak=1e-3", "--config.model.num_layers=2", "--config.seed=1",
    ]  # fmt: skip
    assert swept_keys(sweep) == ["optimizer.schedule.peak", "model.num_layers", "seed"]


def test_without_keys_there_is_one_run():
    assert [(point.name, point.overrides) for point in parse().points] == [("run", [])]


def test_names_are_as_long_as_they_must_be_and_fit_into_a_path():
    sweep = parse("optimizer.name=adamw", "task.name=classification", "model.name=vit:Ti/2,vit:S/4")
    assert sweep.points[0].name == "optimizer.name=adamw,task.name=classification,model.name=vit_Ti_2"


def test_commas_within_brackets_and_quotes_separate_nothing():
    sweep = parse("data.image_size=(8,8),(16,16)", "data.eval_transforms=resize|normalize(mean=0.5, std=0.5)")
    assert [point.values["data.image_size"] for point in sweep.points] == ["(8,8)", "(16,16)"]
    assert sweep.points[0].values["data.eval_transforms"] == "resize|normalize(mean=0.5, std=0.5)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sweeps": ["optimizer.schedule.peek=1,2"]},
            "unknown config key 'optimizer.schedule.peek'; did you mean 'opt",
        ),
        ({"sweeps": ["seed=1,,2"]}, "--sweep seed=1,,2 has an empty value"),
        ({"sweeps": ["seed="]}, "--sweep seed= has an empty value"),
        ({"sweeps": ["seed"]}, "--sweep seed must be KEY=VALUE,VALUE"),
        ({"sweeps": ["seed=1,1"]}, "--sweep seed=1,1 has a value twice"),
        ({"sweeps": ["seed=1", "seed=2"]}, "--sweep seed is given twice"),
        ({"sweeps": ["seed=1"], "seeds": 2}, "both set the seed"),
        ({"sweeps": ["seed=1"], "overrides": ["--config.seed=3"]}, "--config.seed sets the same key"),
        ({"sweeps": ["seed=1,many"]}, "config.seed must be a whole number"),
        ({"sweeps": ["model.name=vit:Ti/2,vit:Ti|2"]}, "two runs have the folder 'name=vit_Ti_2'"),
        ({"sweeps": ["batch_size=" + ",".join(map(str, range(1, 200)))], "seeds": 100}, "the sweep has 19,900 runs"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError) as error:
        parse(*arguments.pop("sweeps"), **arguments)
    assert message in str(error.value)


def test_more_values_may_be_added_but_nothing_else_changed(tmp_path):
    folder = tmp_path / "sweep"
    parse("model.num_layers=2,4").save(folder)
    merged = parse("model.num_layers=4,6").save(folder)
    assert [point.name for point in merged.points] == ["num_layers=2", "num_layers=4", "num_layers=6"]
    assert load_sweep(folder) == merged
    with pytest.raises(UserError, match=r"holds a sweep of another config .*batch_size: 128 -> 64"):
        parse("model.num_layers=2", overrides=["--config.batch_size=64"]).save(folder)
    with pytest.raises(UserError, match="duration: '100 epochs' -> '2 epochs'"):
        parse("model.num_layers=2", overrides=["--config.duration=2 epochs"]).save(folder)


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="is not empty, and holds no sweep"):
        parse().save(tmp_path)
    with pytest.raises(UserError, match="holds no sweep"):
        load_sweep(tmp_path)
    for text, message in (("{", "is damaged"), (json.dumps({"version": 7}), "is of version 7")):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_sweep(tmp_path)
