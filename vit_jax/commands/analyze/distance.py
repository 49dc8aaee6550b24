"""Draw how far every head looks, by depth: Figure 7 (right) of the ViT paper.

  python -m vit_jax analyze distance runs/quickstart --out=distance.pdf
  python -m vit_jax analyze distance runs/motion --split=train --examples=512 --out=distance.png --json

The distance between the patch that attends and the patches it attends to, weighted by attention, is averaged over
patches and examples: in pixels, and for clips also in frames. Class tokens are left out.
"""

import argparse
import csv
import json

from vit_jax.commands.shared import checkpoints, common

HELP = "draw how far every head looks, by depth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    split = "split, in TFDS syntax (default: the run's evaluation split)"
    parser.add_argument("--split", metavar="SPLIT", type=common.given, help=split)
    count = "number of examples, spread evenly over the split (default: 128, as in the paper)"
    parser.add_argument("--examples", metavar="N", type=common.at_least(1), default=128, help=count)
    parser.add_argument("--out", required=True, metavar="FILE", type=common.given, help="figure: .png, .pdf or .svg")
    numbers = parser.add_mutually_exclusive_group()
    numbers.add_argument("--json", action="store_true", help="also print the distances, as one JSON object")
    numbers.add_argument("--csv", metavar="FILE", type=common.given, help="also write the distances, one row per head")


def run(args: argparse.Namespace) -> int:
    from vit_jax.plots import check_path
    from vit_jax.plots.attention import plot_distances

    check_path(args.out, "--out")
    common.start_jax(args)
    run = checkpoints.load(args)

    from vit_jax.analysis import distance_of_examples

    source = run.open_split(args.split)
    track = checkpoints.tracked("measuring distances")
    distances, examples = distance_of_examples(run, source, examples=args.examples, track=track)
    plot_distances(args.out, distances)
    if args.json:
        print(json.dumps({**{name: values.tolist() for name, values in distances.items()}, "examples": examples}))
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("attention", "unit", "layer", "head", "distance"))
            for name, values in distances.items():
                for layer, row in enumerate(values):
                    writer.writerows((*name.split("/"), layer, head, f"{far:.6g}") for head, far in enumerate(row))
    return 0
