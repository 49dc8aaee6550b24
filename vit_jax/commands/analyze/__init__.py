"""Look inside a trained model: each analysis writes a figure, and its numbers if asked for.

  python -m vit_jax analyze attention runs/quickstart image.png --out=attention.pdf

`python -m vit_jax analyze ANALYSIS --help` explains each of them.
"""

import argparse
import importlib

HELP = "look inside a trained model"
ANALYSES: tuple[str, ...] = (
    "attention", "distance", "rank", "positions", "embed", "calibration", "corruptions", "mistakes", "cost",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    analyses = parser.add_subparsers(dest="analysis", metavar="ANALYSIS", required=True)
    for name in ANALYSES:
        module = importlib.import_module(f"vit_jax.commands.analyze.{name}")
        subparser = analyses.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run_analysis=module.run)


def run(args: argparse.Namespace) -> int:
    return args.run_analysis(args)
