"""The trained rows of tables: what is run, what is skipped, how claims are answered, and what survives a SIGKILL."""

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import pytest
from matplotlib.figure import Figure
from scipy import stats

from vit_jax import config as schema
from vit_jax.__main__ import main
from vit_jax.data.modality import get_modality
from vit_jax.errors import UserError
from vit_jax.experiment import make_model
from vit_jax.models import build_model
from vit_jax.reproduce import trained
from vit_jax.reproduce.comparison import Claim, Comparison, Interval, Metric, Recipe, Trial, verdict
from vit_jax.reproduce.report import draw, markdown
from vit_jax.reproduce.tables import find_tables, load_definition
from vit_jax.reproduce.trained import COLUMNS, Trials

ROOT = pathlib.Path(__file__).parents[2]
DEFINITIONS = {name: load_definition(path) for name, path in find_tables(ROOT / "experiments").items()}
COMPARISONS = {name: found.comparison for name, found in DEFINITIONS.items() if found.comparison}
SMALL = Recipe("configs/quickstart.py", {"model.pool": "cls"})
pytestmark = pytest.mark.usefixtures("own_home")


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_row_resolves_to_an_experiment(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    comparison = COMPARISONS[name]
    trials, built = [*comparison.preparation, *comparison.trials], set()
    for recipe in filter(None, (trial.recipe(scale) for trial in trials for scale in comparison.scales)):
        _, path, *overrides, _ = recipe.commands(0)[-1]
        config = schema.load_config(path.removeprefix("--config="), overrides)
        schema.check(config)
        if config.model.name.startswith("transformer"):
            known = {key: value for key, value in config.model.items() if value is not None}
            fields = {key: value for key, value in known.items() if key not in ("name", "extra", "dtype")}
            build_model(config.model.name, {"vocab_size": config.data.vocab_size}, **fields)
            continue
        described = config.model.to_json(), config.data.image_size, config.data.num_frames, config.data.channels
        if described in built:
            continue
        built.add(described)
        encoder = get_modality("video" if config.model.name.startswith("timesformer") else "image").make_encoder(
            config, train=False
        )
        model: Any = make_model(config, encoder, tuple("abc")).clone(num_layers=1)  # the others are like it
        inputs = jax.ShapeDtypeStruct((1, *model.input_shape), "float32")
        jax.eval_shape(lambda rng, x, model=model: model.init(rng, x, train=False), jax.random.key(0), inputs)


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_committed_scores_belong_to_today_s_definitions_and_pages(name, tmp_path):
    for scale in COMPARISONS[name].scales:
        path = ROOT / "experiments" / "results" / f"{name}.{scale}.csv"
        trials = Trials(COMPARISONS[name], scale, tmp_path, path)
        rows = trials.rows()
        assert len(rows) == len(trained.read_rows(path, trials.columns))
        if rows:
            text = markdown(COMPARISONS[name], scale, rows)
            assert path.with_suffix(".md").read_text() == f"{text}\n"
            assert text in (ROOT / "docs" / "tables.md").read_text()
            assert {row["skipped"] for row in rows.values()} == {"0"}
            assert not any(row["commit"].endswith("-dirty") for row in rows.values())


# ---- statistics ----


def test_the_interval_is_student_s():
    values = [1.0, 2.0, 4.0]
    interval = Interval.of(values)
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert Interval.of([5.0]).half == float("inf")


@pytest.mark.parametrize(
    ("better", "worse", "ending"),
    [
        ({0: 3.0, 1: 3.1, 2: 2.9}, {0: 1.0, 1: 1.2, 2: 1.1}, "3 seeds); this holds here."),
        ({0: 1.0, 1: 1.2, 2: 1.1}, {0: 3.0, 1: 3.1, 2: 2.9}, "here it is the other way round."),
        ({0: 1.0, 1: 3.0}, {0: 2.0, 1: 2.0}, "these runs do not decide it."),
        ({0: 1.0, 1: 3.0}, {1: 2.0}, "a above b: +1.0 with one seed, which decides nothing."),
        ({}, {0: 2.0}, "a above b: not run yet."),
    ],
)
def test_a_claim_is_answered_by_runs_with_the_same_seed(better, worse, ending):
    assert verdict(Claim("a", "b"), {"a": better, "b": worse}, Metric("x")).endswith(ending)


def test_a_perplexity_is_better_if_it_is_lower():
    scores = {"a": {0: 4.0, 1: 4.1}, "b": {0: 5.0, 1: 5.1}}
    perplexity = Metric.of("perplexity")
    said = verdict(Claim("a", "b"), scores, perplexity, named=True)
    assert said == "perplexity: a below b: -1.00 (-1.00 to -1.00, 2 seeds); this holds here."
    assert verdict(Claim("b", "a"), scores, perplexity).endswith("here it is the other way round.")


# ---- what is run ----


@pytest.fixture
def commands(monkeypatch):
    """Records the commands instead of running them; a training leaves a finished workdir with a score of 0.5."""
    ran = []

    def run_command(arguments):
        ran.append(list(arguments))
        if arguments[0] == "train":
            workdir = pathlib.Path(arguments[-1].removeprefix("--workdir="))
            (workdir / "runs.jsonl").write_text(json.dumps({"status": "finished"}) + "\n")
        return 0

    def score(workdir, metrics, scoring, seed):
        empty = dict.fromkeys(set(COLUMNS) - {"row", "seed", "metric", "identity", "command"}, "")
        also = dict.fromkeys(metrics[1:], str(10 + seed))
        return {**empty, **also, "score": str(scoring.get("average", 0.5)), "parameters": "1", "skipped": "0"}

    monkeypatch.setattr(trained, "run_command", run_command)
    monkeypatch.setattr(trained, "score", score)
    return ran


@pytest.fixture
def comparison():
    start = Trial("image model", Recipe("configs/quickstart.py", {"model.num_layers": 1}))
    tuned = Recipe("configs/finetune.py", {"init_from": "{image model}"})
    rows = [Trial("a", tuned), Trial("b, c = 2", SMALL), Trial("b averaged", of="b, c = 2", scoring={"average": 3})]
    return Comparison("Tiny", "Why?", rows, preparation=[start], data=[("digits",)], claims=[Claim("a", "b, c = 2")])


def trials_of(comparison, tmp_path):
    return Trials(
        comparison, "small", tmp_path / "small" / "tiny" / "t", tmp_path / "table.small.csv", say=lambda line: None
    )


def test_rows_are_trained_after_what_they_need_and_only_once(comparison, commands, tmp_path):
    trials = trials_of(comparison, tmp_path)
    assert trials.run(comparison.trials, [0, 1]) == []
    assert commands[0] == ["data", "prepare", "digits"]
    trainings = [words for words in commands if words[0] == "train"]
    assert len(trainings) == 6  # the image model, a and b, with two seeds each; the average trains nothing
    workdir = trials.workdir(comparison.preparation[0], 1)
    assert f"--config.init_from={workdir}" in next(words for words in trainings[3:] if "configs/finetune" in words[1])
    with trials.csv.open() as file:
        rows = {(row["row"], row["seed"]): row for row in csv.DictReader(file)}
    assert len(rows) == 6
    assert rows["b averaged", "1"]["score"] == "3"
    assert rows["a", "0"]["command"].endswith("'--config.init_from={image model}' --config.seed=0 --workdir={workdir}")
    assert trials.run(comparison.trials, [0, 1]) == []
    assert len(commands) == 7  # nothing was missing


def test_a_row_whose_definition_or_start_has_changed_is_trained_again(comparison, commands, tmp_path):
    trials_of(comparison, tmp_path).run(comparison.trials, [0])
    del commands[:]
    start = Trial("image model", Recipe("configs/quickstart.py", {"model.num_layers": 2}))
    changed = Comparison("Tiny", "Why?", comparison.trials, preparation=[start])
    assert set(trials_of(changed, tmp_path).rows()) == {("b, c = 2", 0), ("b averaged", 0)}
    trials_of(changed, tmp_path).run(changed.trials, [0])
    assert [words[1] for words in commands] == ["--config=configs/quickstart.py", "--config=configs/finetune.py"]


def test_a_run_from_which_a_row_starts_is_trained_again_if_only_its_score_is_left(commands, tmp_path):
    tuned = Recipe("configs/finetune.py", {"init_from": "{teacher}"})
    comparison = Comparison("Tiny", "Why?", [Trial("teacher", SMALL), Trial("student", tuned)])
    here = trials_of(comparison, tmp_path)
    here.run(comparison.trials[:1], [0])
    elsewhere = dataclasses.replace(here, runs=tmp_path / "elsewhere" / "tiny" / "t")  # as in a fresh clone
    del commands[:]
    assert elsewhere.run(comparison.trials, [0]) == []
    assert [words[1] for words in commands] == ["--config=configs/quickstart.py", "--config=configs/finetune.py"]


def test_a_run_that_two_tables_have_in_common_is_trained_once(comparison, commands, tmp_path):
    trials_of(comparison, tmp_path).run(comparison.trials, [0])
    del commands[:]
    again = [Trial("the same as b", SMALL), Trial("its average", of="the same as b", scoring={"average": 2})]
    other = trials_of(Comparison("Other", "Why?", again), tmp_path)
    other = dataclasses.replace(other, runs=tmp_path / "small" / "tiny" / "other", csv=tmp_path / "other.small.csv")
    assert other.run(again, [0, 1]) == []
    assert [words[-2] for words in commands] == ["--config.seed=1"]  # seed 0 was there
    assert {name for name, _ in other.rows()} == {"the same as b", "its average"}
    assert set(trials_of(comparison, tmp_path).rows()) == {("a", 0), ("b, c = 2", 0), ("b averaged", 0)}


def test_scores_in_the_workdirs_are_enough_to_write_the_csv_again(comparison, commands, tmp_path):
    trials = trials_of(comparison, tmp_path)
    trials.run(comparison.trials, [0])
    before = trials.csv.read_text()
    trials.csv.unlink()
    trials.run(comparison.trials, [0])
    assert trials.csv.read_text() == before


def test_other_scores_have_columns_and_panels_of_their_own(comparison, commands, tmp_path):
    claims = [Claim("a", "b, c = 2"), Claim("a", "b, c = 2", "bleu")]
    both = dataclasses.replace(comparison, metric="perplexity", also=("bleu",), claims=claims)
    trials = trials_of(both, tmp_path)
    trials.run(both.trials, [0, 1])
    with trials.csv.open() as file:
        assert next(csv.reader(file)) == [*COLUMNS, "bleu"]
    text = markdown(both, "small", trials.rows())
    assert "| row | perplexity | BLEU | seeds | paper | parameters |" in text
    assert "| a | 0.50 ± 0.00 | 10.5 ± 6.4 | 2 |  | 1 |" in text
    assert "- perplexity: a below b, c = 2: +0.00" in text
    assert "- BLEU: a above b, c = 2: +0.0" in text
    figure = Figure()
    draw(figure, both, "small", trials.rows())
    assert [axis.get_xlabel() for axis in figure.axes] == ["perplexity", "BLEU"]
    (tmp_path / "table.small.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(UserError, match="Remove it and run again"):
        trials.rows()


def test_a_curve_has_a_line_for_each_series_and_for_each_row_without_x(comparison, commands, tmp_path):
    along = [Trial(f"{n} of {s}", SMALL, x=n, series=s) for s in ("p", "q") for n in (1, 2, 8)]
    curves = dataclasses.replace(comparison, trials=[*along, Trial("flat", SMALL)], claims=(), x_label="n")
    trials = trials_of(curves, tmp_path)
    trials.run(curves.trials, [0, 1])
    figure = Figure()
    draw(figure, curves, "small", trials.rows())
    (axis,) = figure.axes
    assert {text.get_text() for text in axis.get_legend().get_texts()} == {"p", "q", "flat"}
    assert (axis.get_xscale(), axis.get_xlabel(), axis.get_ylabel()) == ("log", "n", "top-1 (%)")


def test_a_run_that_another_process_trains_is_left_to_it(comparison, commands, tmp_path):
    from vit_jax.workdir.lock import Lock

    trials = trials_of(comparison, tmp_path)
    lock = Lock(trials.workdir(comparison.trials[1], 0))
    try:
        problems = trials.run(comparison.trials, [0])
    finally:
        lock.close()
    assert problems[0] == "b, c = 2, seed 0: another process is training it"
    assert set(trials.rows()) == {("a", 0)}


def test_what_another_process_has_finished_meanwhile_is_no_problem(comparison, commands, tmp_path, monkeypatch):
    here, there = (trials_of(comparison, tmp_path) for _ in range(2))
    said = []

    def in_use(workdir):  # at the second row, the other process is training it; it ends before this one does
        if workdir == here.workdir(comparison.trials[1], 0) and not said:
            said.append(workdir)
            there.run(comparison.trials[1:2], [0])
            return True
        return False

    monkeypatch.setattr(trained, "is_in_use", in_use)
    assert here.run(comparison.trials[:2], [0]) == []
    assert said
    assert set(here.rows()) == {(trial.name, 0) for trial in comparison.trials[:2]}


def test_what_fails_is_reported_and_the_rest_is_done(comparison, commands, tmp_path, monkeypatch):
    work = trained.run_command
    monkeypatch.setattr(trained, "run_command", lambda words: 1 if "configs/quickstart.py" in words[1] else work(words))
    problems = trials_of(comparison, tmp_path).run(comparison.trials[:2], [0])
    assert problems == [
        "image model, seed 0: the command train ended with status 1",
        "a, seed 0: image model is not finished",
        "b, c = 2, seed 0: the command train ended with status 1",
    ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"trials": [Trial("a", SMALL), Trial("a", SMALL)]}, "two rows named 'a'"),
        ({"trials": [Trial("a", SMALL)], "claims": [Claim("a", "b")]}, "no row 'b'"),
        ({"trials": [Trial("a", Recipe("x", {"init_from": "{b}"}))]}, "no row 'b'"),
        ({"trials": [Trial("a", of="b")]}, "no row 'b'"),
        ({"trials": [Trial("a"), Trial("b")], "claims": [Claim("a", "b", "bleu")]}, "no metric 'bleu'"),
    ],
)
def test_a_definition_with_unknown_or_repeated_rows_is_refused(fields, problem):
    with pytest.raises(UserError, match=f"comparison 'T' has {problem}"):
        Comparison("T", "Why?", **fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit/table8"], "vit/table8 has nothing at the scale computed; see --list"),
        (["tnt/table1", "--scale=small"], "tnt/table1 has nothing at the scale small; see --list"),
        (["vit/table8", "--scale=small", "--only=nnone"], "no row 'nnone' in ViT, Table 8"),
        (["tnt/table1", "--seeds=2"], "--seeds applies to trained rows. Add --scale=small or --scale=paper."),
    ],
)
def test_mistakes_are_one_line(capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_row_without_a_config_is_refused_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "t.py").write_text(TINY.replace("CONFIG", "'configs/quickstrat.py'"))
    options = ["--scale=small", f"--folder={tmp_path}", f"--runs={tmp_path / 'runs'}"]
    assert main(["reproduce", "tiny/t", *options]) == 2
    assert capsys.readouterr().err.startswith("vit_jax: row 'gap': no config file 'configs/quickstrat.py'")
    assert not (tmp_path / "runs").exists()


