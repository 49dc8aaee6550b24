"""The example package outside vit_jax, from end to end: train, resume, evaluate and predict by import path."""

import hashlib
import json
import pathlib
import shutil
import sys

import pytest

from vit_jax.__main__ import main

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "mylab"
PATHS = {
    "mylab.nets:Mixer": "nets.py",
    "mylab.tasks:Regression": "tasks.py",
    "mylab.data:open_split": "data.py",
    "mylab.transforms:Shade": "transforms.py",
    "mylab.optim:signum": "optim.py",
}
FLAGS = {
    "duration": "60 steps",
    "eval_every": "30 steps",
    "checkpoint.every": "30 steps",
    "log_every": "30 steps",
    "compilation_cache": "",
}


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def lab(tmp_path_factory, own_home):
    """A copy of the package in the current directory, as a researcher has it."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("lab")
        shutil.copytree(EXAMPLE, directory / "mylab", ignore=shutil.ignore_patterns("__pycache__"))
        patch.chdir(directory)
        patch.setattr(sys, "path", sys.path[:])
        forget()
        yield directory
        forget()


def train(*overrides, workdir="tilt"):
    flags = [f"--config.{name}={value}" for name, value in FLAGS.items()]
    return main(["train", "--config=mylab/config.py", f"--workdir={workdir}", "--quiet", *flags, *overrides])


def last_evaluation(lab):
    rows = [json.loads(line) for line in (lab / "tilt" / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in reversed(rows) if row["split"] == "eval")


@pytest.fixture(scope="module")
def trained(lab):
    assert train() == 0
    return last_evaluation(lab)


def test_it_trains_and_learns(lab, trained):
    assert trained["step"] == 60
    assert trained["examples"] == 360
    assert trained["r2"] > 0.5


def test_the_checkpoint_says_what_it_was_trained_with(lab, trained):
    from vit_jax.workdir.checkpoint import load_meta

    meta = load_meta("tilt")
    sources = {described["path"]: described["sha256"] for described in meta["extensions"]}
    assert sources == {
        path: hashlib.sha256((lab / "mylab" / file).read_bytes()).hexdigest() for path, file in PATHS.items()
    }
    assert meta["config"]["model"]["extra"] == {"token_mlp_dim": 64}
    assert meta["labels"] == ["tilt"]


def test_it_resumes_exactly(lab, trained):
    shutil.rmtree(lab / "tilt" / "checkpoints" / "60")
    assert train() == 0
    assert last_evaluation(lab)["r2"] == trained["r2"]
    assert last_evaluation(lab)["loss"] == trained["loss"]


def test_nothing_is_imported_without_trust(lab, trained, capsys):
    for command in (["evaluate", "tilt"], ["predict", "tilt", "digit.png"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("vit_jax: tilt uses mylab.data:open_split (version unknown, sha256 ")
        assert all(path in error for path in PATHS)
        assert error.endswith("which is code outside vit_jax. Pass --trust (in Python, trust=True) to import it.\n")


def test_a_workdir_of_a_stranger_is_not_resumed_without_trust(lab, trained, capsys):
    (lab / "plain.py").write_text(
        "from vit_jax.config import default_config as get\nget_config = lambda arg='': get()\n"
    )
    assert main(["train", "--config=plain.py", "--workdir=tilt"]) == 2
    assert "which is code outside vit_jax. Pass --trust (in Python, trust=True)" in capsys.readouterr().err


def test_it_evaluates_with_trust(lab, trained, capsys):
    assert main(["evaluate", "tilt", "--trust", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["r2"] == pytest.approx(trained["r2"], abs=1e-6)
    assert result["examples"] == 360
    assert main(["evaluate", "tilt", "--trust", "--split=validation"]) == 2
    assert "mylab.data has no split 'validation'; it has train, test" in capsys.readouterr().err


def test_it_predicts_with_trust(lab, trained, capsys):
    from mylab.data import TiltedDigits

    examples = TiltedDigits("test", 45.0).__getitems__(range(12))
    for example in examples:
        example["image"].save(f"digit{example['id']:02}.png")
    assert main(["predict", "tilt", *(f"digit{i:02}.png" for i in range(12)), "--trust", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    errors = [
        abs(answer["tilt"] - float(example["label"][0])) for answer, example in zip(answers, examples, strict=True)
    ]
    assert sum(errors) / 12 < 15  # degrees, from -45 to 45


def test_a_changed_source_is_told(lab, trained, caplog):
    file = lab / "mylab" / "nets.py"
    text = file.read_text()
    try:
        file.write_text(text + "\n# changed\n")
        assert main(["evaluate", "tilt", "--trust"]) == 0
    finally:
        file.write_text(text)
    assert "tilt was written with mylab.nets:Mixer" in caplog.text
    assert "whose source has changed since" in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.extra.token_mlp_dimm=3", "config.model.extra.token_mlp_dimm: mylab.nets:Mixer has no field"),
        ("model.num_heads=3", "model.num_heads: mylab.nets:Mixer has no field 'num_heads'"),
        ("task.extra.scales=3", "config.task.extra.scales: mylab.tasks:Regression has no field"),
        ("data.extra.degrees=3", "config.data.extra.degrees: mylab.data:open_split has no parameter"),
        ("optimizer.extra.b1=3", "config.optimizer.extra.b1: mylab.optim:signum has no parameter"),
        ("model.name=mylab.nets:Mixr", "has no 'Mixr'; did you mean 'Mixer'?"),
        ("model.name=mylabs.nets:Mixer", "there is no module 'mylabs'"),
        (
            "data.train_transforms=mylab.transforms.Shadow()|normalize(mean=0.5,std=0.5)",
            "has no 'Shadow'; did you mean",
        ),
        ("data.train_transforms=mylab.transforms.Shade(2)|normalize(mean=0.5,std=0.5)", "strength must be between 0"),
    ],
)
def test_a_mistake_is_one_line(lab, override, message, capsys):
    assert train(f"--config.{override}", workdir="mistake") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not pathlib.Path("mistake").exists()
