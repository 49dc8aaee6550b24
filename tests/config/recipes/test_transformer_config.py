"""The Transformer's configs: the paper's numbers, and the smallest config from sentences to scores."""

import csv
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from vit_jax import config as schema
from vit_jax.data.text.learning import learn_vocabulary
from vit_jax.data.text.source import TextSource
from vit_jax.data.text.vocabulary import Vocabulary
from vit_jax.errors import Interrupted, UserError
from vit_jax.experiment import Experiment, Plan, make_model, make_task
from vit_jax.load import load_run
from vit_jax.schedule import make_schedule
from vit_jax.train import train_and_evaluate
from vit_jax.workdir.metrics import TIMINGS

CONFIG = pathlib.Path(__file__).parents[3] / "configs" / "transformer.py"
WORDS = ["open", "close", "save", "file", "window", "new", "old", "page", "line", "print", "undo", "red"]


def load(arg, **overrides):
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in overrides.items()]
    return schema.load_config(f"{CONFIG}:{arg}", flags)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train(["any text will do"], 275)


# sizes of Table 3 but for the vocabulary's exact size; the rest is Table 3 and sections 5 and 6.1
@pytest.mark.parametrize(
    ("arg", "millions", "steps", "dropout", "vocab_size", "average"),
    [
        ("wmt14_en_de", 63, 100_000, 0.1, 37_000, 5),
        ("wmt14_en_de,big", 214, 300_000, 0.3, 37_000, 20),
        ("wmt14_en_fr", 60, 100_000, 0.1, 32_000, 5),
        ("wmt14_en_fr,big", 209, 300_000, 0.1, 32_000, 20),
    ],
)
def test_recipes_are_the_papers(arg, millions, steps, dropout, vocab_size, average, vocabulary):
    config = load(arg, model__scan_layers=True)
    assert (config.data.vocab_size, config.batch_size) == (vocab_size, 25_000)
    assert config.data.languages == tuple(arg.partition(",")[0].split("_")[1:])

    class Sized(Vocabulary):
        def __len__(self):
            return vocab_size

    sized = Sized(vocabulary.model)
    model, task = make_model(config, sized), make_task(config, sized)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *task.init_inputs(model), train=False))
    parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert round(parameters / 1e6) == millions
    assert (model.dropout_rate, model.norm, model.share_embeddings) == (dropout, "post", True)
    assert (task.label_smoothing, task.beam_size, task.length_penalty, task.extra_length) == (0.1, 4, 0.6, 50)

    plan = Plan.from_config(config, 1000.0)
    assert (plan.total, config.checkpoint.keep_last) == (steps, average)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.eps) == ("adamw", 0.9, 0.98, 1e-9)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0, 0)
    rate = make_schedule(
        optimizer.schedule, total_steps=plan.total, steps_per_epoch=1000.0, hidden_dim=model.hidden_dim
    )
    for step in (1, 2000, 4000, 50_000):
        wanted = model.hidden_dim**-0.5 * min(step**-0.5, step * 4000**-1.5)
        np.testing.assert_allclose(rate(step - 1), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("wmt14_en_it", "unknown data set 'wmt14_en_it'; did you mean 'wmt14_en_"),
        ("wmt14_en_de,huge", "wmt14_en_de has no option 'huge'; known: base, big"),
        ("messages,big", "messages has no option 'big'; known: none"),
    ],
)
def test_arguments_that_are_not_known(arg, message):
    with pytest.raises(UserError, match=message):
        load(arg)


