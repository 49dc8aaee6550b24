"""Translations of any sentences: independent of the other sentences in the batch, and in the order of the input."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest

from vit_jax.__main__ import main
from vit_jax.config import default_config
from vit_jax.data.modality import get_modality
from vit_jax.data.text.preview import plot_attention, write_translations
from vit_jax.data.text.vocabulary import Vocabulary
from vit_jax.errors import UserError
from vit_jax.experiment import make_model, make_task
from vit_jax.run import Run

SENTENCES = ["save", "open the file", "", "close it and open the old window again", " \t", "print $5 or $6", "page"]
FIELDS = {"hidden_dim": 16, "mlp_dim": 32, "num_layers": 1, "num_heads": 2, "norm": "pre"}


def translate(run, sentences, **options):
    return [(answer["translation"], answer["score"]) for answer in run.predict(sentences, **options)]


@pytest.fixture(scope="module")
def make_run(randomised):
    def make(path=None, **fields):
        config = default_config()
        config.update({"data": {"buckets": (12, 24)}, "task": {"name": "translation", "beam_size": 2}})
        config.task.extra_length = 5
        config.data.update(name="text", path=path and str(path), eval_split="test")
        config.model.update({"name": "transformer:base", **FIELDS, **fields})
        vocabulary = Vocabulary.train(SENTENCES, 290)
        model, task = make_model(config, vocabulary), make_task(config, vocabulary)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *task.init_inputs(model), train=False))
        params = randomised(shapes["params"], scale=0.5)
        return Run(model, params, task, (), vocabulary, config, 1)

    return make


@pytest.fixture(scope="module")
def run(make_run):
    return make_run()


@pytest.fixture(scope="module")
def found(run):
    return translate(run, SENTENCES)


def same(ours, theirs):
    assert [text for text, _ in ours] == [text for text, _ in theirs]
    np.testing.assert_allclose([score for _, score in ours], [score for _, score in theirs], rtol=1e-5)


def test_each_sentence_has_its_translation(found):
    assert len(found) == len(SENTENCES)
    blank = [not sentence.strip() for sentence in SENTENCES]
    assert [pair == ("", 0.0) for pair in found] == blank
    assert len({text for text, _ in found}) == len(SENTENCES) - 1
    assert all(score < 0 for (_, score), empty in zip(found, blank, strict=True) if not empty)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_do_not_change_a_translation(run, found, batch_size):
    same(translate(run, SENTENCES, batch_size=batch_size), found)


def test_order_and_company_do_not_change_a_translation(run, found):
    same(translate(run, SENTENCES[::-1])[::-1], found)
    same(translate(run, [SENTENCES[3]]), [found[3]])


def test_padding_does_not_change_a_translation(run, found):
    config = run.config.copy_and_resolve_references()
    config.data.buckets = (32,)
    same(translate(dataclasses.replace(run, config=config), SENTENCES), found)


def test_sentences_longer_than_the_buckets_are_translated(run):
    long = " and ".join(["open the file"] * 9)
    assert len(run.encoder.encode(long)) > 24
    ((text, score),) = translate(run, [long])
    assert text
    assert score < 0


def test_the_beam_may_be_chosen(run, found):
    greedy = translate(run, SENTENCES, beam_size=1)
    assert greedy != found
    again = dataclasses.replace(run, task=dataclasses.replace(run.task, beam_size=1))
    same(translate(again, SENTENCES), greedy)


def test_sentences_of_about_the_same_length_go_together(run):
    lengths = [len(run.encoder.encode(text)) + 1 for text in SENTENCES if text.strip()]
    padded = [12 if length <= 12 else 24 * -(-length // 24) for length in lengths]
    assert len(set(padded)) > 1
    shapes = [(2, width) for width in sorted(set(padded)) for _ in range(-(-padded.count(width) // 2))]
    batches = get_modality("text").input_batches(run, SENTENCES, 2, {})
    assert [batch["source"].shape for batch in batches] == shapes


def test_answers_come_before_all_sentences_are_read(run, found):
    read = []

    def sentences():
        for place in range(10_000):
            read.append(place)
            yield SENTENCES[place % len(SENTENCES)]

    answers = run.predict(sentences(), batch_size=2)
    same([(answer["translation"], answer["score"]) for _, answer in zip(SENTENCES, answers, strict=False)], found)
    assert len(read) < 100


def test_a_sentence_alone_is_not_a_list_of_letters(run):
    with pytest.raises(UserError, match="takes a list or another iterable of sentences, got one str"):
        translate(run, "save the file")
    with pytest.raises(UserError, match=r"input 1 is of type int, but must be a sentence \(str\)"):
        translate(run, ["save", 3])


def test_a_beam_beyond_its_range_is_refused(run):
    for beam_size in (0, -1, 100_000, 1.5, float("nan")):
        with pytest.raises(UserError, match="beam_size must be a whole number from 1 to 1,000"):
            translate(run, ["save"], beam_size=beam_size)


def test_a_terminal_is_told_that_sentences_are_read_from_it(run, stdin, monkeypatch, capsys, own_home):
    monkeypatch.setattr("vit_jax.load.load_run", lambda *_, **__: run)
    for is_terminal in (True, False):
        stdin(b"page\n")
        monkeypatch.setattr("sys.stdin.isatty", lambda is_terminal=is_terminal: is_terminal)
        assert main(["predict", "run"]) == 0
        said = "vit_jax: reading sentences from standard input; end with Ctrl-D\n" in capsys.readouterr().err
        assert said == is_terminal


def test_nothing_to_translate(run):
    assert translate(run, []) == []
    assert translate(run, [" "]) == [("", 0.0)]


def test_a_sentence_beyond_learned_positions_is_named(make_run):
    run = make_run(pos_embed="learned", max_length=24)
    run.config.data.buckets = (20,)  # of which the next multiple is beyond
    fits = next(text for text in ("page" + "z" * i for i in range(40)) if len(run.encoder.encode(text)) == 22)
    assert len(translate(run, [fits])) == 1
    with pytest.raises(UserError, match=r"'pagezz.*has 25 tokens.*learned positions for 24. Split"):
        translate(run, [fits, fits + "zz"])


def test_invalid_unicode(run):
    with pytest.raises(UserError, match="surrogate"):
        translate(run, ["a\udcff"])


@pytest.fixture
def stdin(monkeypatch):
    return lambda content: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_files_and_standard_input_are_sentences_line_by_line(run, stdin, tmp_path, monkeypatch, capsys, own_home):
    monkeypatch.setattr("vit_jax.load.load_run", lambda *_, **__: run)
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfsave\r\n\r\n")
    for inputs, typed, sentences in (
        ([str(tmp_path / "x.txt"), "-"], b"page\r\n", ["save", "", "page"]),
        ([], b"\xef\xbb\xbfpage\nsave\n", ["page", "save"]),
        ([], b"", []),
    ):
        stdin(typed)
        assert main(["predict", "run", *inputs, "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["source"] for row in rows] == sentences
        same([(row["translation"], row["score"]) for row in rows], translate(run, sentences))


def test_invalid_utf8_is_named_by_its_line(run, stdin, tmp_path, monkeypatch, capsys, own_home):
    monkeypatch.setattr("vit_jax.load.load_run", lambda *_, **__: run)
    (tmp_path / "x.txt").write_bytes(b"save\n\xe9\n")
    stdin(b"\xff")
    for inputs, message in (
        ([str(tmp_path / "x.txt")], f"{tmp_path}/x.txt, line 2: byte 0xe9 is not valid UTF-8. Convert the text"),
        (["-"], "standard input, line 1: byte 0xff is not valid UTF-8"),
        ([str(tmp_path / "y.txt")], f"{tmp_path}/y.txt: no such file. To translate a sentence, pass it as --text"),
    ):
        assert main(["predict", "run", *inputs]) == 2
        assert capsys.readouterr().err.startswith(f"vit_jax: {message}")


def test_attention_is_drawn_whatever_the_signs(run, tmp_path, monkeypatch):
    drawn = {}

    def heat_maps(path, panels, heading):
        drawn.update({title: (values, rows, columns) for title, values, rows, columns in panels}, heading=heading)
        return path

    sides = "print $5 or $6", "$_{x $^2"
    assert len(plot_attention(run, *sides, tmp_path / "maps.png").read_bytes()) > 1000
    monkeypatch.setattr("vit_jax.data.text.preview.heat_maps", heat_maps)
    plot_attention(run, *sides, tmp_path / "maps.png")
    source, target = (len(run.encoder.encode(side)) + 1 for side in sides)
    shapes = [(source, source), (target, target), (target, source)]
    for (values, rows, columns), shape in zip(
        (drawn[title] for title in drawn if title != "heading"), shapes, strict=True
    ):
        assert values.shape == shape == (len(rows), len(columns))
        np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-5)


def test_some_of_the_evaluation_split_is_written(make_run, tmp_path):
    (tmp_path / "test.tsv").write_text("".join(f"{text.strip() or 'x'}\tdi {i}\n" for i, text in enumerate(SENTENCES)))
    run = make_run(tmp_path)
    # such a batch takes no more memory than the sentences need; one of the seven is longer than the longest bucket
    assert run.evaluate(batch_size=2**24)["examples"] == len(SENTENCES) - 1
    table, picture = write_translations(run, run.open_split(), tmp_path, count=3)
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert rows[0] == ["source", "translation", "reference"]
    assert [(source, reference) for source, _, reference in rows[1:]] == [
        ("save", "di 0"),
        ("open the file", "di 1"),
        ("x", "di 2"),
    ]
    found = translate(run, [source for source, _, _ in rows[1:]])
    assert [" ".join(text.split()) for text, _ in found] == [translation for _, translation, _ in rows[1:]]
    assert len(picture.read_bytes()) > 1000
