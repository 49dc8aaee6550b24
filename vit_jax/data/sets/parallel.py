"""Writes prepared parallel text: a `.jsonl` file for each split, and what was counted."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError


def write_splits(
    out: str | Path,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    counts: Mapping[str, Any],
    *,
    optional: Sequence[str] = (),
) -> None:
    """Writes `SPLIT.jsonl` for each split and `counts.json` into the folder `out`, which `open_text` reads.

    Files are replaced one by one. `counts.json` is written last, and shows that the files belong together.

    Args:
      optional: Splits whose file of an earlier call is removed if they are not among `splits`.

    Raises:
      UserError: `out` cannot be written.
    """
    out = Path(out).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("counts.json", *(f"{split}.jsonl" for split in optional)):
            (out / name).unlink(missing_ok=True)
        for split, rows in splits.items():
            _replace(out / f"{split}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        _replace(out / "counts.json", json.dumps(counts, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}") from error


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial{os.getpid()}")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)
