"""The recipe of Noisy Student has the noise of the authors' code, and its stages fit together."""

import os

import pytest
from PIL import Image

from tests.config.recipes import common as recipes
from tests.config.recipes.common import chain, check_refused, check_step, rates
from vit_jax import __main__ as command_line
from vit_jax import config as schema
from vit_jax.data.image import geometry
from vit_jax.data.image.randaugment import RandAug, RandAugNoisyStudent
from vit_jax.data.modality import open_data
from vit_jax.data.sets.digits import load_digits
from vit_jax.load import load_run

FILE = "noisy_student.py"
load = recipes.load


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_the_noise_is_the_authors(stage):
    config = load(FILE, f"{stage},S/16")
    assert (config.batch_size, config.duration, config.model.name) == (1024, "350 epochs", "vit:S/16")
    assert (config.data.name, config.data.train_split, config.data.eval_split) == ("folder", "train", "val")
    assert (config.model.dtype, config.model.drop_path_rate) == ("bfloat16", 0.2 if stage == "student" else 0)

    crop, flip, randaug, normalize = chain(config, train=True)
    assert (crop, flip) == (geometry.InceptionCrop(size=(224, 224)), geometry.Flip())
    assert randaug == (RandAugNoisyStudent(layers=2, magnitude=27) if stage == "student" else RandAug(2, 10))
    assert chain(config, train=False) == (geometry.Resize(256), geometry.CenterCrop((224, 224)), normalize)

    optimizer = config.optimizer
    assert (config.task.label_smoothing, config.task.mixup_alpha, optimizer.ema_decay) == (0.1, 0, 0.9999)
    assert (optimizer.name, optimizer.weight_decay, optimizer.clip_norm) == ("adamw", 0.1, 1)
    assert rates(config, (0, 10_000, 55_000), total=100_000) == pytest.approx([0, 1e-3, 5e-4])


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["teacher,Ti/16", "student,S/16", "student,L/16"])
def test_both_stages_make_a_step(arg):
    check_step(load(FILE, arg))


def test_a_student_learns_from_what_the_teacher_predicts(own_home, tmp_path, monkeypatch):
    """The commands of the docstring, on a tenth of the digits with labels and the others without."""
    monkeypatch.chdir(tmp_path)
    images, labels, is_test = load_digits()
    folders = {"LABELLED/train": [], "LABELLED/val": [], "UNLABELLED/train": []}
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        split = "val" if is_test[index] else "train"
        folder = "UNLABELLED/train/any" if not is_test[index] and index % 10 else f"LABELLED/{split}/{label}"
        os.makedirs(folder, exist_ok=True)
        Image.fromarray(image).save(f"{folder}/{index:04}.png")
        folders["/".join(folder.split("/")[:2])].append(index)

    data = ["--config.data.name=folder", "--config.data.path=LABELLED", "--config.data.eval_split=val"]
    short = [
        "--config.duration=4 steps",
        "--config.data.train_split=train",
        "--config.optimizer.schedule.warmup=1 steps",
    ]
    config = f"--config={recipes.CONFIGS / FILE}"
    train = ["train", *data, *short, "--quiet"]
    assert command_line.main([*train, f"{config}:teacher,runlocal", "--workdir=teacher"]) == 0
    assert command_line.main(["predict", "teacher", "UNLABELLED/train", "--output=teacher.npz"]) == 0
    pseudo = {"path": "UNLABELLED", "split": "train", "predictions": "teacher.npz", "threshold": 0.0}
    more = [f"--config.pseudo_labels.{key}={value}" for key, value in pseudo.items()]
    assert command_line.main([*train, *more, f"{config}:student,runlocal", "--workdir=student"]) == 0
    student = load_run("student")
    assert student.step == 4
    assert len(open_data(student.config).train) == len(folders["LABELLED/train"]) + len(folders["UNLABELLED/train"])


def test_the_pseudo_labels_are_the_paper_s():
    section = load(FILE, "student,B/16").pseudo_labels
    assert (section.soft, section.threshold, section.per_class, section.split) == (True, 0.3, 130_000, "train")
    assert load(FILE, "teacher,B/16").pseudo_labels.split is None


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("teacher,student", "configs/noisy_student.py:teacher,student: give at most one of teacher, student"),
        ("pupil", "no option 'pupil'"),
        ("teacher,S/32", "no option 'S/32'"),
    ],
)
def test_unknown_options(arg, message):
    check_refused(FILE, arg, message)


def test_default_is_a_teacher():
    default = schema.load_config(str(recipes.CONFIGS / FILE), [])
    assert schema.flatten(default) == schema.flatten(load(FILE, "teacher,B/16"))
