"""Constituency trees: the bracketed files of the Penn Treebank, and trees as sequences of symbols.

A tree is written depth first, as in "Grammar as a Foreign Language" (arXiv:1412.7449, section 2.2), with the
part-of-speech tag in place of each word, as tensor2tensor's parsing data have it:

    tree     (S (NP (DT The) (NN cat)) (VP (VBD sat)) (. .))
    words    The cat sat .
    symbols  S NP DT NN /NP VP VBD /VP . /S

A constituent is its label, what it contains, and "/" with its label. Deviation: the paper replaces every tag by XX.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from vit_jax.errors import UserError

# the constituents of the Penn Treebank's guidelines (Bies et al., 1995); none of them is also a tag
LABELS = frozenset({
    "ADJP", "ADVP", "CONJP", "FRAG", "INTJ", "LST", "NAC", "NP", "NX", "PP", "PRN", "PRT", "QP", "RRC",
    "S", "SBAR", "SBARQ", "SINV", "SQ", "UCP", "VP", "WHADJP", "WHADVP", "WHNP", "WHPP", "X",
})  # fmt: skip
ROOTS = ("", "TOP", "ROOT", "S1")  # labels of the outermost bracket that are no constituents
EMPTY = "-NONE-"  # tag of traces and other elements without a word

_TOKEN = re.compile(r"[()]|[^\s()]+")
_ESCAPED = str.maketrans({"(": "-LRB-", ")": "-RRB-"})

Span = tuple[str, int, int]  # label, first word, first word after it


class Tree(NamedTuple):
    """A sentence and its tree, without words, as symbols."""

    words: list[str]
    symbols: list[str]


@dataclasses.dataclass
class _Bracket:
    """A bracket that is open: its label and either its word, or the content of the brackets that it contains."""

    line: int
    label: str = ""
    word: str = ""
    is_filled: bool = False
    words: list[str] = dataclasses.field(default_factory=list)
    symbols: list[str] = dataclasses.field(default_factory=list)


def read_trees(lines: Iterable[str], name: str) -> Iterator[Tree]:
    """Yields the trees of a bracketed file, such as those of the Penn Treebank (`.mrg`), cleaned up for parsing.

    Function tags and indices are stripped: `NP-SBJ-1` and `NP=2` become `NP`, but `-LRB-` stays. Elements without a
    word (`-NONE-`) are removed, and so are constituents that contain nothing else. The outermost bracket is removed if
    it has no label or is `TOP`, `ROOT` or `S1`. A tree in which nothing is left has no words and no symbols.

    Example:
      >>> next(read_trees(["( (S (NP-SBJ-1 (DT The) (NN cat)) (VP (VBD sat) (NP (-NONE- *-1))) (. .)))"], "x.mrg"))
      Tree(words=['The', 'cat', 'sat', '.'], symbols=['S', 'NP', 'DT', 'NN', '/NP', 'VP', 'VBD', '/VP', '.', '/S'])

    Args:
      name: Name of the file, for errors.

    Raises:
      UserError: Brackets are unbalanced, or a bracket is neither a tag with one word nor a label with brackets. The
        message names file and line.
    """
    opened: list[_Bracket] = []
    for number, line in enumerate(lines, start=1):
        where = f"{name}, line {number}"
        for token in _TOKEN.findall(line):
            bracket = opened[-1] if opened else None
            if token == "(":
                if bracket and bracket.word:
                    raise UserError(f"{where}: the bracket of the word {bracket.word!r} contains another bracket")
                if bracket:
                    bracket.is_filled = True
                opened.append(_Bracket(number))
            elif bracket is None:
                what = "a bracket is closed that was never opened" if token == ")" else f"{token!r} is in no bracket"
                raise UserError(f"{where}: {what}. The file must consist of trees such as (S (NP (NN dogs)) (VP ...))")
            elif token == ")":
                opened.pop()
                closed = _close(bracket, where, is_outermost=not opened)
                if opened:
                    opened[-1].words += closed.words
                    opened[-1].symbols += closed.symbols
                else:
                    yield closed
            else:
                _add(bracket, token, where)
    if opened:
        raise UserError(f"{name}, line {opened[-1].line}: the bracket that is opened here is never closed")


def _add(bracket: _Bracket, token: str, where: str) -> None:
    """Adds a token that is the label of a bracket, or its word."""
    if bracket.is_filled or bracket.word:
        raise UserError(
            f"{where}: {token!r} follows in a bracket that is complete. Each word needs one, as in (NN dogs)"
        )
    if bracket.label:
        bracket.word = token
    elif _is_end(token):
        raise UserError(f"{where}: the label {token!r} starts with '/', which marks the end of a constituent")
    else:
        bracket.label = token


def _close(bracket: _Bracket, where: str, *, is_outermost: bool) -> Tree:
    label = re.split("[-=]", bracket.label)[0] or bracket.label
    if bracket.word:
        return Tree([], []) if bracket.label == EMPTY else Tree([bracket.word], [label])
    if not bracket.is_filled:
        raise UserError(f"{where}: the bracket {bracket.label!r} contains neither a word nor another bracket")
    if is_outermost and label in ROOTS:
        return Tree(bracket.words, bracket.symbols)
    if not label:
        raise UserError(f"{where}: the bracket opened on line {bracket.line}, within a tree, has no label")
    return Tree(bracket.words, [label, *bracket.symbols, f"/{label}"] if bracket.words else [])


def balance(symbols: Sequence[str]) -> tuple[list[str], bool]:
    """Returns the symbols of a tree, balanced, and whether they are a well-formed tree.

    A symbol opens a constituent if it is one of `LABELS`, or if its end also occurs; every other one is the tag of a
    word. What is malformed is repaired from left to right:

    - The end of a constituent also ends those that were opened within it: `S NP NN /S` becomes `S NP NN /NP /S`.
    - The end of a constituent that is not open is left out.
    - At the end of the symbols, all open constituents end.
    - A constituent without a word is left out.

    A tree is well-formed if nothing is repaired and a single constituent, or word, contains everything.
    """
    labels = LABELS | _ended(symbols)
    balanced: list[str] = []
    opened: list[int] = []  # positions in `balanced`
    roots, is_well_formed = 0, True

    def end() -> str:
        place = opened.pop()
        label = balanced[place]
        if place == len(balanced) - 1:
            balanced.pop()
        else:
            balanced.append(f"/{label}")
        return label

    for symbol in symbols:
        if _is_end(symbol):
            if symbol[1:] not in (balanced[place] for place in opened):
                is_well_formed = False
                continue
            is_well_formed &= opened[-1] != len(balanced) - 1
            while end() != symbol[1:]:
                is_well_formed = False
        else:
            roots += not opened
            if symbol in labels:
                opened.append(len(balanced))
            balanced.append(symbol)
    is_well_formed &= roots == 1 and not opened
    while opened:
        end()
    return balanced, is_well_formed


def tags(symbols: Sequence[str]) -> list[str]:
    """Returns the tags of the words, from balanced symbols."""
    labels = _ended(symbols)
    return [symbol for symbol in symbols if symbol not in labels and not _is_end(symbol)]


def spans(symbols: Sequence[str], left_out: Sequence[bool] = ()) -> "Counter[Span]":
    """Returns the labelled spans of the constituents of balanced symbols, with how often each occurs.

    Args:
      left_out: For each word, whether it is deleted before the others are numbered; by default, none is. Constituents
        without a word that is left have no span.
    """
    labels, found = _ended(symbols), Counter[Span]()
    opened: list[tuple[str, int]] = []
    word = position = 0
    for symbol in symbols:
        if _is_end(symbol):
            label, start = opened.pop()
            if start < position:
                found[label, start, position] += 1
        elif symbol in labels:
            opened.append((symbol, position))
        else:
            position += not (left_out and left_out[word])
            word += 1
    return found


def bracketed(symbols: Sequence[str], words: Sequence[str]) -> str:
    """Returns a tree in brackets, on one line, from balanced symbols and as many words as they have tags.

    Example:
      >>> bracketed(["S", "NP", "NNS", "/NP", "VP", "VBP", "/VP", "/S"], ["Dogs", "bark"])
      '(S (NP (NNS Dogs)) (VP (VBP bark)))'
    """
    labels, rest, text = _ended(symbols), iter(words), ""
    for symbol in symbols:
        if _is_end(symbol):
            text += ")"
        elif symbol in labels:
            text += f" ({symbol}"
        else:
            text += f" ({symbol} {next(rest).translate(_ESCAPED)})"
    return text.strip()


def _is_end(symbol: str) -> bool:
    return len(symbol) > 1 and symbol.startswith("/")


def _ended(symbols: Sequence[str]) -> set[str]:
    """Returns the labels of the constituents that end."""
    return {symbol[1:] for symbol in symbols if _is_end(symbol)}
