"""Constituency parsing: a sentence is translated into its tree, scored by labelled brackets."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from vit_jax.data.text.trees import balance, bracketed, spans, tags
from vit_jax.errors import counted
from vit_jax.tasks.translation import Translation

PUNCTUATION = frozenset({",", ":", "``", "''", "."})  # tags of words that are deleted
NO_BRACKET = "TOP"
EQUAL = {"PRT": "ADVP"}


class Brackets(NamedTuple):
    """The brackets of a sentence.

    Attributes:
      matched: How many are in both trees.
      found: How many are in the predicted tree.
      gold: How many are in the reference.
      is_well_formed: Whether the predicted symbols are a tree: see `trees.balance`.
      has_all_words: Whether the predicted tree has as many words as the reference.
    """

    matched: int
    found: int
    gold: int
    is_well_formed: bool
    has_all_words: bool


def compare_trees(predicted: str, reference: str) -> Brackets:
    """Compares two trees, given as symbols separated by spaces, as EVALB does with the parameters COLLINS.prm.

    A bracket is the label of a constituent and its span, in words. A bracket that occurs twice in both trees matches
    twice. Tags are no brackets, and neither is the label TOP. PRT counts as ADVP. Words that the reference tags as
    punctuation (, : `` '' .) are deleted from both trees before spans are taken, and constituents without another word
    are left out.

    Deviations, all of them about trees that EVALB skips, with an error, and leaves out of its totals:

    - Malformed symbols are first balanced: see `trees.balance`.
    - EVALB deletes what each tree itself tags as punctuation, and skips a sentence if this leaves different words. Here
      the tags of the reference decide, so that a wrong tag changes no bracket.
    - If the trees differ in their number of words, no bracket matches, but all of both trees count.
    """
    (found, is_well_formed), (gold, _) = (balance(symbols.split()) for symbols in (predicted, reference))
    gold_tags, found_tags = tags(gold), tags(found)
    has_all_words = len(found_tags) == len(gold_tags)
    deleted = [tag in PUNCTUATION for tag in gold_tags]
    gold_brackets = _brackets(gold, deleted)
    found_brackets = _brackets(found, deleted if has_all_words else [tag in PUNCTUATION for tag in found_tags])
    matched = (gold_brackets & found_brackets).total() if has_all_words else 0
    return Brackets(matched, found_brackets.total(), gold_brackets.total(), is_well_formed, has_all_words)


def _brackets(symbols: list[str], deleted: list[bool]) -> Any:
    found = spans(symbols, deleted)
    for label, start, end in list(found):
        if label in EQUAL:
            found[EQUAL[label], start, end] += found.pop((label, start, end))
        elif label == NO_BRACKET:
            del found[label, start, end]
    return found


def bracket_scores(sentences: Iterable[Brackets]) -> dict[str, Any]:
    """Returns the scores of all sentences together, in percent.

        precision = 100 matched / found,   recall = 100 matched / gold,   f1 = 100 * 2 matched / (found + gold)

    Returns:
      `f1`, `precision` and `recall`, where a score without brackets is 0; `well_formed`, the share of the predictions
      that are trees; and `other_lengths`, the number of predictions with another number of words than their reference.
    """
    sentences = list(sentences)
    matched, found, gold = (sum(each[i] for each in sentences) for i in range(3))
    return {
        "f1": _percent(2 * matched, found + gold),
        "precision": _percent(matched, found),
        "recall": _percent(matched, gold),
        "well_formed": _percent(sum(each.is_well_formed for each in sentences), len(sentences)),
        "other_lengths": sum(not each.has_all_words for each in sentences),
    }


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


@dataclasses.dataclass(frozen=True)
class Parsing(Translation):
    """Translation of the words of a sentence into the symbols of its tree (arXiv:1706.03762, section 6.3).

    Loss and search are those of `Translation`. The scores are those of labelled brackets instead of BLEU and chrF; the
    symbols and how they make a tree are described in `vit_jax.data.text.trees`.
    """

    name = "parsing"
    scores: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "f1", "precision", "recall", "well_formed")
    metric = "f1"

    def score(self, rows) -> dict[str, Any]:
        """Returns the `bracket_scores`, and `loss`, `perplexity` and `examples` as for `Translation`.

        Every sentence counts, whatever is predicted for it: see `compare_trees`.
        """
        pairs = zip(self.texts(rows["translation"]), self.texts(rows["reference"]), strict=True)
        scores = bracket_scores(compare_trees(*pair) for pair in pairs)
        return {**self.likelihood(rows), **scores, "examples": len(rows["reference"])}

    def record(self, rows, labels=()) -> dict[str, Any]:
        """Returns the columns of `Translation`, and the numbers of brackets `matched`, `found` and `gold`."""
        columns = super().record(rows, labels)
        pairs = zip(columns["translation"], columns["reference"], strict=True)
        brackets = [compare_trees(*pair) for pair in pairs]
        return columns | {name: [getattr(each, name) for each in brackets] for name in ("matched", "found", "gold")}

    def text(self, name, answer) -> str:
        """Returns the tree of the sentence `name` in brackets.

        If it has another number of words than the sentence, it is returned as predicted, in symbols without words.
        """
        symbols, _ = balance(answer["translation"].split())
        words = name.split()
        return bracketed(symbols, words) if len(tags(symbols)) == len(words) else answer["translation"]

    def headline(self, result) -> str:
        return (
            f"F1 {result['f1']:.1f}, precision {result['precision']:.1f}, recall {result['recall']:.1f}, "
            f"{result['well_formed']:.1f} % well-formed, perplexity {result['perplexity']:.2f} "
            f"({counted(result['examples'], 'sentences')}, {result['other_lengths']:,} with another number of words, "
            f"{result['skipped']:,} skipped)"
        )
