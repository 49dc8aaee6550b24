"""Arguments of the commands that read foreign weights: what a file does not state must be given."""

import argparse
import re
from typing import Any

from vit_jax.commands.shared import common

FIELDS = ("num_heads", "pool", "gelu", "norm_epsilon", "image_size", "num_frames")  # of the module
_OPTIONS = ("entry", "stored_image_size", "preprocessing")  # of `from_pretrained`, besides the name


def add_arguments(parser: Any) -> None:
    """Adds the options to a parser or a group of one."""
    option, text, count, field = parser.add_argument, common.given, common.at_least(1), common.legal
    option("--name", metavar="FAMILY:VARIANT", type=text, help="model, if the file does not state it, such as vit:B/16")
    option("--num_heads", type=count, metavar="N", help="attention heads, if neither the file nor --name states them")
    option(
        "--pool", type=field("model.pool"), help="how tokens are pooled, if the file does not state it: cls, gap, map"
    )
    option(
        "--gelu", type=field("model.gelu"), help="form of the GELU, if the file does not state it: exact, tanh, quick"
    )
    option(
        "--norm_epsilon",
        type=field("model.norm_epsilon"),
        metavar="X",
        help="epsilon of the norms, if the file does not state it",
    )
    option(
        "--image_size",
        type=height_width,
        metavar="H,W",
        help="resample position embeddings for images of this size, in pixels",
    )
    option(
        "--stored_image_size",
        type=height_width,
        metavar="H,W",
        help="training image size, if the file does not state it",
    )
    option("--num_frames", type=count, metavar="N", help="resample time embeddings for clips of N frames")
    option(
        "--entry",
        metavar="NAME",
        type=text,
        help="which weights to use if a torch file holds several, such as model_ema",
    )
    option("--preprocessing", metavar="CHAIN", type=text, help="evaluation transforms, if the file does not state them")


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that were given, as arguments of `from_pretrained`."""
    values = {option: getattr(args, option) for option in ("name", *_OPTIONS, *FIELDS)}
    return {option: value for option, value in values.items() if value is not None}


def height_width(text: str) -> tuple[int, int]:
    """An argument type: the height and width of an image in pixels."""
    sides = re.fullmatch(r"\(?([1-9]\d{0,5}), ?([1-9]\d{0,5})\)?", text)
    if sides is None:
        raise argparse.ArgumentTypeError(f"must be a height and a width in pixels, such as 384,384, got {text!r}")
    return int(sides[1]), int(sides[2])
