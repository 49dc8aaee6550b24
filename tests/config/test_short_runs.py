"""A short run of every shipped config works, and a run can be extended where its schedule allows it."""

import dataclasses
import pathlib
import types

import jax
import numpy as np
import pytest

from vit_jax import config as schema
from vit_jax.errors import UserError
from vit_jax.experiment import Experiment, Plan
from vit_jax.models import build_model
from vit_jax.schedule import Durations, make_schedule
from vit_jax.train import train_and_evaluate

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SHIPPED = (
    "quickstart.py",
    "fashion_mnist.py",
    "folder.py",
    "folder.py:S/16,64",
    "finetune.py",
    "finetune.py:384",
    *(f"timesformer.py:{arg}" for arg in ("k400", "k600", "ssv2", "diving48", "howto100m", "motion", "runlocal")),
    *(f"timesformer.py:{arg}" for arg in ("k400,hr", "ssv2,l", "motion,object", "motion,frames", "runlocal,object")),
    *(f"transformer.py:{arg}" for arg in ("wmt14_en_de", "wmt14_en_de,big", "wmt14_en_fr", "messages", "runlocal")),
    *(f"transformer.py:{arg}" for arg in ("parsing", "parsing,semi", "parsing,runlocal")),
    *(f"small.py:{arg}" for arg in ("digits", "fashion", "fashion,tnt")),
    *(f"vit.py:{arg}" for arg in ("B/16,jft", "B/16,imagenet2012", "B/16,oxford_iiit_pet,384", "runlocal")),
    *(f"augreg.py:{arg}" for arg in ("B/16,imagenet21k", "B/16,imagenet2012", "B/16,resisc45,224", "runlocal")),
    *(f"plain_vit.py:{arg}" for arg in ("90ep", "300ep,4096", "runlocal")),
    *(f"deit.py:{arg}" for arg in ("S", "B,384", "runlocal")),
    *(f"tnt.py:{arg}" for arg in ("S", "S,imagenet2012,384", "S,cifar10,384", "runlocal")),
    *(f"noisy_student.py:{arg}" for arg in ("teacher", "student", "teacher,runlocal")),
)


def test_every_shipped_config_is_here():
    assert {arg.partition(":")[0] for arg in SHIPPED} == {path.name for path in CONFIGS.glob("*.py")}


