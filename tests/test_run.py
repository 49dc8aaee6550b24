"""`Run`: it predicts inputs as they arrive, evaluates, computes features, exports, and starts a fine-tuning run."""

import contextlib
import dataclasses
import io
import json
import pathlib
import random
import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

import vit_jax
from vit_jax.__main__ import main
from vit_jax.errors import UserError
from vit_jax.load import load_run
from vit_jax.run import Run
from vit_jax.workdir.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("own_home")
SMALL = {
    "duration": "6 steps",
    "eval_every": "6 steps",
    "optimizer__schedule__warmup": "1 steps",
    "task__mixup_alpha": 0,
}


def run(*arguments, status=0):
    """Runs a command in this process; returns what it printed, on stderr if it had to fail."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([str(argument) for argument in arguments]) == status, err.getvalue()
    return (err if status else out).getvalue()


@pytest.fixture(scope="module")
def workdir(own_home, tmp_path_factory):
    """A run on the digits, of two layers and 8 x 8 pixels."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    run(*tiny.command(workdir, "--quiet", **SMALL)[3:])
    return workdir


@pytest.fixture(scope="module")
def trained(workdir):
    return load_run(workdir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of grey images of three classes, 10 x 10 pixels."""
    root = tmp_path_factory.mktemp("folder")
    for split, count in (("train", 8), ("val", 4)):
        for level, label in enumerate(("dark", "grey", "light")):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                noise = np.random.default_rng(index).integers(0, 60, (10, 10))
                Image.fromarray((90 * level + noise).clip(0, 255).astype(np.uint8)).save(
                    root / split / label / f"{index}.png"
                )
    return root


def digits(run_, count):
    source = run_.open_split()
    return [example["image"] for example in source.__getitems__(range(count))]


# ---- predict ----


def test_answers_come_before_all_inputs_are_read(trained):
    read, images = [], digits(trained, 10)

    def endless():
        place = 0
        while True:
            read.append(place)
            yield images[place % 10]
            place += 1

    answers = trained.predict(endless(), batch_size=8)
    first = [next(answers) for _ in range(20)]
    assert len(read) <= 40
    assert first[:10] == first[10:]


def test_an_answer_is_the_softmax_of_the_logits(trained):
    images = digits(trained, 5)
    rows = jnp.stack([trained.encoder(image, None) for image in images])
    params = jax.tree.map(jnp.asarray, trained.params)
    expected = jax.nn.softmax(trained.model.apply({"params": params}, rows, train=False))
    for answer, probabilities in zip(trained.predict(images, top=10), expected, strict=True):
        found = {guess["label"]: guess["probability"] for guess in answer["predictions"]}
        np.testing.assert_allclose([found[label] for label in trained.labels], probabilities, atol=1e-6)


def test_an_input_that_cannot_be_read_raises_or_is_given_in_its_place(trained):
    images = digits(trained, 3)
    images[1] = UserError("a.png is not an image")
    with pytest.raises(UserError, match="is not an image"):
        list(trained.predict(images))
    first, error, last = trained.predict(images, on_error="yield")
    assert str(error) == "a.png is not an image"
    assert [first, last] == list(trained.predict([images[0], images[2]]))


def test_an_option_that_the_task_has_not_is_named(trained):
    with pytest.raises(UserError, match="beam_size does not apply to classification"):
        next(trained.predict(digits(trained, 1), beam_size=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"average_views": "logit"}, "unknown average_views .logit.; did you mean .logits."),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"per_frame": True}, "per_frame applies to videos; this model takes images"),
    ],
)
def test_a_value_that_is_not_legal_is_refused(trained, options, message):
    with pytest.raises(UserError, match=message):
        next(trained.predict(digits(trained, 1), **options))


def test_one_input_alone_is_refused(trained):
    for alone in (digits(trained, 1)[0], "image.png", pathlib.Path("image.png"), b"bytes", 3, None):
        with pytest.raises(UserError, match=f"takes a list .* of images, got one {type(alone).__name__}"):
            next(trained.predict(alone))


@pytest.mark.parametrize("other", ["image.png", pathlib.Path("image.png"), np.zeros((8, 8), np.uint8), None, ["x"]])
def test_an_input_of_another_kind_is_named(trained, other):
    (image,) = digits(trained, 1)
    message = f"input 1 is of type {type(other).__name__}, but must be a PIL image, such as Image.open"
    with pytest.raises(UserError, match=message):
        list(trained.predict([image, other]))
    first, error, last = trained.predict([image, other, image], on_error="yield")
    assert str(error).startswith(message)
    assert first == last


def test_an_image_that_cannot_be_decoded_is_named(trained, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    images = [Image.open(tmp_path / "whole.jpg"), Image.open(tmp_path / "half.jpg")]
    whole, half = trained.predict(images, on_error="yield")
    assert whole["predictions"]
    assert isinstance(half, UserError)
    assert re.match(r"input 1 cannot be decoded \(.*truncated", str(half))


@pytest.mark.parametrize("average", [0, -1, "2", 1.0])
def test_a_number_of_checkpoints_that_cannot_be_averaged(workdir, average):
    with pytest.raises(UserError, match=f"average must be a whole number of at least 1, got {average!r}"):
        load_run(workdir, average=average)


def test_an_array_is_no_list_of_images(trained):
    with pytest.raises(UserError, match=r"input 0 is of type ndarray, but must be a PIL image"):
        list(trained.predict(np.zeros((2, 8, 8), np.uint8)))


def test_views_are_for_videos(trained):
    with pytest.raises(UserError, match="clips and crops apply to runs on videos; this run is on images"):
        trained.with_views(clips=2)
    with pytest.raises(UserError, match="clips must be a whole number from 1 to 1,000, got 0"):
        dataclasses.replace(trained, encoder=types.SimpleNamespace(clips=1)).with_views(clips=0)


def test_the_names_of_the_package_are_listed_before_they_are_imported():
    names = {"build_model", "from_pretrained", "load_pretrained", "load_run", "save_pretrained"}
    assert names <= set(dir(vit_jax))
    assert all(callable(getattr(vit_jax, name)) for name in names)


# ---- evaluate, features, export ----


def test_a_run_evaluates_as_training_did(trained, workdir):
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    result = trained.evaluate()
    assert (result["examples"], result["skipped"]) == (355, 0)
    assert result["top1"] == last["top1"]
    assert result["loss"] == pytest.approx(last["loss"], rel=1e-6)


@pytest.mark.parametrize("strategy", ["pmap", "fsdp"])
def test_a_run_uses_the_strategy_it_was_trained_with(workdir, strategy):
    run_ = load_run(workdir)
    run_.config.parallel = strategy
    assert type(run_.parallel).__name__ == {"pmap": "DataParallel", "fsdp": "FullySharded"}[strategy]
    assert run_.evaluate("test[:50]")["examples"] == 50


def test_features_are_those_of_the_split_in_its_order(trained):
    found = trained.features("test[:9]", layer=0, kind="patch", batch_size=4)
    assert found["features"].shape == (9, *trained.model.grid, trained.model.hidden_dim)
    assert found["id"].tolist() == list(range(9))
    with pytest.raises(UserError, match="got 7"):
        trained.features("test[:9]", layer=7, kind="patch")


def test_what_is_exported_is_read_back(trained, tmp_path):
    trained.export(tmp_path / "timm", "timm")
    again = vit_jax.from_pretrained(tmp_path / "timm", num_heads=trained.model.num_heads)
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)
    assert again.labels == trained.labels


def test_other_data_than_the_runs_are_refused(trained, folder):
    with pytest.raises(UserError, match="label names do not match"):
        trained.evaluate(trained.open_split("train", name="folder", path=str(folder)))


# ---- fine-tuning ----


def finetune(workdir, start, folder, *overrides, status=0):
    overrides = (
        "duration=2 steps",
        "batch_size=6",
        "optimizer.schedule.warmup=0 steps",
        "compilation_cache=",
        *overrides,
    )
    flags = [f"--config.{override}" for override in (f"init_from={start}", f"data.path={folder}", *overrides)]
    return run("train", "--config=configs/finetune.py", f"--workdir={workdir}", *flags, status=status)


def test_finetuning_takes_architecture_and_preprocessing_from_the_run(trained, workdir, folder, tmp_path):
    printed = finetune(tmp_path / "run", workdir, folder)
    assert "head replaced: 10 classes -> 3" in printed
    tuned = load_run(tmp_path / "run")
    assert tuned.labels == ("dark", "grey", "light")
    assert tuned.encoder == trained.encoder
    for field in (
        "hidden_dim",
        "mlp_dim",
        "num_layers",
        "num_heads",
        "patch_size",
        "pool",
        "in_channels",
        "image_size",
    ):
        assert getattr(tuned.model, field) == getattr(trained.model, field)


def test_a_finetuning_resumes_without_its_origin(workdir, folder, tmp_path):
    shutil.copytree(workdir, tmp_path / "origin")
    finetune(tmp_path / "run", tmp_path / "origin", folder)
    shutil.rmtree(tmp_path / "origin")
    assert "val accuracy" in finetune(tmp_path / "run", tmp_path / "origin", folder)


def test_finetuning_from_foreign_weights_takes_their_architecture(trained, folder, tmp_path):
    trained.export(tmp_path / "timm", "timm")
    finetune(tmp_path / "run", tmp_path / "timm", folder)
    tuned = load_run(tmp_path / "run")
    assert (tuned.model.hidden_dim, tuned.model.pool) == (trained.model.hidden_dim, trained.model.pool)
    assert tuned.encoder.steps == trained.encoder.steps


def test_an_architecture_that_differs_is_refused_with_every_field(trained, workdir, folder, tmp_path):
    model = ("name=vit:Ti/2", "hidden_dim=32", "mlp_dim=32", "num_layers=3", "num_heads=4")
    data = ("data.image_size=(8, 8)", "data.channels=1", "data.eval_transforms=resize|normalize(mean=0.5, std=0.5)")
    train = "data.train_transforms=resize|normalize(mean=0.5, std=0.5)"
    line = finetune(tmp_path / "run", workdir, folder, *(f"model.{field}" for field in model), *data, train, status=2)
    for field, ours, theirs in (("hidden_dim", 32, 16), ("num_layers", 3, 2)):
        assert f"config.model.{field} is {ours}, the checkpoint has {theirs}" in line
    assert not (tmp_path / "run").exists()


def test_neither_a_name_nor_weights(folder, tmp_path):
    line = finetune(tmp_path / "run", tmp_path / "nowhere", folder, status=2)
    assert f"config.init_from={tmp_path}/nowhere: no such file or folder" in line
    assert not (tmp_path / "run").exists()


def replaced(tree, rng):
    """Returns JSON in which one value, at a random place, is another one."""
    if isinstance(tree, dict | list) and tree and rng.random() < 0.9:
        copy = dict(tree) if isinstance(tree, dict) else list(tree)
        place = rng.choice(list(copy)) if isinstance(tree, dict) else rng.randrange(len(tree))
        copy[place] = replaced(copy[place], rng)
        return copy
    return rng.choice([None, True, -1, 0.5, "", "x", "a.b:c", [], [1], ["x", 2], {}, {"key": "image"}])


def test_a_checkpoint_with_another_description_loads_or_is_refused(trained, workdir, monkeypatch):
    params, meta = load_checkpoint(workdir)
    refused = []
    for seed in range(150):
        rng = random.Random(seed)
        part = rng.choice(["config", "labels", "preprocessing", "extensions"])
        changed = {**meta, part: replaced(meta[part], rng)}
        monkeypatch.setattr("vit_jax.load.load_meta", lambda path, changed=changed: changed)
        monkeypatch.setattr("vit_jax.load.load_checkpoint", lambda path, changed=changed: (params, changed))
        try:
            assert isinstance(load_run(workdir), Run)
        except UserError as error:
            refused.append(str(error))
    assert 0 < len(refused) < 150
    assert [message for message in refused if "\n" in message] == []
