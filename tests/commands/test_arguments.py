"""Mistakes in the arguments of a command: one line that names the argument, what was given and what it may be."""

import argparse
import importlib
import importlib.metadata
import re

import jax
import pytest
from refusals import refused

from vit_jax.__main__ import Parser, main
from vit_jax.config import keys

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--config=configs/quickstart.py"], "--workdir"),
        (["train", "--confg=configs/quickstart.py", "--workdir=w"], "'--confg'; did you mean '--config'?"),
        (["train", "--config=configs/quickstart.py", "--wrkdir=w"], "'--wrkdir'; did you mean '--workdir'?"),
        (["train", "--config=configs/quickstart.py", "--workdir=w", "--batch=3"], "unknown option '--batch'"),
        (["train", "--config=configs/quickstart.py", "--workdir=w", "more"], "unexpected argument 'more'"),
        (
            ["train", "--config=c.py", "--workdir=w", "--batch_size=3"],
            "'--batch_size'; did you mean --config.batch_size?",
        ),
        (["train", "--config=c.py", "--workdir=w", "--peak=3"], "did you mean --config.optimizer.schedule.peak? See"),
        (["train", "--config=c.py", "--workdir=w", "--path=3"], "did you mean --config.data.path"),
        (["evaluate", "w", "--batch=3"], "'--batch'"),
        (["evaluate", "w", "--config.batch_size=3"], "'--config.batch_size'"),
        (["evaluate", "w", "more"], "unrecognized arguments: more"),
        (["evaluate", "w", "--seed=3"], "--seed applies to few-shot evaluation. Add --few_shot=K"),
        (["evaluate", "w", "--train_split=train"], "--train_split applies to few-shot evaluation"),
        (["evaluate", "w", "--num_processes=2"], "Give all of --coordinator, --num_processes and --process_id"),
        (["predict", "w", "i", "--topp=3"], "'--topp'; did you mean '--top'?"),
        (["predict", "w", "--", "--topp=3"], "w: no such workdir"),  # and --topp=3 is a file
        (
            ["predict", "w", "i", "--contact_sheet=sheet.doc"],
            "--contact_sheet=sheet.doc must be the name of a PNG",
        ),
        (["predict", "w", "i", "--contact_sheet=nowhere/sheet.png"], "--contact_sheet=nowhere/sheet.png"),
        (["data", "info", "digits", "--fulll"], "--fulll"),
    ],
)
def test_a_wrong_flag_or_command(arguments, culprit):
    assert culprit in refused(*arguments)


def options_of(command, *action):
    """Returns the parser of a command, and its arguments by name: options as --name, and positional ones."""
    parser = Parser(prog=f"vit_jax {command}")
    importlib.import_module(f"vit_jax.commands.{command}").add_arguments(parser)
    for name in action:
        (actions,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
        parser = actions.choices[name]
    return [each for each in parser._actions if each.nargs != 0 and not isinstance(each, argparse._SubParsersAction)]


COMMAND_LINES = {
    "data check": ["data", "check", "d"],
    "data info": ["data", "info", "digits"],
    "data prepare": ["data", "prepare", "digits"],
    "train": ["train", "--config=c.py", "--workdir=w"],
    "evaluate": ["evaluate", "w"],
    "predict": ["predict", "w"],
    "convert": ["convert", "in", "out", "--format=npz"],
    "reproduce": ["reproduce", "--all"],
    "launch": ["launch", "--config=c.py", "d"],
    "compare": ["compare", "r"],
    "models": ["models"],
    "configs": ["configs"],
}
VALUED = [
    (command, option.option_strings[0], option.metavar)
    for command in COMMAND_LINES
    for option in options_of(*command.split())
    if option.option_strings
]


@pytest.mark.parametrize("value", ["0", "-3", "nan", "many", "1e3", "", str(2**31), "9" * 5000])
@pytest.mark.parametrize(("command", "option", "metavar"), [each for each in VALUED if each[2] in ("N", "K", "I")])
def test_every_number_has_a_range(command, option, metavar, value):
    if (option, value) in {("--seed", "0"), ("--process_id", "0"), ("--workers", "0")}:
        return
    line = refused(*COMMAND_LINES[command], f"{option}={value}")
    assert f"vit_jax {command}: {option} must be a whole number, at least " in line
    assert line.endswith(f"got {value!r}; see --help")


@pytest.mark.parametrize(("command", "option", "metavar"), [each for each in VALUED if each[1] != "--text"])
def test_no_option_may_be_empty(command, option, metavar):
    for blank in ("", " "):
        assert f"{option} must " in refused(*COMMAND_LINES[command], option, blank)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["evaluate", ""], "WORKDIR"),
        (["predict", ""], "WORKDIR"),
        (["predict", "w", "i.png", ""], "INPUT"),
        (["convert", "", "out", "--format=npz"], "IN"),
        (["convert", "in", "", "--format=npz"], "OUT"),
        (["compare", ""], "RUN"),
        (["data", "check", ""], "PATH"),
        (["data", "info", ""], "NAME"),
        (["data", "prepare", ""], "NAME"),
    ],
)
def test_no_path_may_be_empty(arguments, name):
    assert f"{name} must not be empty" in refused(*arguments)


def test_the_memory_of_the_devices_is_used_up(monkeypatch):
    def run(args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")

    monkeypatch.setattr("vit_jax.commands.evaluate.run", run)
    line = refused("evaluate", "w", status=1)
    assert line.startswith(
        "vit_jax: out of memory on the devices (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)"
    )
    assert "Use a smaller batch size" in line


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"vit_jax {importlib.metadata.version('vit_jax')}\n"


def test_help_shows_what_is_unset_and_every_default_in_one_way(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    for command in ("train", "evaluate", "predict", "convert", "reproduce", "launch", "compare", "models"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert not re.search(r"\[default|\[\d+\]|\(default: (None|\(\)|''|\{\})?\)|<class|default None", text)
        if command == "train":
            for name, key in keys().items():
                shown = re.search(rf" {re.escape(name)}: .*?\(([^()]*(\([^()]*\)[^()]*)*)\)(?= [\w.]+: |$)", text)
                assert shown, name
                is_set = not (key.unless_init is None and (isinstance(key.default, type) or key.default == ()))
                assert ("default: " in shown[1]) == is_set, name
                assert ("unset by default" in shown[1] or "empty by default" in shown[1]) == (not is_set), name


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--norm_epsilon", ["nan", "inf", "0", "-1e-6", "2", "small"]),
        ("--pool", ["max", "CLS"]),
        ("--gelu", ["relu"]),
    ],
)
def test_fields_of_a_model_have_the_values_of_the_schema(option, values):
    form = keys()[f"model.{option[2:]}"].form
    for value in values:
        line = refused("convert", "in", "out", "--format=npz", f"{option}={value}")
        assert f"{option} must be {form}, got {value!r}" in line


@pytest.mark.parametrize("counts", ["0", "-1", "1,0", "1,", "nan", "1.5", str(2**31)])
def test_labelled_examples_are_counts(counts):
    assert "--few_shot must be " in refused("evaluate", "w", f"--few_shot={counts}")


@pytest.mark.parametrize("size", ["0,224", "224", "(224", "224,-1", "224x224", "a,b", "9999999,1", "1,2,3"])
def test_an_image_size_is_a_height_and_a_width(size):
    line = refused("convert", "in", "out", "--format=npz", f"--image_size={size}")
    assert f"--image_size must be a height and a width in pixels, such as 384,384, got {size!r}" in line
