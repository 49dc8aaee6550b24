"""List the recipes in `configs/`, with the scores that they are expected to reach.

Both are read from the heads of the files. With names, the whole head of each is printed.

  python -m vit_jax configs
  python -m vit_jax configs timesformer
  python -m vit_jax configs --json
"""

import argparse
import dataclasses
import json
import pathlib
import textwrap

from vit_jax.commands.models import add_folder
from vit_jax.commands.shared import common
from vit_jax.errors import UserError, nearest

HELP = "list the recipes and their expected scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", type=common.given, help="recipes to print in full")
    parser.add_argument("--json", action="store_true", help="print one JSON object per recipe")
    add_folder(parser)


def run(args: argparse.Namespace) -> int:
    from vit_jax.analysis import catalogue

    found = {pathlib.PurePath(recipe.file).stem: recipe for recipe in catalogue.recipes(pathlib.Path(args.folder))}
    for name in args.names:
        if pathlib.PurePath(name).stem not in found:
            raise UserError(f"no recipe {name!r} in {args.folder}{nearest(pathlib.PurePath(name).stem, found)}")
    chosen = [found[pathlib.PurePath(name).stem] for name in args.names] or list(found.values())
    for recipe in chosen:
        if args.json:
            print(json.dumps(dataclasses.asdict(recipe)))
        elif args.names:
            print(f"{recipe.file}: {recipe.head}\n")
        else:
            names = "  ".join(filter(None, recipe.arguments))
            parts = [
                f"{recipe.file}: {recipe.title}",
                *(textwrap.indent(text, "  ") for text in (names, recipe.expected) if text),
            ]
            print("\n".join(parts), end="\n\n")
    return 0
