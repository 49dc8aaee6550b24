"""A treebank of made-up sentences, in the published format: folders of sections with bracketed trees."""

import numpy as np

WORDS = {
    "DT": ["the", "a", "every"],
    "JJ": ["old", "new", "red"],
    "NN": ["cat", "price", "file", "page"],
    "IN": ["of", "near", "with"],
    "VBD": ["fell", "rose"],
    "VBN": ["cut", "read"],
    "RB": ["fast", "again"],
}


def _words(rng, *tags):
    return [f"({tag} {rng.choice(WORDS[tag])})" for tag in tags]


def _noun(rng, depth, function=""):
    if depth and rng.random() < 0.4:
        return f"(NP{function} {_noun(rng, 0)} (PP {_words(rng, 'IN')[0]} {_noun(rng, depth - 1)}))"
    adjectives = ["JJ"] if rng.random() < 0.4 else []
    return f"(NP{function} {' '.join(_words(rng, 'DT', *adjectives, 'NN'))})"


def tree(rng):
    """Returns a random sentence with a subject, and a verb that may be passive, with a trace, or have an adverb."""
    verb = " ".join(_words(rng, "VBD"))
    if rng.random() < 0.3:
        verb = f"(VBD was) (VP {_words(rng, 'VBN')[0]} (NP (-NONE- *-1)))"
    if rng.random() < 0.3:
        verb += f" (ADVP-MNR {_words(rng, 'RB')[0]})"
    return f"( (S {_noun(rng, 1, '-SBJ-1')}\n    (VP {verb})\n    (. .)) )"


def write_treebank(folder, train=120, validation=12, test=12, seed=0):
    """Writes sections 02, 22 and 23, and 00, which has no use; returns the folder."""
    rng = np.random.default_rng(seed)
    for section, count in (("00", 1), ("02", train), ("22", validation), ("23", test)):
        (folder / section).mkdir(parents=True)
        trees = [tree(rng) for _ in range(count)]
        for number, part in enumerate((trees[::2], trees[1::2])):
            (folder / section / f"wsj_{section}0{number}.mrg").write_text("\n" + "\n".join(part) + "\n")
    return folder
