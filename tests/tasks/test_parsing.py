"""Scores of trees: by hand, for random trees, and against PYEVALB where its conventions are the same."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_jax.data.text.trees import LABELS, bracketed
from vit_jax.data.text.vocabulary import EOS_ID, Vocabulary
from vit_jax.tasks.parsing import Brackets, Parsing, bracket_scores, compare_trees

GOLD = "S NP DT NN /NP VP VBD PP IN NP DT NN /NP /PP /VP . /S"  # the cat sat on the mat .
VOCABULARY = Vocabulary.train([GOLD, "the cat sat on the mat ."], 300)


def compared(predicted, reference=GOLD):
    return compare_trees(predicted, reference)[:3]


# (matched, found, gold), counted by hand; GOLD has S 0-6, NP 0-2, VP 2-6, PP 3-6 and NP 4-6, without the full stop
@pytest.mark.parametrize(
    ("predicted", "counts"),
    [
        (GOLD, (5, 5, 5)),
        ("S NP DT NN /NP VP VBD /VP PP IN NP DT NN /NP /PP . /S", (4, 5, 5)),  # PP beside VP, which is 2-3
        ("S NP DT NN /NP VP VBD PP IN DT NN /PP /VP . /S", (4, 4, 5)),  # without the second NP
        ("S NP NP DT NN /NP /NP VP VBD PP IN NP DT NN /NP /PP /VP . /S", (5, 6, 5)),  # NP twice, once in the reference
        ("S NP DT NN /NP VP VBD PP IN NP DT NN . /NP /PP /VP /S", (5, 5, 5)),  # the full stop has no position
        ("S NP NN NN /NP VP VBN PP IN NP JJ NN /NP /PP /VP . /S", (5, 5, 5)),  # tags do not count
        ("S NP DT NN /NP VP VBD PP IN NP DT NN /NP /PP /VP NN /S", (5, 5, 5)),  # nor does a tag that is no punctuation
        ("S NP DT NN /NP VP VBD PP IN NP DT . /NP /PP /VP . /S", (5, 5, 5)),  # or one that is, wrongly
        ("TOP S NP DT NN /NP VP VBD PP IN NP DT NN /NP /PP /VP . /S /TOP", (5, 5, 5)),
        ("S NP DT NN /NP VP VBD PP IN NP DT NN /NP /PP /VP PRN . /PRN /S", (5, 5, 5)),  # no word is left in PRN
        ("S NP DT NN /NP VP VBD PP IN NP DT NN . /S", (5, 5, 5)),  # three ends are missing
        ("S NP DT NN /NP VP VBD PP IN NP DT NN /NP /PP /VP . . /S", (0, 5, 5)),  # a word more
        ("S NP NN /NP VP VBD PP IN NP DT NN /NP /PP /VP . /S", (0, 5, 5)),  # a word less
        ("", (0, 0, 5)),
    ],
)
def test_brackets_by_hand(predicted, counts):
    assert compared(predicted) == counts


def test_adverbs_and_particles_are_one_label():
    reference = "S NP NN /NP VP VBD PRT RP /PRT ADVP RB /ADVP /VP /S"
    assert compared("S NP NN /NP VP VBD ADVP RP /ADVP ADVP RB /ADVP /VP /S", reference) == (5, 5, 5)
    assert compared("S NP NN /NP VP VBD PRT RP /PRT PP RB /PP /VP /S", reference) == (4, 5, 5)
    both = "S VP VBD PRT ADVP RP /ADVP /PRT /VP /S"  # one over the other: they match twice
    assert compared("S VP VBD ADVP PRT RP /PRT /ADVP /VP /S", both) == (4, 4, 4)


@pytest.mark.parametrize("tag", [",", ":", "``", "''", "."])
def test_punctuation_is_deleted_and_other_signs_are_not(tag):
    assert compared(f"S NP NN {tag} /NP VB /S", f"S NP NN /NP {tag} VB /S") == (2, 2, 2)
    for other in ("-LRB-", "$", "#", "POS"):
        assert compared(f"S NP NN {other} /NP VB /S", f"S NP NN /NP {other} VB /S") == (1, 2, 2)


def test_scores_are_of_the_whole_corpus():
    sentences = [Brackets(4, 5, 5, True, True), Brackets(0, 3, 10, False, False), Brackets(1, 1, 1, False, True)]
    scores = bracket_scores(sentences)
    assert scores == {
        "f1": pytest.approx(100 * 2 * 5 / 25),
        "precision": pytest.approx(100 * 5 / 9),
        "recall": pytest.approx(100 * 5 / 16),
        "well_formed": pytest.approx(100 / 3),
        "other_lengths": 1,
    }
    p, r = scores["precision"], scores["recall"]
    assert scores["f1"] == pytest.approx(2 * p * r / (p + r))
    nothing = bracket_scores([Brackets(0, 0, 5, False, False)])
    assert (nothing["f1"], nothing["precision"], nothing["recall"]) == (0, 0, 0)


def rows_of(predicted, references):
    sides = [[[*VOCABULARY.encode(text), EOS_ID] for text in side] for side in (predicted, references)]
    width = max(map(len, sides[0] + sides[1]))
    rows = {
        name: np.array([tokens + [0] * (width - len(tokens)) for tokens in side])
        for name, side in zip(("translation", "reference"), sides, strict=True)
    }
    count = len(references)
    return rows | {"nll": np.arange(1.0, count + 1), "tokens": np.full(count, 2.0), "score": np.full(count, -0.5)}


def test_the_task_scores_records_and_prints_trees():
    task = Parsing(VOCABULARY, 64, language="tree")
    rows = rows_of([GOLD, "S NP DT NN"], [GOLD, GOLD])
    result = task.score(rows)
    assert result == {
        "loss": pytest.approx(0.75),
        "perplexity": pytest.approx(np.exp(0.75)),
        "f1": pytest.approx(100 * 10 / 17),
        "precision": pytest.approx(100 * 5 / 7),
        "recall": 50,
        "well_formed": 50,
        "other_lengths": 1,
        "examples": 2,
    }
    assert set(task.scores) < set(result)
    assert task.metric in task.scores
    assert task.headline({**result, "skipped": 3}) == (
        "F1 58.8, precision 71.4, recall 50.0, 50.0 % well-formed, perplexity 2.12 "
        "(2 sentences, 1 with another number of words, 3 skipped)"
    )
    record = task.record(rows)
    assert (record["matched"], record["found"], record["gold"]) == ([5, 0], [5, 2], [5, 5])
    assert record["reference"] == [GOLD, GOLD]
    complete, malformed = task.answers(rows)
    assert task.text("the cat sat on the mat .", complete) == (
        "(S (NP (DT the) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT the) (NN mat)))) (. .))"
    )
    assert task.text("the cat", malformed) == "(S (NP (DT the) (NN cat)))"
    assert task.text("cat", malformed) == "S NP DT NN"  # a tree for another number of words
    assert task.text("", {"translation": "", "score": 0.0}) == ""
    assert dataclasses.replace(task, beam_size=2).beam_size == 2


PHRASES = sorted(LABELS - {"PRT", "ADVP"})
PLAIN = st.recursive(
    st.sampled_from(["NN", "VBD", "IN", "DT"]),
    lambda inner: st.tuples(st.sampled_from(PHRASES), st.lists(inner, min_size=2, max_size=4)),
)


def symbols_of(tree):
    if isinstance(tree, str):
        return [tree]
    label, children = tree
    return [label, *(symbol for child in children for symbol in symbols_of(child)), f"/{label}"]


TREES = st.tuples(st.just("S"), st.lists(PLAIN, min_size=2, max_size=4)).map(symbols_of)


@settings(deadline=None, max_examples=100)
@given(TREES)
def test_a_tree_scores_100_against_itself(symbols):
    text = " ".join(symbols)
    scores = bracket_scores([compare_trees(text, text)])
    assert [scores[name] for name in ("f1", "precision", "recall", "well_formed")] == [100] * 4
    assert scores["other_lengths"] == 0


@settings(deadline=None, max_examples=100)
@given(TREES, TREES)
def test_precision_and_recall_are_each_other_s_mirror(first, second):
    one, other = (compare_trees(*map(" ".join, pair)) for pair in ((first, second), (second, first)))
    assert (one.matched, one.found, one.gold) == (other.matched, other.gold, other.found)
    assert one.matched <= min(one.found, one.gold)


@pytest.mark.parity
def test_brackets_are_those_of_pyevalb():
    """PYEVALB has none of the parameters of COLLINS.prm, and counts a bracket once: the trees have none of these."""
    scorer = pytest.importorskip("PYEVALB.scorer").Scorer()
    parser = pytest.importorskip("PYEVALB.parser")
    rng, matches = np.random.default_rng(0), set()

    def tree(start, end, like):
        """Returns the symbols of a random tree, often as in `like`; no constituent has the span of another."""
        if end - start == 1:
            return ["NN"]
        if (start, end) not in like or rng.random() < 0.2:
            cuts = sorted({start, *rng.integers(start + 1, end, size=2).tolist(), end})
            like[start, end] = str(rng.choice(["S", "NP", "VP"])), cuts
        label, cuts = like[start, end]
        inner = [symbol for cut in itertools.pairwise(cuts) for symbol in tree(*cut, like)]
        return [label, *inner, f"/{label}"]

    for _ in range(200):
        length = int(rng.integers(2, 12))
        words = [f"w{i}" for i in range(length)]
        like = {}
        gold, found = tree(0, length, like), tree(0, length, like)
        theirs = scorer.score_trees(
            *(parser.create_from_bracket_string(bracketed(each, words)) for each in (gold, found))
        )
        ours = compare_trees(" ".join(found), " ".join(gold))
        assert ours[:3] == (theirs.matched_brackets, theirs.test_brackets, theirs.gold_brackets)
        matches.add(ours.matched)
    assert len(matches) > 5
