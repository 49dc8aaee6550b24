"""The commands from end to end: what they print, write and return."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
from matplotlib import pyplot  # noqa: F401  here, before HOME is another and its fonts would be searched for again
from PIL import Image

from vit_jax.__main__ import COMMANDS, main
from vit_jax.config import keys

COLOURS = {"blue": (0, 0, 255), "green": (0, 200, 0), "red": (255, 0, 0)}
TRAIN_SIZE, EVAL_SIZE = 18, 9
FOLDER = {
    "data__name": "folder",
    "data__eval_split": "val",
    "data__channels": 3,
    "data__image_size": (8, 8),
    "data__train_transforms": "resize|normalize(mean=0.5, std=0.5)",
    "data__eval_transforms": "resize|normalize(mean=0.5, std=0.5)",
    "batch_size": 6,
    "duration": "20 steps",
    "task__mixup_alpha": 0,
    "model__num_layers": 1,
    "model__dropout_rate": 0,
}
BARELY_MOVED = {"duration": "1 steps", "optimizer__schedule__peak": 1e-6, "optimizer__schedule__warmup": "0 steps"}
pytestmark = pytest.mark.usefixtures("own_home")


def run(*arguments):
    """Runs a command that must succeed, in this process; returns what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(argument) for argument in arguments]) == 0
    return out.getvalue()


def train(workdir, *arguments, **flags):
    return run(*tiny.command(workdir, *arguments, **flags)[3:])


def evaluate(checkpoint, *arguments):
    return json.loads(run("evaluate", checkpoint, "--json", *arguments))


