"""Convert a weight file or a checkpoint to another format, and print what was loaded, resampled and skipped.

python -m vit_jax convert B_16.npz b16-timm --format=timm --name=vit:B/16
python -m vit_jax convert runs/quickstart digits-timm --format=timm
python -m vit_jax convert B_16.npz b16-384.npz --format=npz --name=vit:B/16 --image_size=384,384

The content of IN determines its format. What IN does not state must be given by the options. See docs/checkpoints.md.
"""

import argparse
import re

from vit_jax.commands import common

HELP = "convert weights: npz, timm, Hugging Face, the authors' files, a workdir"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option, text, count = parser.add_argument, common.given, common.at_least(1)
    option("source", metavar="IN", type=text, help="weight file, folder with config.json, or workdir")
    option("target", metavar="OUT", type=text, help="file (npz, big_vision) or folder (timm, huggingface) to create")
    option("--format", required=True, type=text, help="npz, big_vision, timm or huggingface")
    option("--name", metavar="FAMILY:VARIANT", type=text, help="model, if IN does not state it, such as vit:B/16")
    option("--num_heads", type=count, metavar="N", help="attention heads, if neither IN nor --name states them")
    field = common.legal
    option("--pool", type=field("model.pool"), help="how tokens are pooled, if IN does not state it: cls, gap or map")
    option("--gelu", type=field("model.gelu"), help="form of the GELU, if IN does not state it: exact, tanh or quick")
    option(
        "--norm_epsilon",
        type=field("model.norm_epsilon"),
        metavar="X",
        help="epsilon of the norms, if IN does not state it",
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
        help="training image size, if IN does not state it",
    )
    option("--num_frames", type=count, metavar="N", help="resample time embeddings for clips of N frames")
    option("--num_classes", type=count, metavar="N", help="replace the head by a new one for N classes")
    option(
        "--entry",
        metavar="NAME",
        type=text,
        help="which weights to use if a torch file holds several, such as model_ema",
    )
    option("--preprocessing", metavar="CHAIN", type=text, help="evaluation transforms, if IN does not state them")
    option("--trust", action="store_true", help="import code outside vit_jax that a workdir names")
    option("--license", type=text, default="unknown", metavar="ID", help="of the model card (default: unknown)")


def run(args: argparse.Namespace) -> int:
    common.start_jax(args)
    from rich.console import Console

    from vit_jax.model_card import model_card
    from vit_jax.pretrained.save import check_absent
    from vit_jax.weights import from_pretrained, save_pretrained

    check_absent(args.target)
    names = ("num_heads", "pool", "gelu", "norm_epsilon", "image_size", "num_frames", "num_classes")
    fields = {name: getattr(args, name) for name in names}
    loaded = from_pretrained(
        args.source,
        args.name,
        entry=args.entry,
        stored_image_size=args.stored_image_size,
        preprocessing=args.preprocessing,
        trust=args.trust,
        **{name: value for name, value in fields.items() if value is not None},
    )
    described = {"labels": loaded.labels, "encoder": loaded.preprocessing, "license": args.license}
    notes = save_pretrained(
        args.target,
        loaded.model,
        loaded.params,
        args.format,
        labels=loaded.labels,
        preprocessing=loaded.preprocessing,
        card=model_card(loaded.model, loaded.params, loaded.origin, **described),
    )
    table, console = loaded.report.table(), Console()
    console.width = max(console.width, console.measure(table).maximum)  # no parameter name is broken over two lines
    console.print(table)
    for note in (*loaded.report.notes, *notes):
        print(note)
    print(f"wrote {args.target}")
    return 0


def height_width(text: str) -> tuple[int, int]:
    """An argument type: the height and width of an image in pixels."""
    sides = re.fullmatch(r"([1-9]\d{0,5}),([1-9]\d{0,5})", text)
    if sides is None:
        raise argparse.ArgumentTypeError(f"must be a height and a width in pixels, such as 384,384, got {text!r}")
    return int(sides[1]), int(sides[2])
