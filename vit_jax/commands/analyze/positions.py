"""Draw what a model has learned about space and time: similarities of its position embeddings, and patch filters.

  python -m vit_jax analyze positions runs/b16 --out=positions.pdf
  python -m vit_jax analyze positions ViT-B_16.npz --out=positions.pdf
  python -m vit_jax analyze positions runs/b16 --grid=24,24 --out=resampled.png
  python -m vit_jax analyze positions runs/motion --what=time --out=time.svg
  python -m vit_jax analyze positions runs/messages --what=tokens --length=100 --out=sinusoids.pdf
  python -m vit_jax analyze positions ViT-B_16.npz --what=filters --out=filters.pdf

- `space`: the cosine similarity of each patch's position with all others, as a grid of maps (ViT, Figure 7, centre).
- `time`: the same for the frames of a TimeSformer; `tokens`: for the tokens of a Transformer.
- `filters`: the first 28 principal components of the patch embedding (ViT, Figure 7, left).
"""

import argparse
import re
from typing import TYPE_CHECKING, Any

from vit_jax.commands.analyze import numbers
from vit_jax.commands.shared import common

if TYPE_CHECKING:
    import numpy as np

HELP = "draw position embeddings and patch filters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("source", metavar="RUN", type=common.given, help="a workdir, a checkpoint, or foreign weights")
    option("--out", required=True, metavar="FILE", type=common.given, help="figure (.png, .pdf or .svg)")
    option("--what", choices=("space", "time", "tokens", "filters"), default="space", help="(default: space)")
    option("--model", metavar="NAME", type=common.given, help="the model's name, for weights that do not tell it")
    grid = "resample the positions of patches to this grid first"
    option("--grid", type=_grid, metavar="ROWS,COLUMNS", help=grid)
    option("--frames", type=common.at_least(1), metavar="N", help="resample the positions in time to N frames first")
    length = "number of tokens (default: 64)"
    option("--length", type=common.at_least(2), default=64, metavar="N", help=length)
    numbers.add_arguments(parser)


def _grid(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d{0,3},[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"must be two whole numbers, such as 24,24, got {text!r}")
    rows, columns = map(int, text.split(","))
    return rows, columns


def run(args: argparse.Namespace) -> int:
    """Draws the figure; returns 0."""
    import numpy as np

    from vit_jax.plots import check_path

    check_path(args.out, "--out")
    common.start_jax(args)
    import vit_jax

    source = vit_jax.from_pretrained(args.source, args.model)
    draw = {"space": _space, "time": _time, "tokens": _tokens, "filters": _filters}[args.what]
    names, values = draw(args, source.model, source.params)
    numbers.write(args, (dict(zip(names, (*index, value), strict=True)) for index, value in np.ndenumerate(values)))
    return 0


def _space(args: argparse.Namespace, model: Any, params: Any) -> "tuple[tuple[str, ...], np.ndarray]":
    from vit_jax.analysis.positions import in_space, similarity
    from vit_jax.plots.positions import plot_grid

    values = similarity(in_space(model, params, args.grid))
    plot_grid(args.out, values)
    return ("row", "column", "other_row", "other_column", "similarity"), values


def _time(args: argparse.Namespace, model: Any, params: Any) -> "tuple[tuple[str, ...], np.ndarray]":
    from vit_jax.analysis.positions import in_time, similarity
    from vit_jax.plots.positions import plot_sequence

    values = similarity(in_time(params, args.frames))
    plot_sequence(args.out, values, "frame")
    return ("frame", "other_frame", "similarity"), values


def _tokens(args: argparse.Namespace, model: Any, params: Any) -> "tuple[tuple[str, ...], np.ndarray]":
    from vit_jax.analysis.positions import of_tokens, similarity
    from vit_jax.plots.positions import plot_sequence

    values = similarity(of_tokens(model, params, args.length))
    plot_sequence(args.out, values, "token")
    return ("token", "other_token", "similarity"), values


def _filters(args: argparse.Namespace, model: Any, params: Any) -> "tuple[tuple[str, ...], np.ndarray]":
    from vit_jax.analysis.positions import patch_filters
    from vit_jax.plots.positions import plot_filters

    filters, shares = patch_filters(params)
    plot_filters(args.out, filters, shares)
    return ("component", "share_of_variance"), shares
