"""The Wall Street Journal of the Penn Treebank, as sentences and their trees.

The treebank is licensed (https://catalog.ldc.upenn.edu/LDC99T42), so the project contains none of it. `build` reads the
bracketed trees of a copy on the user's machine and writes the splits that `open_text` reads.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit_jax.data.sets.parallel import write_splits
from vit_jax.data.text.source import read_lines
from vit_jax.data.text.trees import read_trees
from vit_jax.errors import UserError

Progress = Callable[[str, int, int], None]  # what, done, total

LANGUAGES = ("words", "tree")
SECTIONS = {"train": range(2, 22), "validation": range(22, 23), "test": range(23, 24)}
_HOW = (
    "Give the folder of the Wall Street Journal's sections, with their *.mrg files, such as parsed/mrg/wsj: "
    "python -m vit_jax data prepare treebank --path=DIR"
)


def build(out: str | Path, path: str | Path | None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Writes `train`, `validation` and `test` `.jsonl` and `counts.json` into `out`; returns the counts.

    It reads every file `*.mrg` in `path`, at any depth. Its section is the first folder in its path, within `path`,
    whose name is two digits. Sections 02 to 21 are for training, 22 is for validation and 23 for testing, as in section
    6.3 of "Attention Is All You Need"; files elsewhere are not used. A row has the words as `source`, the symbols as
    `target` (see `trees`), both separated by spaces, and its `file`. Trees without words are left out and counted.

    Returns:
      `trees` and `words` by split, `empty` (trees without words by split), `files` by section, `unused` (number of
      files in no section that is used) and `missing` (sections without files).

    Raises:
      UserError: There is no folder or a split has no trees, a file cannot be read (see `read_trees`), or `out` cannot
        be written.
    """
    if path is None:
        raise UserError(f"the trees of the Penn Treebank are licensed and do not come with the project. {_HOW}")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"{root} is not a folder. {_HOW}")
    files = sorted(root.rglob("*.mrg"))
    split_of = {f"{section:02d}": split for split, sections in SECTIONS.items() for section in sections}
    rows: dict[str, list[dict[str, str]]] = {split: [] for split in SECTIONS}
    words, empty, by_section = Counter[str](), Counter[str](), Counter[str]()
    for done, file in enumerate(files):
        if progress:
            progress(file.name, done, len(files))
        name = file.relative_to(root)
        section = next((part for part in name.parts[:-1] if re.fullmatch(r"\d\d", part)), "")
        by_section[section] += 1
        if (split := split_of.get(section)) is None:
            continue
        for tree in read_trees(read_lines(file), str(file)):
            if tree.words:
                row = {"source": " ".join(tree.words), "target": " ".join(tree.symbols), "file": name.as_posix()}
                rows[split].append(row)
                words[split] += len(tree.words)
            else:
                empty[split] += 1
    if progress:
        progress("", len(files), len(files))
    for split, found in rows.items():
        if not found:
            sections = SECTIONS[split]
            wanted = " to ".join(f"{section:02d}" for section in dict.fromkeys((sections[0], sections[-1])))
            raise UserError(
                f"{root} has no trees for the split {split}: it needs *.mrg files in section {wanted}, such as "
                f"{sections[0]:02d}/wsj_{sections[0]:02d}01.mrg. {_HOW}"
            )
    counts = {
        "languages": list(LANGUAGES),
        "trees": {split: len(found) for split, found in rows.items()},
        "words": {split: words[split] for split in rows},
        "empty": {split: empty[split] for split in rows},
        "files": {section: by_section[section] for section in sorted(split_of) if by_section[section]},
        "unused": sum(count for section, count in by_section.items() if section not in split_of),
        "missing": [section for section in sorted(split_of) if not by_section[section]],
    }
    write_splits(out, rows, counts)
    return counts
