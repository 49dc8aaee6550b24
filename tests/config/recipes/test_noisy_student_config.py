"""The recipe of Noisy Student has the noise of the authors' code, and its stages fit together."""

import contextlib
import io
import os
import textwrap

import pytest
from PIL import Image

from tests.config.recipes import common as recipes
from tests.config.recipes.common import chain, check_refused, check_step, rates
from vit_jax import __main__ as command_line
from vit_jax import config as schema
from vit_jax.data.image import geometry
from vit_jax.data.image.randaugment import RandAug, RandAugNoisyStudent
from vit_jax.data.sets.digits import load_digits

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


def script():
    """Returns the lines of the docstring that link the images which the teacher has labelled."""
    docstring = (recipes.CONFIGS / FILE).read_text().split('"""')[1].replace("\\\\", "\\")
    return textwrap.dedent(docstring[docstring.index("    import os") : docstring.index("To iterate")])


def save_digits(folder, name_of):
    images, labels, is_test = load_digits()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / name_of(bool(is_test[index]), label, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.mark.slow
def test_a_student_learns_from_what_the_teacher_predicts(own_home, tmp_path, monkeypatch):
    recipes.train(load(FILE, "teacher,runlocal"), tmp_path / "teacher")
    both, unlabelled = tmp_path / "BOTH", tmp_path / "UNLABELLED"
    save_digits(both, lambda is_test, label, index: f"{'val' if is_test else 'train'}/{label}/{index}.png")
    for path in sorted(both.glob("train/*/*.png"))[::2]:  # every second image loses its label
        unlabelled.mkdir(exist_ok=True)
        path.rename(unlabelled / path.name)

    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert command_line.main(["predict", "teacher", "UNLABELLED", "--top=1"]) == 0
    (tmp_path / "predictions.tsv").write_text(printed.getvalue())
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(os.listdir(unlabelled))
    exec(script(), {})
    confident = [line for line in lines if float(line.rsplit(" ", 1)[1]) >= 0.3]
    linked = list(both.glob("train/*/pseudo-*.png"))
    assert 0 < len(confident) == len(linked)
    assert all(path.exists() for path in linked)

    monkeypatch.chdir(recipes.CONFIGS.parent)
    config = load(FILE, "student,runlocal", f"--config.data.path={both}")
    assert recipes.train(config, tmp_path / "student")["examples"] == 355


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
