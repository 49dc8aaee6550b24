"""Parallel text as it is: a folder with `SPLIT.jsonl`, `SPLIT.tsv`, or `SPLIT.en` and `SPLIT.it`, a file a language.

Files are UTF-8, and lines end at "\n" (or "\r\n") alone: whatever else Unicode calls a line break is part of a
sentence, so that the two sides stay aligned.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vit_jax.data.image import folder
from vit_jax.data.text.vocabulary import check_unicode
from vit_jax.errors import UserError, nearest

SIDES = ("source", "target")


@dataclasses.dataclass(eq=False)
class TextSource:
    """One split of parallel text, in memory: sentence i of `sources` means sentence i of `targets`.

    Attributes:
      languages: Of source and target.
      extra: Whatever else the files say of each pair, by column; None where it is missing.
      skipped: (file and line, reason) of the pairs left out.
    """

    name: ClassVar[str] = "text"
    kind: ClassVar[str] = "text"
    labels: ClassVar[tuple[str, ...]] = ()

    split: str
    languages: tuple[str, str]
    sources: list[str]
    targets: list[str]
    extra: dict[str, list[Any]]
    skipped: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.sources)


def open_text(path: str | Path, split: str, languages: Sequence[str] = ("en", "it")) -> TextSource:
    """Reads a split of the folder `path`; it may be sliced, `train[:90%]`, in the order of the file.

    - `SPLIT.jsonl`: an object a line, with the keys `source` and `target` or the languages'; others are kept.
    - `SPLIT.tsv`: two columns without a header, or a header that names the two as in `.jsonl`, and others, which are
      kept. Tabs separate, nothing is quoted.
    - `SPLIT.en` and `SPLIT.it`, named by the languages: line by line.

    Pairs with an empty side are skipped and listed.

    Raises:
      UserError: There is no such split or two of it, or a line cannot be read; the message names it.
    """
    root, (base, low, high) = Path(path).expanduser(), folder.parse_split(split)
    source, target = (str(language) for language in languages)
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder; it should hold {base}.jsonl, {base}.tsv, or {base}.{source} + .{target}"
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
    rows = reader(file, (source, target))
    if high:
        rows = rows[_position(low, len(rows)) : _position(high, len(rows))]
    return _source(split, (source, target), rows)


# a row is (where, source, target, extra)
Row = tuple[str, str, str, dict[str, Any]]


def _source(split: str, languages: tuple[str, str], rows: Iterable[Row]) -> TextSource:
    kept, skipped = [], []
    for where, *sides, extra in rows:
        empty = [name for name, side in zip(SIDES, sides, strict=True) if not side.strip()]
        if empty:
            skipped.append((where, f"empty {' and '.join(empty)}"))
        else:
            kept.append((*sides, extra))
    columns = list(dict.fromkeys(column for _, _, extra in kept for column in extra))
    return TextSource(
        split=split,
        languages=languages,
        sources=[source for source, _, _ in kept],
        targets=[target for _, target, _ in kept],
        extra={column: [extra.get(column) for _, _, extra in kept] for column in columns},
        skipped=skipped,
    )


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a UTF-8 file, as `decode_lines` does."""
    return decode_lines(path.read_bytes(), str(path))


def decode_lines(content: bytes, name: str) -> list[str]:
    """Returns the lines of UTF-8 text; a byte-order mark is dropped.

    Raises:
      UserError: A line is no UTF-8; the message names it, and what it is of.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is no UTF-8; convert it (iconv -t utf-8)"
        ) from None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()  # the end of the last line
    return [line.removesuffix("\r") for line in lines]


def _read_jsonl(path: Path, languages: tuple[str, str]) -> list[Row]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is no JSON: {error.msg} at character {error.pos + 1}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: an object is wanted, not {line[:40]}")
        sides = [next((name for name in names if name in row), None) for names in zip(SIDES, languages, strict=True)]
        if None in sides:
            raise UserError(
                f"{path}, line {number} has {', '.join(row) or 'no keys'}: the keys source and target are wanted, or "
                f"{' and '.join(languages)}"
            )
        source, target = (row.pop(name) for name in sides)
        for side in (source, target):
            if not isinstance(side, str):
                raise UserError(f"{path}, line {number}: a sentence is a string, not {side!r}")
            check_unicode(side, f"{path}, line {number}")
        rows.append((where, source, target, row))
    return rows


def _read_tsv(path: Path, languages: tuple[str, str]) -> list[Row]:
    lines = [line.split("\t") for line in read_lines(path)]
    header = next((names for names in (SIDES, languages) if lines and set(names) <= set(lines[0])), None)
    columns: list[str] = lines[0] if header else list(SIDES)
    places = [columns.index(name) for name in header or SIDES]
    rows = []
    for number, values in list(enumerate(lines, start=1))[bool(header) :]:
        if len(values) != len(columns):
            named = f"{len(columns)} ({', '.join(columns)})" if header else "two"
            raise UserError(
                f"{path}, line {number}: {named} columns are wanted, separated by tabs, not {len(values)}; several "
                f"need a header that names {' and '.join(languages)} among them"
            )
        source, target = (values[place] for place in places)
        extra = {name: value for i, (name, value) in enumerate(zip(columns, values, strict=True)) if i not in places}
        rows.append((f"{path.name}, line {number}", source, target, extra))
    return rows


def _read_two(path: Path, languages: tuple[str, str]) -> list[Row]:
    files = [path.with_suffix(f".{language}") for language in languages]
    for file, other in zip(files, reversed(files), strict=True):
        if not file.is_file():
            raise UserError(f"{other} has no counterpart {file.name} beside it")
    sources, targets = (read_lines(file) for file in files)
    if len(sources) != len(targets):
        without = "source without target" if len(sources) > len(targets) else "target without source"
        raise UserError(
            f"{files[0]} has {len(sources):,} lines and {files[1].name} {len(targets):,}: {without} from line "
            f"{min(len(sources), len(targets)) + 1:,} on, or the two are not aligned"
        )
    pairs = enumerate(zip(sources, targets, strict=True), start=1)
    return [(f"{path.stem}, line {number}", source, target, {}) for number, (source, target) in pairs]


def _position(end: str, count: int) -> int:
    """An end of a slice; percents are rounded to the nearest, as those of a folder of images."""
    position = round(int(end[:-1]) * count / 100) if end.endswith("%") else int(end)
    return max(0, min(count, position + count if position < 0 else position))


def text_splits(path: str | Path, languages: Sequence[str] = ("en", "it")) -> list[str]:
    """Returns the splits that a folder holds, sorted."""
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
        f"{root} holds no parallel text of {source} and {target} (data.languages): {split}.jsonl, {split}.tsv, or "
        f"{split}.{source} + {split}.{target}"
    )
