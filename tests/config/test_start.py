"""Mistakes in the data that are found before a run starts."""

import re
import types

import pytest
import tiny
from PIL import Image

from vit_jax import config as schema
from vit_jax.__main__ import main
from vit_jax.data.modality import open_data
from vit_jax.data.source import Subset
from vit_jax.data.splits import overlap, parse_slice
from vit_jax.data.start import check_start, start_notes
from vit_jax.errors import UserError

TASK = types.SimpleNamespace(name="classification")
PLAIN = "resize|normalize(mean=0.5, std=0.5)"
pytestmark = pytest.mark.usefixtures("own_home")


def write(folder, counts, size=(8, 8)):
    for label, count in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("L", size, 9 * index).save(folder / label / f"{size[0]}x{size[1]}_{index}.png")
    return folder


@pytest.fixture
def flat(tmp_path):
    """A folder without splits: 10 images in each of two classes."""
    return write(tmp_path / "flat", {"cat": 10, "dog": 10})


def config_of(path, **overrides):
    values = {
        "data__name": "folder",
        "data__path": path,
        "data__image_size": "(8, 8)",
        "data__channels": 1,
        "data__train_split": "train[:80%]",
        "data__eval_split": "train[80%:]",
        "data__train_transforms": PLAIN,
        "data__eval_transforms": PLAIN,
        "batch_size": 8,
        "eval_batch_size": 4,
    } | overrides
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in values.items()]
    return schema.load_config(f"{tiny.ROOT}/configs/quickstart.py", flags)


def start(path, **overrides):
    config = config_of(path, **overrides)
    data = open_data(config)
    check_start(config, data, TASK)
    return start_notes(config, data)


def refused(path, **overrides):
    with pytest.raises(UserError) as caught:
        start(path, **overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("ours", "theirs", "count", "shared"),
    [
        ("train[:80%]", "train[80%:]", None, 0),
        ("train[:80%]", "train[79%:]", None, 1),
        ("train", "train[90%:]", None, 10),
        ("train", "train", None, 100),
        ("train[:100]", "train[100:]", None, 0),
        ("train[:100]", "train[99:120]", None, 1),
        ("train", "train[5:9]", None, 4),
        ("train[:100]", "train[80%:]", None, None),
        ("train[:100]", "train[80%:]", 100, 20),
        ("train[:100]", "train[80%:]", 125, 0),
        ("train[:-10]", "train[-10:]", None, None),
        ("train[:-10]", "train[-10:]", 50, 0),
        ("train[:-9]", "train[-10:]", 50, 1),
    ],
)
def test_how_many_examples_two_slices_share(ours, theirs, count, shared):
    assert overlap(parse_slice(ours), parse_slice(theirs), count) == shared
    assert overlap(parse_slice(theirs), parse_slice(ours), count) == shared


@pytest.mark.parametrize(
    ("train", "evaluation"),
    [
        ("train", "train"),
        ("train", "train[80%:]"),
        ("train[:81%]", "train[80%:]"),
        ("train[:17]", "train[80%:]"),
        ("train[:5]+train[10:]", "train[-4:]"),
    ],
)
def test_splits_that_overlap_are_refused(flat, train, evaluation):
    line = refused(flat, data__train_split=train, data__eval_split=evaluation)
    assert f"config.data.train_split={train!r} and config.data.eval_split={evaluation!r} overlap" in line
    assert "Use disjoint slices, such as 'train[:80%]' and 'train[80%:]'" in line


def test_a_split_that_names_examples_twice_and_an_empty_one_are_refused(flat):
    line = refused(flat, data__train_split="train[:5]+train[4:9]")
    assert line == "config.data.train_split='train[:5]+train[4:9]' names some examples twice: its slices overlap"
    config = config_of(flat)
    data = open_data(config)
    data.eval = Subset(data.eval, [])
    with pytest.raises(UserError, match=re.escape("folder: split 'train[80%:]' is empty")):
        check_start(config, data, TASK)


@pytest.mark.parametrize(
    ("train", "evaluation"), [("train[:16]", "train[80%:]"), ("train[:5]+train[10:]", "train[5:10]")]
)
def test_splits_that_do_not_overlap_are_not(flat, train, evaluation):
    assert start(flat, data__train_split=train, data__eval_split=evaluation) == []


