"""Parallel text, read as it is: a folder with `SPLIT.jsonl`, `SPLIT.tsv`, or one file per language, `SPLIT.en`.

Files are UTF-8. Only "\n" and "\r\n" end a line: other characters that Unicode treats as line breaks are part of a
sentence, so that the two sides stay aligned.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.splits import parse_slice
from vit_jax.data.text.vocabulary import check_unicode
from vit_jax.errors import UserError, nearest

SIDES = ("source", "target")


@dataclasses.dataclass(eq=False)
class TextSource:
    """One split of parallel text, in memory: `targets[i]` is the translation of `sources[i]`.

    Attributes:
      languages: Source and target language.
      extra: Other values that the files give for each pair, by column; None where one is missing.
      skipped: (file and line, reason) of each pair left out.
    """

    name = "text"
    kind = "text"
    labels = ()

    split: str
    languages: tuple[str, str]
    sources: list[str]
    targets: list[str]
    extra: dict[str, list[Any]]
    skipped: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [{"source": self.sources[i], "target": self.targets[i], "id": i} for i in indices]

    def all_labels(self) -> np.ndarray:
        return np.zeros(0, np.int64)


class SentencePair(NamedTuple):
    """A pair as read: `where` is its file and line, for messages."""

    where: str
    source: str
    target: str
    extra: dict[str, Any]


def open_text(path: str | Path, split: str, languages: Sequence[str] = ("en", "it")) -> TextSource:
    """Reads a split of the folder `path`. A slice such as `train[:90%]` is taken in the order of the file.

    The split is one of:

    - `SPLIT.jsonl`: one object per line, with the keys `source` and `target`, or the two languages. Other keys are
      kept in `extra`.
    - `SPLIT.tsv`: two columns without a header; or any number with a header that contains the two names as above, in
      which case the other columns are kept in `extra`. Columns are separated by tabs, and nothing is quoted.
    - `SPLIT.en` and `SPLIT.it`, named by the languages, with corresponding lines.

    Pairs with an empty side are skipped and listed in `skipped`.

    Raises:
      UserError: The split does not exist or is given by several files, or a line cannot be read; the message names it.
    """
    root, part = Path(path).expanduser(), parse_slice(split)
    base = part.base
    source, target = (str(language) for language in languages)
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder. It should contain {base}.jsonl, {base}.tsv, or {base}.{source} and "
            f"{base}.{target}"
        )
    readers = {
        f"{base}.jsonl": _read_jsonl,
        f"{base}.tsv": _read_tsv,
        f"{base}.{source}": _read_two,
        f"{base}.{target}": _read_two,
    }
    found = {reader: root / file for file, reader in reversed(readers.items()) if (root / file).is_file()}
    if not found:
        raise _no_split(root, base, (source, target))
    if len(found) > 1:
        raise UserError(
            f"{root} has the split {base!r} more than once: {' and '.join(sorted(p.name for p in found.values()))}"
        )
    ((reader, file),) = found.items()
    pairs = reader(file, (source, target))
    if not part.is_whole:
        pairs = pairs[part.positions(len(pairs))]
    return _source(split, (source, target), pairs)


def _source(split: str, languages: tuple[str, str], pairs: Iterable[SentencePair]) -> TextSource:
    kept, skipped = [], []
    for pair in pairs:
        empty = [name for name in SIDES if not getattr(pair, name).strip()]
        if empty:
            skipped.append((pair.where, f"empty {' and '.join(empty)}"))
        else:
            kept.append(pair)
    columns = list(dict.fromkeys(column for pair in kept for column in pair.extra))
    return TextSource(
        split=split,
        languages=languages,
        sources=[pair.source for pair in kept],
        targets=[pair.target for pair in kept],
        extra={column: [pair.extra.get(column) for pair in kept] for column in columns},
        skipped=skipped,
    )


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a UTF-8 file; see `decode_lines`."""
    return decode_lines(path.read_bytes(), str(path))


