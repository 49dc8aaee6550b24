"""Parallel text from gettext catalogues: the interface strings of programs, collected on the user's machine.

The strings are under the licences of their programs, so the project contains none of them. `build` reads Debian
packages, which need not be installed, or the catalogues of installed Python packages, and writes the splits that
`open_text` reads.
"""

import hashlib
import html
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vit_jax.data.sets.catalogues import Catalogue, Key, Progress, find_catalogues, how_to_fetch, read_mo
from vit_jax.data.sets.parallel import write_splits
from vit_jax.errors import UserError

Pair = tuple[str, str]

HELD_OUT = "gramps"
SHARES = {"test": 0.03, "validation": 0.02}  # fraction of the keys; the rest is train
MAX_WORDS = 80


def build(
    out: str | Path,
    path: str | Path | None = None,
    *,
    languages: tuple[str, str] = ("en", "it"),
    held_out: str | None = HELD_OUT,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes `train`, `validation`, `test` and `heldout` `.jsonl` and `counts.json` into `out`; returns the counts.

    It reads the catalogues that `find_catalogues` finds at `path`. Their messages are in English, "en"; a pair of two
    other languages consists of their translations of the same message.

    A pair is kept once, for the alphabetically first package that contains it; different translations of a string are
    all kept. Pairs with the same `split_key` are in the same split, chosen by the hash of the key, and files are sorted
    by this hash. The package `held_out` contributes only pairs whose key is in no other package: they form the split
    `heldout`, which is not written if it is empty.

    Raises:
      UserError: `find_catalogues` fails, the catalogues contain no pairs, or `out` cannot be written.
    """
    packages: dict[str, dict[Pair, None]] = defaultdict(dict)
    rejected: Counter[str] = Counter()
    unreadable = []
    for group in _groups(find_catalogues(path, languages, progress), languages):
        try:
            texts = {catalogue.language: read_mo(catalogue.content) for catalogue in group}
        except ValueError as error:
            unreadable.append([group[0].file, str(error)])
            continue
        for source, target in _joined(texts, languages):
            pair = clean_pair(source, target)
            if isinstance(pair, str):
                rejected[pair] += 1
            else:
                packages[group[0].package][pair] = None
    if not packages:
        raise UserError(f"no catalogue contains a pair of {'-'.join(languages)}. {how_to_fetch(languages)}")
    splits = split_pairs(packages, held_out)
    counts = {
        "languages": list(languages),
        "pairs": {split: len(rows) for split, rows in splits.items()},
        "packages": _by_package(splits),
        "rejected": dict(sorted(rejected.items())),
        "unreadable": sorted(unreadable),
    }
    write_splits(out, splits, counts, optional=["heldout"])
    return counts


def _groups(catalogues: Iterable[Catalogue], languages: Pair) -> Iterator[list[Catalogue]]:
    """Groups the catalogues of the two languages that belong together; English needs no catalogue."""
    if "en" in languages:
        yield from ([catalogue] for catalogue in catalogues)
        return
    groups: dict[Pair, list[Catalogue]] = defaultdict(list)
    for catalogue in catalogues:
        place = catalogue.file.replace(f"/{catalogue.language}/LC_MESSAGES/", "/*/LC_MESSAGES/")
        groups[catalogue.package, place].append(catalogue)
    yield from (group for group in groups.values() if len(group) == 2)


def _joined(texts: dict[str, dict[Key, Pair]], languages: Pair) -> Iterator[Pair]:
    """Yields (source, target) of each message for which both exist."""
    for key, (message, _) in next(iter(texts.values())).items():
        source, target = (
            message if language == "en" else texts[language].get(key, ("", ""))[1] for language in languages
        )
        if source and target:
            yield source, target


# strings with these patterns are not sentences
_UNWANTED_PATTERNS = {
    "placeholder": r"%[\w({$#*.+'-]|[{}]|\$\w|\$\(|@\w+@|\\[a-z\\]",
    "tag": r"<[^<>]*>|&#?\w+;",
    "address": r"\w+://|\bwww\.|\w@\w+\.\w",
    "path or code": (
        r"(?:^|\s)[~.]{0,2}/\w|\w/\w+/|\\\w|\w_\w|\w\(\)|::|--\w|(?:^|\s)-\w\b|\b[a-z]+[A-Z]\w*[a-z]|\w\.\w+\.\w|[=;#]\w|\|"
    ),
}
_UNWANTED = {reason: re.compile(pattern) for reason, pattern in _UNWANTED_PATTERNS.items()}
_ACCELERATOR = re.compile(r"[&_~](?=\w)")


def clean_pair(source: str, target: str) -> Pair | str:
    """Returns both sides as plain text, or the reason why the pair is rejected.

    Entities are unescaped, the mark of the accelerator key (`&`, `_` or `~`) is removed, white space is collapsed, and
    Unicode is composed (NFC). A pair is rejected if either side contains a placeholder, a tag, an address, a path or
    code, has fewer than two letters or more than 80 words; if the sides are equal; or if the longer side has more than
    3 n + 10 characters, where n is the length of the shorter.
    """
    pair = _plain(source), _plain(target)
    for reason, pattern in _UNWANTED.items():
        if any(pattern.search(side) for side in pair):
            return reason
    if any(sum(letter.isalpha() for letter in side) < 2 for side in pair):
        return "no letters"
    if pair[0].casefold() == pair[1].casefold():
        return "equal sides"
    if max(len(side.split()) for side in pair) > MAX_WORDS:
        return "too long"
    shorter, longer = sorted(map(len, pair))
    return "lengths" if longer > 3 * shorter + 10 else pair


def _plain(text: str) -> str:
    text = html.unescape(text).replace("&&", "\0")  # Qt writes a literal & in this way
    if len(_ACCELERATOR.findall(text)) == 1:
        text = _ACCELERATOR.sub("", text)
    return unicodedata.normalize("NFC", " ".join(text.replace("\0", "&").split()))


def split_key(text: str) -> str:
    """Returns a key that is equal for strings that differ only in case, digits, punctuation or spaces."""
    text = re.sub(r"\d+", "0", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"\w+", text.replace("_", " ")))


def split_pairs(packages: dict[str, dict[Pair, None]], held_out: str | None = None) -> dict[str, list[dict[str, str]]]:
    """Divides pairs, given by package, into splits; see `build`. Returns the JSON objects of each split."""
    first: dict[Pair, str] = {}
    for package in sorted(packages.keys() - {held_out}):
        for pair in packages[package]:
            first.setdefault(pair, package)
    rows = [(split_key(pair[0]), pair, package) for pair, package in first.items()]
    known = {key for key, _, _ in rows}
    own = [(split_key(pair[0]), pair, held_out or "") for pair in packages.get(held_out or "", ())]
    rows += [row for row in own if row[0] not in known]
    splits: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": [], "heldout": []}
    hashed = ((hashlib.sha256(key.encode()).digest(), pair, package) for key, pair, package in rows)
    for digest, pair, package in sorted(hashed):
        split = "heldout" if package == held_out else _split_of(digest)
        splits[split].append({"source": pair[0], "target": pair[1], "package": package})
    return {split: rows for split, rows in splits.items() if rows or split != "heldout"}


def _split_of(digest: bytes) -> str:
    place = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "train"


def _by_package(splits: dict[str, list[dict[str, str]]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for split, rows in splits.items():
        for package, count in Counter(row["package"] for row in rows).items():
            counts[package][split] = count
    return dict(sorted(counts.items()))