def test_the_hint_for_a_folder_without_splits_leads_to_disjoint_slices(flat):
    line = refused(flat, data__train_split="train", data__eval_split="val")
    flags = re.search(r"--config\.data\.train_split='(.*)' --config\.data\.eval_split='(.*)'", line)
    assert start(flat, data__train_split=flags[1], data__eval_split=flags[2]) == []


def test_val_and_validation_are_the_same_split(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split, {"cat": 4, "dog": 4})
    assert "overlap" in refused(tmp_path, data__train_split="validation", data__eval_split="val")


def test_a_single_class_is_refused_unless_each_class_is_a_question_of_its_own(tmp_path):
    write(tmp_path, {"cat": 20})
    assert "has examples of one class only, so there is nothing to learn; the classes are cat" in refused(tmp_path)
    assert start(tmp_path, task__loss="sigmoid") == []
    (tmp_path / "dog").mkdir()
    assert "one class only" in refused(tmp_path)


def test_a_class_without_training_images_is_said(tmp_path):
    write(tmp_path / "train", {"cat": 5, "dog": 5, **dict.fromkeys("abcdefg", 0)})
    write(tmp_path / "val", {"cat": 5})
    (note,) = start(tmp_path, data__train_split="train", data__eval_split="val")
    assert note == "classes without training examples, which cannot be learned: a, b, c, d, e and 2 more"


def test_a_batch_beyond_the_training_split_is_refused_with_one_that_fits(flat):
    line = refused(flat, batch_size=32)
    assert line.startswith("config.batch_size=32 is larger than the training split 'train[:80%]' of 16 examples")
    assert line.endswith("Set --config.batch_size=16")
    assert start(flat, batch_size=16) == []
    assert start(flat, batch_size=48, data__repeats=3) == []
    assert "Set --config.batch_size=48" in refused(flat, batch_size=51, data__repeats=3)


def test_evaluation_transforms_that_are_random_or_give_a_wrong_size_are_refused(flat):
    line = refused(flat, data__eval_transforms=f"flip|{PLAIN}")
    assert line.startswith("evaluation transforms must be deterministic: remove flip from")
    line = refused(flat, data__eval_transforms="resize(9)|normalize(mean=0.5, std=0.5)")
    assert line.startswith("config.data.eval_transforms: a 8x8 image became 9x9, not 8x8")
    line = refused(flat, data__train_transforms="resize(9)|normalize(mean=0.5, std=0.5)")
    assert line.startswith("config.data.train_transforms: a 8x8 image became 9x9, not 8x8")


@pytest.mark.parametrize("size", [(7, 30), (30, 7), (6, 60)])
def test_one_image_too_small_for_the_transforms_is_found_among_many(flat, size):
    crop = "center_crop|normalize(mean=0.5, std=0.5)"
    assert start(flat, data__eval_transforms=crop) == []
    write(flat, {"cat": 10, "dog": 10}, size=(20, 20))
    write(flat, {"dog": 1}, size=size)
    options = {"data__train_split": "train[:39]", "data__eval_split": "train[39:]"}
    in_training = refused(flat, data__train_transforms=crop, data__eval_transforms=PLAIN, **options)
    assert f"{size[1]}x{size[0]} image is smaller than 8x8" in in_training


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        ({"data__eval_transforms": f"flip|{PLAIN}"}, "evaluation transforms must be deterministic"),
        ({"data__eval_split": "train[:9]"}, "overlap"),
        ({"batch_size": 2048}, "is larger than the training split 'train'"),
        ({"profile": "(29, 31)"}, "config.profile=(29, 31) traces steps beyond the end of the run, which has 30 steps"),
        ({"duration": "0.001 epochs"}, "is less than one step: an epoch has 45 steps"),
    ],
)
def test_no_workdir_is_made(tmp_path, capsys, flags, culprit):
    assert main(tiny.command(tmp_path / "run", **flags)[3:]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert culprit in line
    assert not (tmp_path / "run").exists()
