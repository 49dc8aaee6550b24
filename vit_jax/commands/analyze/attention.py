"""Draw what a model attends to, over images and over the frames of clips.

  python -m vit_jax analyze attention runs/quickstart three.png four.png --out=attention.pdf
  python -m vit_jax analyze attention runs/quickstart three.png --method=weights --layer=2 --head=0 --out=head.png
  python -m vit_jax analyze attention runs/quickstart three.png --method=gradient --class=8 --out=eight.svg
  python -m vit_jax analyze attention runs/motion clip.mp4 --out=strip.png
  python -m vit_jax analyze attention runs/motion clip.mp4 --out=attention.gif --csv=attention.csv

A map says how much each patch contributes to the output, through the attention of one layer (weights) or of all layers
(rollout, gradient).
"""

import argparse
import csv
import json
from typing import Any

import numpy as np

from vit_jax.commands import checkpoints, common
from vit_jax.errors import UserError, nearest

HELP = "draw what a model attends to"
_METHODS = ("weights", "rollout", "gradient")
_MOST_IMAGES = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    parser.add_argument("inputs", nargs="*", metavar="FILE", type=common.given, help="images; or one video")
    out = "figure (.png, .pdf or .svg), or for a clip a film (.gif or .mp4)"
    parser.add_argument("--out", required=True, metavar="FILE", type=common.given, help=out)
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="rollout",
        help="weights of one layer; rollout through all layers; or gradient, weights times gradient of a class, "
        "through all layers (default: rollout)",
    )
    layer = "layer of weights, or the last one of rollout and gradient; negative ones count from the last (default: -1)"
    parser.add_argument("--layer", type=int, default=-1, metavar="I", help=layer)
    parser.add_argument(
        "--head", type=common.at_least(0), metavar="I", help="one head, with --method=weights (default: mean of all)"
    )
    parser.add_argument(
        "--class",
        dest="label",
        metavar="NAME",
        type=common.given,
        help="class to explain, with --method=gradient (default: the most probable)",
    )
    numbers = parser.add_mutually_exclusive_group()
    numbers.add_argument("--json", action="store_true", help="also print the maps, one JSON object per input")
    numbers.add_argument("--csv", metavar="FILE", type=common.given, help="also write the maps, one row per patch")


def run(args: argparse.Namespace) -> int:
    """Draws the maps of all inputs; returns 0."""
    from vit_jax.plots import check_path
    from vit_jax.plots.attention import FILMS, film, plot_clip, plot_images

    check_path(args.out, "--out", also=FILMS)
    common.start_jax(args)
    run = checkpoints.load(args).one_view()
    names, rows = _read(run, args.inputs)
    maps = _maps(run, rows, args)

    from vit_jax.analysis.pictures import as_pictures

    pictures = as_pictures(run.encoder, rows)
    if maps.ndim == 3:
        plot_images(args.out, pictures, maps, names)
    elif args.out.lower().endswith(FILMS):
        film(args.out, pictures[0], maps[0])
    else:
        plot_clip(args.out, pictures[0], maps[0], names[0])
    _write_numbers(args, names, maps)
    return 0


def _read(run: Any, paths: list[str]) -> tuple[list[str], np.ndarray]:
    names, rows = [], []
    for name, stored in run.modality.read_inputs(paths, [], run.config):
        if isinstance(stored, UserError):
            raise stored
        names.append(name)
        rows.append(run.encoder.rows(stored, None)[0])
    return names, np.stack(rows)


def _maps(run: Any, rows: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    import jax

    from vit_jax.analysis.maps import attention_map

    classes = None
    if args.label is not None:
        if args.label not in run.labels:
            raise UserError(f"--class={args.label}: no such class{nearest(args.label, run.labels)}")
        classes = np.full(len(rows), run.labels.index(args.label))

    @jax.jit
    def compute(params, rows):
        options = {"method": args.method, "layer": args.layer, "head": args.head, "classes": classes}
        return attention_map(run.model, params, rows, **options)

    try:
        return np.asarray(compute(run.params, rows))
    except ValueError as error:
        raise UserError(f"--{error}") from error


def _write_numbers(args: argparse.Namespace, names: list[str], maps: np.ndarray) -> None:
    if args.json:
        for name, values in zip(names, maps, strict=True):
            print(json.dumps({"input": name, "attention": np.round(values, 6).tolist()}))
    if args.csv:
        axes = ("frame", "row", "column")[-(maps.ndim - 1) :]
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("input", *axes, "attention"))
            for index, value in np.ndenumerate(maps):
                writer.writerow((names[index[0]], *index[1:], f"{value:.6g}"))
