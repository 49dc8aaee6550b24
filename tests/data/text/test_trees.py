"""Trees: bracketed files, symbols and spans, by hand and for random trees."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_jax.data.text.trees import LABELS, balance, bracketed, read_trees, spans, tags
from vit_jax.errors import UserError

PENN = """
( (S
    (NP-SBJ-1 (DT The) (NN price) )
    (VP (VBD was)
      (VP (VBN cut)
        (NP (-NONE- *-1) )
        (PRN (-LRB- -LRB-) (NP=2 (CD 3) (NN %)) (-RRB- -RRB-) )
        (SBAR (-NONE- 0) (S (-NONE- *T*-2) ))))
    (. .) ))
( (FRAG (ADVP (RB Not) (RB yet))))
"""


def read(text):
    return list(read_trees(text.split("\n"), "x.mrg"))


def test_a_treebank_file_is_cleaned_up():
    first, second = read(PENN)
    assert first.words == ["The", "price", "was", "cut", "-LRB-", "3", "%", "-RRB-", "."]
    assert " ".join(first.symbols) == ("S NP DT NN /NP VP VBD VP VBN PRN -LRB- NP CD NN /NP -RRB- /PRN /VP /VP . /S")
    assert second == (["Not", "yet"], ["FRAG", "ADVP", "RB", "RB", "/ADVP", "/FRAG"])


@pytest.mark.parametrize("root", ["", "TOP", "ROOT", "S1"])
def test_the_root_is_left_out_and_nothing_else(root):
    assert read(f"({root} (S (NP (NN dogs))))") == [(["dogs"], ["S", "NP", "NN", "/NP", "/S"])]
    assert read("(S (TOP (NN dogs)))") == [(["dogs"], ["S", "TOP", "NN", "/TOP", "/S"])]


def test_trees_may_have_one_word_or_none():
    assert read("((NN dogs))(NN cats) ( (S (-NONE- *)))") == [(["dogs"], ["NN"]), (["cats"], ["NN"]), ([], [])]
    assert read("\n\n") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(S (NN a))\n(S (NN a)))", "x.mrg, line 2: a bracket is closed that was never opened"),
        ("(S\n(NP (NN a))\n", "x.mrg, line 1: the bracket that is opened here is never closed"),
        ("(S (NN a))\nword", "x.mrg, line 2: 'word' is in no bracket"),
        ("(S (NN a b))", "x.mrg, line 1: 'b' follows in a bracket that is complete"),
        ("(S (NN a) b)", "x.mrg, line 1: 'b' follows in a bracket that is complete"),
        ("(NN a (NN b))", "x.mrg, line 1: the bracket of the word 'a' contains another bracket"),
        ("(S (NP ))", "x.mrg, line 1: the bracket 'NP' contains neither a word nor another bracket"),
        ("(S\n( (NN a)))", "x.mrg, line 2: the bracket opened on line 2, within a tree, has no label"),
        ("(S (/NP (NN a)))", "the label '/NP' starts with '/'"),
    ],
)
def test_a_mistake_is_named_with_its_line(text, message):
    with pytest.raises(UserError) as error:
        read(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("symbols", "balanced", "is_well_formed"),
    [
        ("S NP NN /NP VP VB /VP /S", "S NP NN /NP VP VB /VP /S", True),
        ("NN", "NN", True),
        ("S NP NN /S", "S NP NN /NP /S", False),
        ("S NP VP NN /NP NN /S", "S NP VP NN /VP /NP NN /S", False),
        ("S NP NN", "S NP NN /NP /S", False),
        ("S NN /VP /S /S", "S NN /S", False),
        ("S NP /NP NN VP", "S NN /S", False),
        ("S NN /S S NN /S", "S NN /S S NN /S", False),
        ("/S", "", False),
        ("", "", False),
        ("FOO NN /FOO", "FOO NN /FOO", True),  # no label of the treebank, but its end shows that it is one
        ("FOO NN", "FOO NN", False),  # two tags
    ],
)
def test_malformed_trees_are_balanced(symbols, balanced, is_well_formed):
    assert balance(symbols.split()) == (balanced.split(), is_well_formed)
    assert balance(balanced.split())[0] == balanced.split()


def test_spans_by_hand():
    text = "S NP NP DT NN /NP /NP , VP VBD NP NP NN /NP /NP /VP . /S"
    symbols = text.split()
    assert tags(symbols) == ["DT", "NN", ",", "VBD", "NN", "."]
    assert spans(symbols) == {("S", 0, 6): 1, ("NP", 0, 2): 2, ("VP", 3, 5): 1, ("NP", 4, 5): 2}
    without = [tag in ".," for tag in tags(symbols)]
    assert spans(symbols, without) == {("S", 0, 4): 1, ("NP", 0, 2): 2, ("VP", 2, 4): 1, ("NP", 3, 4): 2}
    assert spans(["S", "PRN", ":", "/PRN", "NN", "/S"], [True, False]) == {("S", 0, 1): 1}


LEAVES = st.tuples(
    st.sampled_from(["NN", "VBD", ",", "``", "-LRB-", "PRP$"]), st.sampled_from(["a", "b/c", "-RRB-", "%"])
)
TREES = st.recursive(
    LEAVES, lambda inner: st.tuples(st.sampled_from(sorted(LABELS)), st.lists(inner, min_size=1, max_size=4))
)


def in_brackets(tree):
    label, content = tree
    return f"({label} {content if isinstance(content, str) else ' '.join(map(in_brackets, content))})"


def spans_of(tree, start=0):
    """Returns the spans of a nested tree, and the position after it."""
    label, content = tree
    if isinstance(content, str):
        return [], start + 1
    found, end = [], start
    for child in content:
        inner, end = spans_of(child, end)
        found += inner
    return [*found, (label, start, end)], end


@settings(deadline=None, max_examples=150)
@given(TREES)
def test_random_trees_survive_the_round_trip(tree):
    text = in_brackets(tree)
    ((words, symbols),) = read(f"( {text})")
    assert bracketed(symbols, words) == text
    assert balance(symbols) == (symbols, True)
    expected, length = spans_of(tree)
    assert len(words) == len(tags(symbols)) == length
    assert sorted(spans(symbols).elements()) == sorted(expected)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(["S", "NP", "/S", "/NP", "/VP", "NN", "VBD", "/", "FOO", "/FOO"]), max_size=30))
def test_any_symbols_can_be_balanced(symbols):
    balanced, is_well_formed = balance(symbols)
    again, _ = balance(balanced)
    assert again == balanced
    assert is_well_formed <= (balanced == symbols)
    ends = [symbol for symbol in balanced if len(symbol) > 1 and symbol.startswith("/")]
    assert 2 * len(ends) + len(tags(balanced)) == len(balanced)
    assert all(start < end <= len(tags(balanced)) for _, start, end in spans(balanced))


def test_deep_trees_need_no_recursion():
    text = "(S " * 5000 + "(NN a)" + ")" * 5000
    ((_, symbols),) = read(text)
    assert balance(symbols) == (symbols, True)
    assert spans(symbols) == {("S", 0, 1): 5000}


def test_parentheses_of_a_user_s_words_are_escaped():
    assert bracketed(["NP", "-LRB-", "NN", "/NP"], ["(", "a"]) == "(NP (-LRB- -LRB-) (NN a))"