@pytest.mark.parametrize("duration", ["1 steps", "20 steps", "1 epochs"])
@pytest.mark.parametrize("arg", SHIPPED)
def test_a_short_run_of_a_shipped_config_needs_no_other_flag(arg, duration):
    """Also on a folder so small that an epoch has two steps."""
    config = schema.load_config(f"{CONFIGS}/{arg}", [f"--config.duration={duration}"])
    for steps_per_epoch in (1.5, 1000.0):
        plan = Plan.from_config(config, steps_per_epoch)
        section, durations = config.optimizer.schedule, {"total_steps": plan.total, "steps_per_epoch": steps_per_epoch}
        rate = make_schedule(section, **durations, hidden_dim=64)
        rates = np.array([float(rate(step)) for step in (plan.total // 2, plan.total - 1)])
        assert np.isfinite(rates).all()
        assert rates.max() > 0 or plan.total == 1
        warmup = schema.steps("optimizer.schedule.warmup", section.warmup, steps_per_epoch)
        notes = Durations.of(section, **durations).notes
        assert bool(notes) == (warmup >= plan.total and section.name != "noam"), notes


def test_what_is_shortened_is_said_before_training():
    experiment = experiment_of("20 steps", warmup="5 epochs")
    encoder = types.SimpleNamespace(key="image")
    data = types.SimpleNamespace(encoder=encoder, labels=("a", "b"), summary=lambda: ["two classes"])
    lines = dataclasses.replace(experiment, data=data).summary(3)
    assert "config.optimizer.schedule.warmup is shortened from 50 to 2 steps: the run has 20 steps" in lines


def test_pixels_that_no_patch_covers_are_said_before_training():
    experiment = experiment_of("20 steps")
    data = types.SimpleNamespace(
        encoder=types.SimpleNamespace(key="image"), labels=("a",), summary=lambda: ["one class"]
    )
    model = build_model("vit:Ti/2", image_size=(9, 8))
    lines = dataclasses.replace(experiment, data=data, model=model).summary(3)
    assert any(line.startswith("the patches cover 8 x 8 of the 9 x 8 pixels") for line in lines)


# ---- another duration of a run that has begun ----


def experiment_of(duration, **schedule):
    config = schema.load_config(str(CONFIGS / "quickstart.py"), [f"--config.duration={duration}"])
    config.optimizer.schedule.update({"warmup": "2 steps", **schedule})
    plan = Plan.from_config(config, 10.0)
    rate = make_schedule(
        config.optimizer.schedule, total_steps=plan.total, steps_per_epoch=plan.steps_per_epoch, hidden_dim=64
    )
    model = types.SimpleNamespace(hidden_dim=64)
    return Experiment(config, None, model, None, None, rate, plan, None)


@pytest.fixture
def run(monkeypatch):
    """Pretends that the workdir has a checkpoint of step 20, made with a config."""

    def pretend(config):
        meta = {"config": config.to_dict()}
        monkeypatch.setattr("vit_jax.experiment.load_meta", lambda workdir: meta)
        monkeypatch.setattr("vit_jax.experiment.saved_steps", lambda workdir: [20, 10])

    return pretend


@pytest.mark.parametrize("name", ["constant", "step", "rsqrt", "noam"])
@pytest.mark.parametrize("duration", ["40 steps", "5 epochs", "25 steps", "20 steps"])
def test_another_duration_is_accepted_and_said_where_it_leaves_the_steps_done_as_they_were(run, name, duration):
    run(experiment_of("30 steps", name=name).config)
    (note,) = experiment_of(duration, name=name).continued("runs/it")
    assert note.startswith(f"config.duration: '30 steps' -> '{duration}', which leaves the learning rates of the 20 ")
    assert experiment_of("30 steps", name=name).continued("runs/it") == []


@pytest.mark.parametrize(
    "schedule",
    [{"name": "cosine"}, {"name": "linear"}, {"name": "rsqrt", "cooldown": "15 steps"}, {"warmup": "90 steps"}],
)
def test_another_duration_is_refused_and_explained_where_it_would_change_the_steps_done(run, schedule):
    run(experiment_of("30 steps", **schedule).config)
    with pytest.raises(UserError) as caught:
        experiment_of("40 steps", **schedule).continued("runs/it")
    why = f"schedule is {schedule['name']!r}" if "name" in schedule else "warmup was shortened"
    assert str(caught.value) == (
        f"config.duration: '30 steps' -> '40 steps' changes the learning rates of the 20 steps done, because its "
        f"{why}. Undo the change; or start a new run from these weights, with another --workdir and "
        "--config.init_from=runs/it"
    )


def test_a_cooldown_that_has_not_begun_may_be_postponed(run):
    run(experiment_of("30 steps", name="rsqrt", cooldown="10 steps").config)
    assert experiment_of("40 steps", name="rsqrt", cooldown="10 steps").continued("runs/it")


def test_a_run_cannot_end_before_its_last_step(run):
    run(experiment_of("30 steps", name="constant").config)
    with pytest.raises(UserError, match="runs/it has done 20 steps, and cannot end at 19"):
        experiment_of("19 steps", name="constant").continued("runs/it")


@pytest.mark.slow
def test_an_extended_run_is_the_run_that_was_longer_from_the_start(own_home, tmp_path, capsys):
    flags = ["batch_size=32", "eval_batch_size=64", "model.num_layers=1", "model.hidden_dim=16", "model.mlp_dim=32"]
    flags += ["optimizer.schedule.name=constant", "optimizer.schedule.warmup=0 steps", "compilation_cache="]
    flags += ["data.eval_split=test[:64]", f"data.data_dir={tmp_path / 'data'}", "eval_every=3 steps"]
    params = {}
    for workdir, durations in (("extended", ("3 steps", "5 steps")), ("at_once", ("5 steps",))):
        for duration in durations:
            overrides = [f"--config.{flag}" for flag in [*flags, f"duration={duration}"]]
            config = schema.load_config(str(CONFIGS / "quickstart.py"), overrides)
            train_and_evaluate(Experiment.from_config(config, tmp_path / workdir), tmp_path / workdir)
        from vit_jax.workdir.checkpoint import load_checkpoint

        params[workdir], meta = load_checkpoint(tmp_path / workdir)
        assert (meta["step"], meta["config"]["duration"]) == (5, "5 steps")
    jax.tree.map(np.testing.assert_array_equal, params["extended"], params["at_once"])
    assert "config.duration: '3 steps' -> '5 steps', which leaves the learning rates of" in " ".join(
        capsys.readouterr().out.split()
    )