def decode_lines(content: bytes, name: str) -> list[str]:
    """Returns the lines of UTF-8 text, without a byte-order mark.

    Raises:
      UserError: A line is not valid UTF-8; the message names it and `name`.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is not valid UTF-8. Convert the text, for example "
            "by iconv -t utf-8"
        ) from None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()  # what follows the line break of the last line
    return [line.removesuffix("\r") for line in lines]


def _read_jsonl(path: Path, languages: tuple[str, str]) -> list[SentencePair]:
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path.name}, line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number} is not valid JSON: {error.msg} at character {error.pos + 1}"
            ) from None
        if not isinstance(values, dict):
            raise UserError(f"{path}, line {number} must be a JSON object, not {line[:40]}")
        sides = [next((name for name in names if name in values), None) for names in zip(SIDES, languages, strict=True)]
        if None in sides:
            raise UserError(
                f"{path}, line {number} has {', '.join(values) or 'no keys'}. It must have the keys source and target, "
                f"or {' and '.join(languages)}"
            )
        source, target = (values.pop(name) for name in sides)
        for side in (source, target):
            if not isinstance(side, str):
                raise UserError(f"{path}, line {number}: a sentence must be a string, not {side!r}")
            check_unicode(side, f"{path}, line {number}")
        pairs.append(SentencePair(where, source, target, values))
    return pairs


def _read_tsv(path: Path, languages: tuple[str, str]) -> list[SentencePair]:
    lines = [line.split("\t") for line in read_lines(path)]
    header = next((names for names in (SIDES, languages) if lines and set(names) <= set(lines[0])), None)
    columns: list[str] = lines[0] if header else list(SIDES)
    places = [columns.index(name) for name in header or SIDES]
    pairs = []
    for number, values in list(enumerate(lines, start=1))[bool(header) :]:
        if len(values) != len(columns):
            named = f"{len(columns)} ({', '.join(columns)})" if header else "two"
            raise UserError(
                f"{path}, line {number} must have {named} columns separated by tabs, not {len(values)}. For more than "
                f"two columns, the first line must name them, {' and '.join(languages)} among them"
            )
        source, target = (values[place] for place in places)
        extra = {name: value for i, (name, value) in enumerate(zip(columns, values, strict=True)) if i not in places}
        pairs.append(SentencePair(f"{path.name}, line {number}", source, target, extra))
    return pairs


def _read_two(path: Path, languages: tuple[str, str]) -> list[SentencePair]:
    files = [path.with_suffix(f".{language}") for language in languages]
    for file, other in zip(files, reversed(files), strict=True):
        if not file.is_file():
            raise UserError(f"{other} has no counterpart {file.name} in the same folder")
    sources, targets = (read_lines(file) for file in files)
    if len(sources) != len(targets):
        without = "source without target" if len(sources) > len(targets) else "target without source"
        raise UserError(
            f"{files[0]} has {len(sources):,} lines and {files[1].name} {len(targets):,}: {without} from line "
            f"{min(len(sources), len(targets)) + 1:,}, unless the two are not aligned"
        )
    numbered = enumerate(zip(sources, targets, strict=True), start=1)
    return [SentencePair(f"{path.stem}, line {number}", *pair, {}) for number, pair in numbered]


def text_splits(path: str | Path, languages: Sequence[str] = ("en", "it")) -> list[str]:
    """Returns the splits in a folder, sorted."""
    endings = (".jsonl", ".tsv", *(f".{language}" for language in languages))
    return sorted(
        {file.stem for file in Path(path).expanduser().iterdir() if file.suffix in endings and file.is_file()}
    )


def _no_split(root: Path, split: str, languages: tuple[str, str]) -> UserError:
    known = text_splits(root, languages)
    if known:
        return UserError(f"{root} has no split {split!r}{nearest(split, known)}")
    source, target = languages
    return UserError(
        f"{root} contains no parallel text of {source} and {target} (config.data.languages). It should contain "
        f"{split}.jsonl, {split}.tsv, or {split}.{source} and {split}.{target}"
    )
