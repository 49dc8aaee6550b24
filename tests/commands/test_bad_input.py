"""Mistakes on the command line: each ends with one line that names it and an exit status, and loses no data."""

import contextlib
import json
import shutil
import subprocess

import jax
import pytest
import tiny
from matplotlib import pyplot  # noqa: F401  here, before HOME is another and its fonts would be searched for again
from PIL import Image
from refusals import ended, refused

from vit_jax.__main__ import main
from vit_jax.errors import RunError

SMALLER = {"model__num_layers": 1, "model__dropout_rate": 0, "task__mixup_alpha": 0}
NO_WARMUP = {"optimizer__schedule__warmup": "0 steps"}
pytestmark = pytest.mark.usefixtures("own_home")


def refused_training(workdir, *arguments, status=2, **flags):
    return refused(*tiny.command(workdir, *arguments, **SMALLER | flags)[3:], status=status)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The folder of the runs, their data and compiled programs."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture(scope="module")
def trained(shelf):
    """A run on the digits, with checkpoints at 14 and at 20."""
    workdir = shelf / "trained"
    status, lines = ended(*tiny.command(workdir, duration="20 steps", **SMALLER)[3:])
    assert status == 0, lines
    return workdir


@pytest.fixture
def folder(tmp_path):
    """A folder with two classes of two images each."""
    for label, colour in (("black", 0), ("white", 255)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(2):
            Image.new("L", (8, 8), colour).save(tmp_path / "images" / label / f"{index}.png")
    return tmp_path / "images"


# ---- config ----


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        ({"batchsize": 3}, "unknown config key 'batchsize'; did you mean 'batch_size'?"),
        ({"optimizer__b1": "two"}, "config.optimizer.b1 must be at least 0 and below 1, got 'two'"),
        ({"batch_size": 33, "accum_steps": 2}, "batch_size=33 does not divide over 1 device x 2 accum_steps; try 32"),
        (
            {"duration": "4"},
            "config.duration must be a duration above 0, such as '90 epochs' or '10_000 steps', got '4'",
        ),
        ({"model__name": "vit:Q/2"}, "config.model: unknown ViT variant 'Q/2'"),
        ({"model__dtype": "float33"}, "unknown config.model.dtype 'float33'; did you mean 'float32'?"),
        ({"model__dtype": "float64"}, "JAX_ENABLE_X64=1"),
        ({"task__name": "clasification"}, "unknown config.task.name 'clasification'; did you mean 'classification'?"),
        ({"task__loss": "softmx"}, "unknown config.task.loss 'softmx'; did you mean 'softmax'?"),
        ({"optimizer__name": "adamm"}, "unknown config.optimizer.name 'adamm'; did you mean 'adamw'?"),
        (
            {"optimizer__schedule__name": "cosin"},
            "unknown config.optimizer.schedule.name 'cosin'; did you mean 'cosine'?",
        ),
        ({"optimizer__trainable": "nothing"}, "config.optimizer.trainable='nothing' matches no parameter"),
        ({"parallel": "pmapp"}, "unknown config.parallel 'pmapp'; did you mean 'pmap'?"),
        ({"data__name": "digitz"}, "unknown data set 'digitz'; did you mean 'digits'?"),
        ({"data__train_split": "trian"}, "digits has no split 'trian'; did you mean 'train'?"),
        ({"data__train_transforms": "flipp"}, "unknown transform 'flipp'; did you mean 'flip'?"),
    ],
)
def test_a_wrong_config_is_refused_before_there_is_a_workdir(shelf, tmp_path, flags, culprit):
    line = refused_training(tmp_path / "run", data__data_dir=shelf / "data", **flags)
    assert culprit in line
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_devices_do_not_divide(shelf, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    line = refused_training(shelf / "uneven", batch_size=100)
    assert "config.batch_size=100 does not divide over 8 devices; try 96" in line
    line = refused_training(shelf / "uneven_evaluation", eval_batch_size=12)
    assert "config.eval_batch_size=12 does not divide over 8 devices; try 8" in line


def test_a_workdir_of_another_config_is_left_as_it_was(trained):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file() and path.name != "runs.jsonl"}
    line = refused_training(trained, duration="20 steps", model__hidden_dim=32, seed=3)
    assert "model.hidden_dim: 16 -> 32; seed: 0 -> 3" in line
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("below", ["", "below"])
def test_a_workdir_that_cannot_be_written(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    line = refused_training(tmp_path / "file" / below, data__data_dir=tmp_path / "data")
    assert f"cannot write to the workdir {tmp_path / 'file' / below}" in line
    assert (tmp_path / "file").read_text() == "in the way"


# ---- data ----


def from_folder(path):
    return {"data__name": "folder", "data__path": path, "data__eval_split": "train", "duration": "1 steps"} | NO_WARMUP


def test_a_folder_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    flags = from_folder(tmp_path / "empty")
    assert f"{tmp_path}/empty has no sub-folders" in refused_training(tmp_path / "none", **flags)
    (tmp_path / "empty" / "cat").mkdir()
    assert f"{tmp_path}/empty has no images" in refused_training(tmp_path / "no_images", **flags)
    flags = from_folder(tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere is not a folder" in refused_training(tmp_path / "no_folder", **flags)


def test_strict_refuses_unreadable_images(folder, tmp_path):
    (folder / "black" / "bad.png").write_bytes((folder / "black" / "0.png").read_bytes()[:40])
    (folder / "white" / "text.png").write_text("no image")
    line = refused_training(tmp_path / "run", data__strict="true", **from_folder(folder))
    assert "2 unreadable files, the first black/bad.png (" in line


# ---- evaluate and predict ----


def test_a_workdir_without_a_checkpoint(tmp_path, folder):
    for line in (refused("evaluate", tmp_path), refused("predict", tmp_path, folder)):
        assert f"no checkpoint in {tmp_path}/checkpoints" in line
    for more in ([], ["--average=2"]):
        assert f"{tmp_path}/nowhere: no such workdir" in refused("evaluate", tmp_path / "nowhere", *more)


def test_the_folder_of_the_checkpoints_is_not_the_workdir(trained):
    line = refused("evaluate", trained / "checkpoints")
    assert f"{trained}/checkpoints holds several checkpoints" in line
    assert f"Name one of them, such as {trained}/checkpoints/20, or {trained}." in line


def test_the_workdir_comes_before_the_inputs(trained, folder):
    line = refused("predict", folder / "black" / "0.png", trained)
    assert f"{folder}/black/0.png is a file. Name a workdir" in line
    assert "takes the workdir before its inputs" in line


def test_a_missing_checkpoint(trained):
    line = refused("evaluate", trained / "checkpoints" / "3")
    assert "no checkpoint of step 3 in" in line
    assert line.endswith("there are [14, 20].")


def test_labels_that_do_not_match(trained, folder):
    line = refused("evaluate", trained, "--data=folder", f"--path={folder}", "--split=train")
    assert "label names do not match: the checkpoint has 10 classes, folder train has 2" in line
    assert "only in folder train: ['black', 'white']" in line


@pytest.mark.parametrize(("split", "culprit"), [("tset", "did you mean 'test'?"), ("test[", "test[")])
def test_an_unknown_split(trained, split, culprit):
    assert culprit in refused("evaluate", trained, f"--split={split}")


def test_a_missing_image_and_a_folder_without(trained, tmp_path):
    assert f"{tmp_path}/no.png: no such file or folder" in refused("predict", trained, tmp_path / "no.png")
    assert f"no images in {tmp_path}" in refused("predict", trained, tmp_path)


def test_an_unreadable_image_among_good_ones_is_skipped_and_the_status_says_so(trained, folder, capsys):
    (folder / "black" / "bad.png").write_text("no image")
    assert main(["predict", str(trained), str(folder), "--json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"][-11:] for line in out.splitlines()] == [
        f"{label}/{index}.png" for label in ("black", "white") for index in range(2)
    ]
    assert err == f"vit_jax: skipped {folder}/black/bad.png: cannot be decoded (not an image)\n"


def test_nothing_or_another_architecture_to_start_from(trained, shelf):
    missing = refused_training(shelf / "nothing", init_from=f"{shelf}/nowhere")
    assert f"config.init_from={shelf}/nowhere: no such file or folder" in missing
    wider = refused_training(shelf / "wider", init_from=trained, model__hidden_dim=32)
    assert "config.model.hidden_dim is 32, the checkpoint has 16" in wider
    deeper = refused_training(shelf / "deeper", init_from=trained, model__num_layers=2)
    assert "the weights have no parameter encoder/block_1/" in deeper
    assert "config.model.num_layers is 2, the checkpoint has 1" in deeper


# ---- runs that cannot go on ----


def evaluates_at(workdir, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(workdir), "--json", "--split=test[:50]"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["examples"] == 50
    assert 0 < result["loss"] < 10
    return result["step"]


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(shelf, capsys):
    explodes = {"name": "step", "boundaries": "('7 steps',)", "step_factor": 1e30, "warmup": "0 steps"}
    flags = {f"optimizer__schedule__{name}": value for name, value in explodes.items()}
    line = refused_training(shelf / "explodes", status=1, **flags)
    assert "parameter_norm is inf at step 8. The ids of the examples in its batch are " in line
    assert "The checkpoint of step 7 is kept" in line
    assert evaluates_at(shelf / "explodes", capsys) == 7
    last_run = json.loads((shelf / "explodes" / "runs.jsonl").read_text())
    assert last_run["status"].startswith("RunError: ")


def test_an_update_that_is_not_finite_is_not_saved(shelf):
    flags = NO_WARMUP | {"optimizer__schedule__peak": 1e30, "optimizer__ema_decay": 0, "duration": "1 steps"}
    line = refused_training(shelf / "no_result", status=1, **flags)
    assert "parameter_norm is inf at step 1" in line
    assert not list((shelf / "no_result" / "checkpoints").iterdir())


def test_an_evaluation_that_is_not_finite_fails(tmp_path):
    from vit_jax.workdir.metrics import Metrics

    with contextlib.closing(Metrics(tmp_path, first_step=0, total_steps=3, quiet=True)) as metrics:
        with pytest.raises(RunError, match="eval loss is nan at step 1"):
            metrics.write(1, "eval", {"loss": float("nan"), "top1": 0.5})
        assert metrics.last("eval") is None


def test_a_full_disk_ends_the_run_with_one_line_and_the_last_good_checkpoint(trained, capsys):
    workdir = trained.parent / "full"
    shutil.copytree(trained, workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    largest = max(path.stat().st_size for path in (workdir / "checkpoints").rglob("*"))
    limited = ["bash", "-c", f'ulimit -f {largest // 2048}; exec "$@"', "limited"]  # no file above half of the largest
    command = limited + tiny.command(workdir, "--quiet", duration="20 steps", compilation_cache="", **SMALLER)
    process = subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1, process.stderr
    line = process.stderr.strip()
    assert line.startswith(f"vit_jax: cannot write a checkpoint to {workdir}/checkpoints: ")
    assert "File too large" in line
    assert line.endswith("kept: [14]")
    assert evaluates_at(workdir, capsys) == 14