def write_images(folder, count):
    """Writes noisy images of a colour, of another size each, into a folder for each colour."""
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng(index).normal(0, 20, (9 + index, 12, 3))
            Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(folder / label / f"{index}.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of three classes with two files in `train` that cannot be read."""
    folder = tmp_path_factory.mktemp("colours")
    write_images(folder / "train", TRAIN_SIZE // 3)
    write_images(folder / "val", EVAL_SIZE // 3)
    whole = (folder / "train" / "red" / "0.png").read_bytes()
    (folder / "train" / "red" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "blue" / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """Returns the workdir of a run on `images`, and what the command printed."""
    workdir = tmp_path_factory.mktemp("runs") / "colours"
    return workdir, train(workdir, data__path=images, **FOLDER)


@pytest.fixture
def workdir(trained):
    return trained[0]


# ---- help ----


def in_a_process(*arguments):
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    command = [sys.executable, "-X", "importtime", *arguments]
    process = subprocess.run(command, cwd=tiny.ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    return process.stdout, imported


@pytest.mark.parametrize(
    "arguments", [["-m", "vit_jax", "--help"], ["-m", "vit_jax", "train", "--help"], ["-c", "import vit_jax"]]
)
def test_help_and_import_load_nothing_heavy(arguments):
    _, imported = in_a_process(*arguments)
    assert "vit_jax" in imported
    assert not imported & {"jax", "flax", "tensorflow", "tensorflow_datasets", "grain", "matplotlib", "numpy"}


def help_of(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return out.getvalue()


def test_help_names_every_command_flag_and_config_key():
    assert all(name in help_of() for name in COMMANDS)
    flags = {
        ("train",): ("--config", "--workdir", "--quiet", "--coordinator", *keys()),
        ("evaluate",): ("WORKDIR", "--data", "--path", "--split", "--few_shot", "--seed", "--clips", "--crops"),
        ("predict",): ("WORKDIR", "INPUT", "--top", "--contact_sheet", "--per_frame", "--text", "--attention"),
        ("data", "prepare"): ("NAME", "--path", "--data_dir"),
        ("data", "info"): ("NAME", "--path", "--data_dir", "--full", "--json"),
        ("data", "check"): ("PATH", "--split", "--min_frames", "--workers", "--json"),
    }
    for command, expected in flags.items():
        text = help_of(*command)
        assert [name for name in expected if name not in text] == []


# ---- train ----


def test_training_on_a_folder_says_what_it_does_and_writes_its_record(trained):
    workdir, printed = trained
    assert "folder: 18 training and 9 evaluation images, 3 classes" in printed
    assert "20 steps of 6 images" in printed
    assert "skipped 2 unreadable images" in printed
    assert "val accuracy" in printed
    assert {"config.json", "metrics.jsonl", "runs.jsonl", "checkpoints", "tensorboard"} <= set(os.listdir(workdir))
    for picture in ("curves.png", "predictions.png"):
        with Image.open(workdir / picture) as image:
            image.load()
    (entry,) = [json.loads(line) for line in (workdir / "runs.jsonl").read_text().splitlines()]
    assert entry["status"] == "finished"
    assert {"command", "commit", "packages", "hardware", "seconds"} <= entry.keys()


def test_the_files_that_are_skipped_are_listed(images):
    printed = run("data", "info", "folder", "--path", images)
    assert "skipped in train: blue/notes.txt (not an image)" in printed
    assert "skipped in train: red/truncated.png (" in printed


def test_quiet_prints_the_result_only(trained, images):
    lines = train(trained[0], "--quiet", data__path=images, **FOLDER).splitlines()
    assert [line.split()[0] for line in lines] == ["val", "wrote"]


def test_the_result_is_printed_before_a_picture_can_fail(trained, images, monkeypatch, capsys):
    def preview(*_, **__):
        raise MemoryError

    monkeypatch.setattr("vit_jax.data.image.modality.ImageModality.preview", preview)
    with pytest.raises(MemoryError):
        main([str(argument) for argument in tiny.command(trained[0], "--quiet", data__path=images, **FOLDER)[3:]])
    assert capsys.readouterr().out.startswith("val accuracy ")


def test_a_half_written_line_of_metrics_is_dropped_on_resuming(trained, images):
    workdir = trained[0].parent / "half"
    shutil.copytree(trained[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    steps = [json.loads(line)["step"] for line in lines]
    cut = steps.index(16)  # two steps after the checkpoint at 14
    (workdir / "metrics.jsonl").write_text("".join(lines[:cut]) + lines[cut][:25])
    assert "resuming after step 14" in train(workdir, data__path=images, **FOLDER)
    assert tiny.rows(workdir) == tiny.rows(trained[0])


def test_a_sigmoid_loss_gives_each_class_a_probability_of_its_own(tmp_path, images):
    workdir = tmp_path / "sigmoid"
    train(workdir, data__path=images, **FOLDER | BARELY_MOVED | {"task__loss": "sigmoid"})
    assert tiny.rows(workdir)[-1]["loss"] == pytest.approx(3 * np.log(2), abs=1e-3)  # a head from zero: even odds
    row = json.loads(run("predict", workdir, images / "val" / "red" / "0.png", "--json"))
    assert [guess["probability"] for guess in row["predictions"]] == pytest.approx([0.5] * 3, abs=1e-3)


# ---- evaluate ----


def test_evaluation_repeats_what_training_measured_of_the_moving_average(workdir):
    config = json.loads((workdir / "config.json").read_text())
    assert config["optimizer"]["ema_decay"] > 0
    last = tiny.rows(workdir)[-1]
    result = evaluate(workdir)
    assert (result["step"], result["examples"], result["split"]) == (20, EVAL_SIZE, "val")
    assert result["loss"] == pytest.approx(last["loss"], rel=1e-6)
    assert result["top1"] == last["top1"]


@pytest.mark.parametrize("batch_size", [1, 4, 9, 100, 2**24])
def test_padding_never_changes_an_evaluation(workdir, batch_size):
    result, reference = evaluate(workdir, f"--batch_size={batch_size}"), evaluate(workdir)
    assert result["examples"] == EVAL_SIZE
    assert result["top1"] == reference["top1"]
    assert result["loss"] == pytest.approx(reference["loss"], abs=1e-6)


def test_any_split_and_any_folder_with_the_same_classes(workdir, images):
    first, second, whole = (evaluate(workdir, f"--split={split}") for split in ("train[:50%]", "train[50%:]", "train"))
    assert (whole["examples"], whole["skipped"]) == (TRAIN_SIZE, 2)
    assert min(first["examples"], second["examples"]) >= TRAIN_SIZE // 2 - 1
    assert first["examples"] + second["examples"] == TRAIN_SIZE
    elsewhere = evaluate(workdir, "--data=folder", f"--path={images / 'val'}", "--split=train")
    assert elsewhere["loss"] == evaluate(workdir)["loss"]


def test_one_checkpoint_is_evaluated_by_its_path(workdir):
    assert evaluate(workdir / "checkpoints" / "14")["step"] == 14


def test_the_line_for_people_has_the_same_numbers(workdir):
    words = run("evaluate", workdir).split()
    result = evaluate(workdir)
    assert words[words.index("loss") + 1] == f"{result['loss']:.4f}"
    assert words[words.index("examples") + 1] == str(EVAL_SIZE)


# ---- predict ----


def test_predictions_are_named_sorted_probabilities(workdir, images):
    lines = run("predict", workdir, images / "val", "--top=2").splitlines()
    assert len(lines) == EVAL_SIZE
    for line in lines:
        path, *guesses = line.split("\t")
        labels, probabilities = zip(*(guess.split() for guess in guesses), strict=True)
        assert pathlib.Path(path).is_file()
        assert len(set(labels)) == 2
        assert set(labels) <= set(COLOURS)
        assert list(probabilities) == sorted(probabilities, reverse=True)
        assert 0 < sum(map(float, probabilities)) <= 1


def test_json_has_an_object_a_line_and_all_classes_if_more_are_asked_for(workdir, images):
    rows = [json.loads(line) for line in run("predict", workdir, images / "val", "--json", "--top=9").splitlines()]
    assert len(rows) == EVAL_SIZE
    for row in rows:
        assert {guess["label"] for guess in row["predictions"]} == set(COLOURS)
        assert sum(guess["probability"] for guess in row["predictions"]) == pytest.approx(1, abs=1e-5)
    right = [pathlib.Path(row["image"]).parent.name == row["predictions"][0]["label"] for row in rows]
    assert np.mean(right) == pytest.approx(evaluate(workdir)["top1"])


def test_the_batch_does_not_change_a_prediction(workdir, images):
    one, all_at_once = (run("predict", workdir, images / "val", f"--batch_size={size}") for size in (1, 64))
    assert one == all_at_once


def test_a_contact_sheet_is_a_picture(workdir, images, tmp_path):
    run("predict", workdir, images / "val", f"--contact_sheet={tmp_path / 'sheet.png'}")
    with Image.open(tmp_path / "sheet.png") as sheet:
        sheet.load()
        assert min(sheet.size) > 100


# ---- fine-tuning ----


def test_finetuning_at_another_resolution_keeps_what_was_learned(trained, images, tmp_path):
    flags = FOLDER | BARELY_MOVED | {"data__image_size": (12, 12), "init_from": trained[0]}
    printed = train(tmp_path / "larger", data__path=images, **flags)
    assert f"from {trained[0]}, step 20: " in printed
    assert "pos_embed resampled: 4x4 -> 6x6" in printed
    assert "head replaced" not in printed
    before, after = tiny.rows(trained[0])[-1], tiny.rows(tmp_path / "larger")[-1]
    assert after["loss"] == pytest.approx(before["loss"], abs=0.05)
    assert after["loss"] < np.log(3) - 0.05  # a head from zero would know nothing


def test_finetuning_on_other_classes_starts_the_head_anew(trained, images, tmp_path):
    two = tmp_path / "two"
    for split in ("train", "val"):
        for label in ("blue", "red"):
            shutil.copytree(images / split / label, two / split / label)
    printed = train(tmp_path / "run", data__path=two, **FOLDER | BARELY_MOVED | {"init_from": trained[0]})
    assert "head replaced: 3 classes -> 2 others" in printed
    assert "resampled" not in printed
    assert tiny.rows(tmp_path / "run")[-1]["loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert evaluate(tmp_path / "run")["examples"] == 6