def write_split(path, count, seed):
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(count)]
    path.write_text("".join(f"{sentence}\t{sentence.upper()}\n" for sentence in sentences))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language that is the other in capitals; one pair of each split is too long, one half empty."""
    folder = tmp_path_factory.mktemp("text")
    for split, count, seed in (("train", 200, 0), ("validation", 30, 1)):
        write_split(folder / f"{split}.tsv", count, seed)
        with (folder / f"{split}.tsv").open("a") as file:
            file.write("open " * 70 + "\tAPRI\n" + "\tNIENTE\n")
    return folder


@pytest.fixture(scope="module")
def config(folder, own_home):
    overrides = {
        "data__path": folder,
        "compilation_cache": "",
        "optimizer__schedule__peak": 0.02,
        "data__vocab_size": 330,
    }
    return load("runlocal", duration="40 steps", eval_every="20 steps", checkpoint__every="20 steps", **overrides)


def train(config, workdir):
    return train_and_evaluate(Experiment.from_config(config, workdir), workdir, quiet=True)


def open_data(config):
    return Experiment.from_config(config).data


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, train(config, workdir)


def rows_of(workdir, split):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == split]


def test_training_learns_and_says_what_was_scored(trained):
    workdir, result = trained
    train = rows_of(workdir, "train")
    assert train[-1]["nll"] < 0.8 * train[0]["nll"]
    assert train[-1]["token_accuracy"] > train[0]["token_accuracy"]
    assert (result["examples"], result["skipped"]) == (30, 2)
    last = rows_of(workdir, "eval")[-1]
    assert {name: last[name] for name in result} == result
    assert last["bleu_signature"].startswith("nrefs:1|")


def test_the_summary_counts_everything(config):
    data = open_data(config)
    pairs, batches, *skipped = data.summary()
    assert pairs == "text: 200 training and 30 evaluation pairs, en to it, 330 sub-words"
    assert batches.startswith(f"{data.steps_per_epoch} batches per epoch, ")
    assert skipped == ["skipped 1 training pair with an empty side", "skipped 1 training pair longer than 64 tokens"]


def test_a_checkpoint_translates_and_is_scored_by_itself(trained, config):
    workdir, result = trained
    run = load_run(workdir)
    assert run.encoder == open_data(config).encoder
    assert [answer["translation"] for answer in run.predict(["save the file", ""])][1] == ""
    likelihoods = {name: pytest.approx(result[name], rel=1e-5) for name in ("loss", "perplexity")}
    assert run.evaluate("validation", batch_size=64) == {**result, **likelihoods}


def test_checkpoints_are_averaged(trained):
    workdir, _ = trained
    parts = [load_run(workdir / "checkpoints" / step).params for step in ("20", "40")]
    mean = load_run(workdir, average=2).params
    jax.tree.map(lambda x, a, b: np.testing.assert_allclose(x, (a + b) / 2, atol=1e-6), mean, *parts)


def test_a_run_goes_on_where_it_was_left(trained, config, tmp_path):
    workdir, result = trained
    copy, traced = tmp_path / "copy", config.copy_and_resolve_references()
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / "40")
    traced.profile = (18, 22)  # some of which were before
    assert train(traced, copy) == result
    assert list((copy / "profile").rglob("*.xplane.pb"))
    for split in ("train", "eval"):
        ours, theirs = (
            [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows_of(folder, split)]
            for folder in (copy, workdir)
        )
        assert ours == theirs


def test_an_interruption_while_a_resumed_run_evaluates_is_one(trained, config, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(trained[0], copy)
    rows = [row for row in (copy / "metrics.jsonl").read_text().splitlines() if '"eval"' not in row]
    (copy / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr("vit_jax.evaluate.Evaluator.evaluate", lambda *_, **__: None)
    with pytest.raises(Interrupted, match="stopped after step 40 of 40, which is saved"):
        train(config, copy)


def test_other_data_are_not_taken_for_damage(trained, config, monkeypatch):
    fewer = learn_vocabulary(["open the file", "close it"], 280)
    monkeypatch.setattr("vit_jax.data.text.modality.learn_vocabulary", lambda *_: fewer)
    with pytest.raises(UserError, match=r"the data have changed .* their preprocessing"):
        train(config, trained[0])


def test_fine_tuning_keeps_the_vocabulary_of_the_parameters(trained, config):
    other = config.copy_and_resolve_references()
    other.data.train_split, other.init_from = "train[:50%]", str(trained[0])
    assert open_data(other).encoder == load_run(trained[0]).encoder
    other.init_from = ""
    assert open_data(other).encoder != load_run(trained[0]).encoder


@pytest.fixture(scope="module")
def baselines():
    sys.path.insert(0, str(CONFIG.parent.parent / "experiments"))
    import translation_baselines

    return translation_baselines


def test_one_script_scores_baselines_and_a_run_on_every_sentence(trained, folder, baselines, tmp_path):
    workdir, _ = trained
    started = {
        "status": "finished",
        "seconds": 7.5,
        "started": "2030-01-02T03:04:05",
        "command": "python x --workdir=y",
    }
    started |= {"hardware": "h", "python": "3", "commit": "c", "packages": {"jax": "1"}}
    (workdir / "runs.jsonl").write_text(json.dumps(started) + "\n")
    (tmp_path / "own.txt").write_text("open the page\nsave\n")

    options = [str(folder), "--splits=validation,other", f"--results={tmp_path}"]
    for more in ([], [], [f"--run={workdir}", f"--samples={tmp_path / 'own.txt'}"]):  # a row replaces its like
        baselines.main([*options, *more])
    with (tmp_path / "translation.csv").open() as file:
        listed = list(csv.DictReader(file))
    rows = {row["method"]: row for row in listed}
    assert sorted(row["method"] for row in listed) == ["copy", "transformer:base", "translation memory"]
    assert {row["examples"] for row in rows.values()} == {"31"}  # with the one that is too long for the buckets
    assert {row["skipped"] for row in rows.values()} == {"1"}
    assert rows["transformer:base"]["seconds"] == "7.5"
    assert rows["transformer:base"]["command"] == "python x --workdir=DIR"
    samples = (tmp_path / "translation_samples.tsv").read_text().splitlines()
    assert samples[0] == "source\ttranslation"
    assert [line.split("\t")[0] for line in samples[1:]] == ["open the page", "save"]


def test_the_memory_gives_the_target_of_the_nearest_source(baselines):
    train = TextSource("train", ("en", "it"), ["open the file", "close it", "close it"], ["a", "b", "c"], {}, [])
    assert baselines.translation_memory(train, ["open a file", "closed", "zzz", "open"], at_once=2) == [
        "a",
        "b",
        "a",
        "a",
    ]


def test_a_vocabulary_is_learned_once(own_home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sentences = ["open the file", "close it"]
    first = learn_vocabulary(sentences, 280)
    monkeypatch.setattr(Vocabulary, "train", lambda *_: pytest.fail("it is in the cache"))
    assert learn_vocabulary(sentences, 280) == first == learn_vocabulary(list(sentences), 280)
    for other in (([*sentences, "x"], 280), (sentences, 279), (["open the file\nclose it"], 280)):
        with pytest.raises(pytest.fail.Exception):
            learn_vocabulary(*other)


def test_a_cache_that_cannot_be_written_is_done_without(own_home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(learn_vocabulary(["open the file", "close it"], 280)) == 280


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__path": ""}, "config.data.path: the folder with its splits"),
        ({"batch_size": 60}, r"split 'train': a batch of 60 tokens.*has no room for a sentence of 64 tokens"),
        ({"init_from": "nowhere"}, "config.init_from=nowhere: no such file or folder"),
        ({"data__vocab_size": 100_000}, "config.data.vocab_size=100000 is too large"),
        ({"data__train_split": "trian"}, "no split 'trian'; did you mean 'train'"),
        (
            {"data__train_split": "train[-2:]", "data__vocab_size": 270},
            "no sentences left: 1 of 1 pairs are longer than 64",
        ),
    ],
)
def test_a_mistake_in_the_data_is_named(folder, own_home, overrides, message):
    with pytest.raises(UserError, match=message):
        open_data(load("runlocal", **{"data__path": folder, "data__vocab_size": 300, **overrides}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"checkpoint__best": "belu"},
            "best='belu' is not a score of translation; did you mean 'bleu'",
        ),
        ({"profile": (22, 18)}, r"config.profile must be \(first, last\) .* got \(22, 18\)"),
        (
            {"profile": (41, 50)},
            r"config.profile=\(41, 50\) traces steps beyond the end of the run, which has 40 steps",
        ),
        ({"task__beam_size": 0}, "config.task.beam_size must be a whole number from 1 to 1,000, got 0"),
        ({"task__label_smoothing": 1.0}, "config.task.label_smoothing must be at least 0 and below 1, got 1.0"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_the_start(config, tmp_path, overrides, message):
    wrong = config.copy_and_resolve_references()
    wrong.update_from_flattened_dict({name.replace("__", "."): value for name, value in overrides.items()})
    with pytest.raises(UserError, match=message):
        train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
