"""The recipe of parsing: the paper's numbers, a step at its size, and a tiny run from a treebank to its scores."""

import functools
import json
import pathlib
import types
from typing import Any

import jax
import numpy as np
import pytest
from tiny_trees import write_treebank

from vit_jax import config as schema
from vit_jax.__main__ import main
from vit_jax.data.sets.treebank import build
from vit_jax.data.text.vocabulary import UnreadVocabulary, Vocabulary
from vit_jax.errors import UserError
from vit_jax.experiment import Experiment, Plan
from vit_jax.schedule import make_schedule
from vit_jax.state import initial_state
from vit_jax.train import train_step

CONFIG = pathlib.Path(__file__).parents[3] / "configs" / "transformer.py"


def load(arg, *flags):
    return schema.load_config(f"{CONFIG}:{arg}", list(flags))


def assemble(config):
    """Resolves a config as if its data were there."""
    config = schema.copy(config)
    config.model.scan_layers = True  # traces one block instead of all
    data: Any = types.SimpleNamespace(encoder=UnreadVocabulary(config.data.vocab_size), labels=(), steps_per_epoch=150)
    return Experiment.assemble(schema.resolve_defaults(config), data)


# section 6.3, Table 4 and section 5; dropout and warm-up are tensor2tensor's
@pytest.mark.parametrize(
    ("arg", "vocab_size", "dropout", "warmup"),
    [("parsing", 16_000, 0.2, 16_000), ("parsing,semi", 32_000, 0.1, 4_000)],
)
def test_the_recipe_is_the_paper_s(arg, vocab_size, dropout, warmup):
    config = load(arg)
    experiment = assemble(config)
    model, task = experiment.model, experiment.task
    assert (config.data.name, config.data.languages, config.data.vocab_size) == ("text", ("words", "tree"), vocab_size)
    assert (config.data.train_split, config.data.eval_split) == ("train", "validation")
    assert (model.num_layers, model.hidden_dim, model.mlp_dim, model.num_heads) == (4, 1024, 2048, 8)
    assert (model.qk_head_dim or model.hidden_dim // model.num_heads, model.norm, model.pos_embed) == (
        128,
        "post",
        "sinusoidal",
    )
    assert (model.dropout_rate, model.attention_dropout_rate, model.share_embeddings) == (dropout, dropout, True)
    assert (task.name, task.beam_size, task.length_penalty, task.extra_length) == ("parsing", 21, 0.3, 300)
    assert (task.label_smoothing, task.max_length) == (0.1, 512)
    assert (config.batch_size, Plan.from_config(config, 150.0).total) == (25_000, 100_000)
    assert (config.checkpoint.best, config.checkpoint.keep_last) == ("f1", 5)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.eps) == ("adamw", 0.9, 0.98, 1e-9)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0, 0)
    rate: Any = make_schedule(optimizer.schedule, total_steps=100_000, steps_per_epoch=150.0, hidden_dim=1024)
    for step in (1, 2000, 16_000, 50_000):
        wanted = 0.5 * 1024**-0.5 * min(step**-0.5, step * warmup**-1.5)
        np.testing.assert_allclose(rate(step - 1), wanted, rtol=1e-5)
    shapes = jax.eval_shape(lambda: initial_state(experiment)).params
    # embeddings; four blocks of encoder and decoder: attention, feed-forward network, norms
    attention, network, norm = 4 * 1024**2, 2 * 1024 * 2048 + 2048 + 1024, 2 * 1024
    expected = vocab_size * 1024 + 4 * (3 * attention + 2 * network + 5 * norm)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_a_step_is_traced_at_the_published_size():
    config = load("parsing")
    experiment = assemble(config)
    state = jax.eval_shape(lambda: initial_state(experiment))
    step = functools.partial(train_step, model=experiment.model, task=experiment.task, tx=experiment.tx, axis_name=None)
    for length in (config.data.buckets[0], config.data.buckets[-1]):
        rows = config.batch_size // length
        sides = {"source": ((rows, length), np.int32), "target": ((rows, length + 1), np.int32)}
        named = {**sides, "mask": ((rows,), np.float32), "id": ((rows,), np.int32)}
        after, sums = jax.eval_shape(step, state, {name: jax.ShapeDtypeStruct(*one) for name, one in named.items()})
        assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
        assert {"loss", "nll", "token_accuracy"} <= sums.keys()


def test_options_that_are_not_known():
    with pytest.raises(UserError, match="parsing has no option 'big'; known: semi, runlocal"):
        load("parsing,big")


@pytest.fixture(scope="module")
def treebank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("treebank")
    build(folder / "prepared", write_treebank(folder / "wsj"))
    return folder / "prepared"


def test_symbols_are_sub_words_and_the_end_of_a_constituent_is_two(treebank):
    rows = [json.loads(line) for line in (treebank / "train.jsonl").read_text().splitlines()]
    vocabulary = Vocabulary.train([text for row in rows for text in (row["source"], row["target"])], 330)
    target = rows[0]["target"]
    assert vocabulary.decode(vocabulary.encode(target)) == target
    symbols = target.split()
    tokens = [len(vocabulary.encode(f" {symbol}")) for symbol in symbols]
    ends = [count for symbol, count in zip(symbols, tokens, strict=True) if symbol.startswith("/")]
    assert set(ends) == {2}
    assert max(tokens) <= 2


@pytest.fixture(scope="module")
def trained(treebank, tmp_path_factory, own_home):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    options = (f"--config.data.path={treebank}", "--config.compilation_cache=", "--config.duration=40 steps")
    more = ("--config.eval_every=40 steps", "--config.checkpoint.every=20 steps")
    assert main(["train", f"--config={CONFIG}:parsing,runlocal", f"--workdir={workdir}", *options, *more]) == 0
    return workdir


def test_a_tiny_run_is_trained_and_scored(trained, capsys):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    train, last = ([row for row in rows if row["split"] == split] for split in ("train", "eval"))
    assert train[-1]["nll"] < 0.8 * train[0]["nll"]
    assert (last[-1]["examples"], last[-1]["skipped"]) == (12, 0)
    assert {"f1", "precision", "recall", "well_formed", "other_lengths", "perplexity"} <= last[-1].keys()
    assert (trained / "translations.tsv").exists()
    assert main(["evaluate", str(trained), "--split=test", "--average=2", f"--predictions={trained / 'x.csv'}"]) == 0
    printed = capsys.readouterr().out
    assert "  f1 " in printed
    assert "  well_formed " in printed
    header = (trained / "x.csv").read_text().splitlines()[0].split(",")
    assert {"reference", "translation", "matched", "found", "gold"} <= set(header)


def test_a_tiny_run_predicts_trees(trained, capsys):
    sentence = "the old cat fell ."
    assert main(["predict", str(trained), "--text", sentence, "--text", " ", "--json"]) == 0
    first, blank = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["source"], blank["translation"]) == (sentence, "")
    assert first["score"] < 0
