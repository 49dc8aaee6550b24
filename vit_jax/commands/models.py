"""List the models: parameters, multiply-accumulates, input, the recipes that train them, the formats that carry them.

The numbers are those of the published sizes, for 1,000 classes. "*" marks formats that can be written as well as read.

  python -m vit_jax models
  python -m vit_jax models vit:S/8 tnt:S/16 --json
"""

import argparse
import dataclasses
import json
import pathlib

from vit_jax.commands.shared import common

HELP = "list the models and their costs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="FAMILY:VARIANT", type=common.given, help="models (default: those of the papers)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per model")
    add_folder(parser)


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the folder of the recipes."""
    parser.add_argument(
        "--folder", metavar="DIR", type=common.given, default="configs", help="folder of the recipes (default: configs)"
    )


def run(args: argparse.Namespace) -> int:
    from vit_jax.analysis import catalogue

    names = args.names or catalogue.MODELS
    found = catalogue.models(names, pathlib.Path(args.folder))
    width = max(map(len, names))
    for number, entry in enumerate(found):
        if args.json:
            print(json.dumps(dataclasses.asdict(entry)), flush=True)
            continue
        if number == 0:
            print(f"{'model':<{width}}  {'parameters':>13}  {'multiply-acc.':>17}  {'input':<16}  formats; recipes")
        rest = "; ".join(filter(None, (", ".join(entry.formats), ", ".join(entry.recipes))))
        line = f"{entry.name:<{width}}  {entry.params:>13,}  {entry.macs:>17,}  {entry.input:<16}  {rest}"
        print(line.rstrip(), flush=True)
    return 0