TINY = """
from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial
SIZES = {"duration": "4 epochs", "eval_every": "1 epoch", "checkpoint.every": "1 epoch", "model.num_layers": 1}
ROWS = [Trial(pool, Recipe(CONFIG, {**SIZES, "model.pool": pool})) for pool in ("gap", "cls")]
COMPARISON = Comparison("Tiny", "Why?", ROWS, claims=[Claim("gap", "cls")])
"""


@pytest.mark.slow
def test_sigkill_at_any_point_and_two_at_once_lose_nothing(tmp_path):
    """Kills the command and its child again and again, then lets two commands finish the table together."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "t.py").write_text(TINY.replace("CONFIG", repr(str(ROOT / "configs" / "quickstart.py"))))
    words = ["reproduce", "tiny/t", "--scale=small", "--seeds=2", f"--folder={tmp_path}", f"--runs={tmp_path / 'runs'}"]
    command = [sys.executable, "-m", "vit_jax", *words]

    def start():
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    for seconds in (3, 9, 14, 20):
        process = start()
        time.sleep(seconds)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        for pid in (process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    both = [start(), start()]
    assert {process.wait() for process in both} <= {0, 1}  # 1: the other one was training the last row
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    with (tmp_path / "results" / "tiny" / "t.small.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["seed"]) for row in rows] == [("cls", "0"), ("cls", "1"), ("gap", "0"), ("gap", "1")]
    assert {row["examples"] for row in rows} == {"355"}
    assert {row["steps"] for row in rows} == {str(round(4 * 1442 / 128))}  # 4 epochs in batches of 128
