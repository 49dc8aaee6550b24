"""Converts weights between the formats, and from a workdir; prints what was loaded, resized and skipped.

python -m vit_jax convert B_16.npz b16-timm --format=timm --name=vit:B/16
python -m vit_jax convert runs/quickstart digits-hf --format=huggingface
python -m vit_jax convert B_16.npz b16-384.npz --format=npz --name=vit:B/16 --image_size=384,384

The kind of IN is told by its content; what that does not tell is asked for. See docs/checkpoints.md.
"""

import argparse

from vit_jax.commands import common

HELP = "convert weights: npz, timm, Hugging Face, the authors' files, a workdir"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="a weight file, a folder with config.json, or a workdir")
    parser.add_argument("target", metavar="OUT", help="a file (npz, big_vision) or folder (timm, huggingface) to make")
    parser.add_argument("--format", required=True, help="npz, big_vision, timm or huggingface, as the family has it")
    parser.add_argument("--name", metavar="FAMILY:VARIANT", help="the model, where IN does not say it, as vit:B/16")
    parser.add_argument("--num_heads", type=int, metavar="N", help="where IN does not say it, instead of --name")
    parser.add_argument(
        "--image_size", type=height_width, metavar="H,W", help="resample the positions to images of this size"
    )
    parser.add_argument("--stored_image_size", type=height_width, metavar="H,W", help="what a bare IN was trained with")
    parser.add_argument("--num_frames", type=int, metavar="N", help="resample the positions in time to so many frames")
    parser.add_argument("--num_classes", type=int, metavar="N", help="replace the head by a new one for N classes")
    parser.add_argument("--entry", metavar="NAME", help="the set of weights of a torch file, as model_ema")
    parser.add_argument("--preprocessing", metavar="CHAIN", help="transforms, where IN does not say them")


def run(args: argparse.Namespace) -> int:
    common.start_jax(args)
    from rich.console import Console

    from vit_jax.pretrained.load import from_pretrained
    from vit_jax.pretrained.save import check_absent, save_pretrained

    check_absent(args.target)
    fields = {name: getattr(args, name) for name in ("num_heads", "image_size", "num_frames", "num_classes")}
    loaded = from_pretrained(
        args.source,
        args.name,
        entry=args.entry,
        stored_image_size=args.stored_image_size,
        preprocessing=args.preprocessing,
        **{name: value for name, value in fields.items() if value is not None},
    )
    notes = save_pretrained(
        args.target,
        loaded.model,
        loaded.params,
        args.format,
        labels=loaded.labels,
        preprocessing=loaded.preprocessing,
    )
    Console().print(loaded.report.table())
    for note in (*loaded.report.notes, *notes):
        print(note)
    print(f"wrote {args.target}")
    return 0


def height_width(text: str) -> tuple[int, int]:
    height, width = (int(side) for side in text.split(","))
    return height, width
