"""The numbers behind a figure: options, and writing them."""

import argparse
import csv
import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from vit_jax.commands.shared import common
from vit_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, what: str = "the numbers") -> None:
    """Adds --json and --csv."""
    numbers = parser.add_mutually_exclusive_group()
    numbers.add_argument("--json", action="store_true", help=f"print {what}, one JSON object per line")
    numbers.add_argument("--csv", metavar="FILE", type=common.given, help=f"write {what}, one row per line")


def write(args: argparse.Namespace, rows: Iterable[Mapping[str, Any]]) -> None:
    """Prints or writes the rows, as the options say. The keys of the first row are the columns."""
    rows = [{name: _rounded(value) for name, value in row.items()} for row in rows]
    if args.json:
        for row in rows:
            print(json.dumps(row))
    if args.csv:
        path = epath.Path(args.csv)
        if not path.parent.is_dir():
            raise UserError(f"--csv={args.csv}: there is no folder {path.parent}")
        with path.open("w") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _rounded(value: Any) -> Any:
    """Returns a float with six digits; infinity and NaN, which JSON does not have, as None."""
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, float):
        return number
    return float(f"{number:.6g}") if abs(number) < float("inf") else None
