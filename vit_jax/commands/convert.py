"""Convert a weight file or a checkpoint to another format, and print what was loaded, resized and skipped.

python -m vit_jax convert B_16.npz b16-timm --format=timm --name=vit:B/16
python -m vit_jax convert runs/quickstart digits-timm --format=timm
python -m vit_jax convert B_16.npz b16-384.npz --format=npz --name=vit:B/16 --image_size=384,384

The content of IN determines its format. What IN does not state must be given by the options. See docs/checkpoints.md.
"""

import argparse

from vit_jax.commands import common

HELP = "convert weights: npz, timm, Hugging Face, the authors' files, a workdir"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="weight file, folder with config.json, or workdir")
    parser.add_argument("target", metavar="OUT", help="file (npz, big_vision) or folder (timm, huggingface) to create")
    parser.add_argument("--format", required=True, help="npz, big_vision, timm or huggingface")
    parser.add_argument("--name", metavar="FAMILY:VARIANT", help="model, if IN does not state it, such as vit:B/16")
    parser.add_argument(
        "--num_heads",
        type=int,
        metavar="N",
        help="number of attention heads, if neither IN nor --name states it",
    )
    parser.add_argument("--pool", help="how tokens are pooled, if IN does not state it: cls, gap or map")
    parser.add_argument("--gelu", help="form of the GELU, if IN does not state it: exact, tanh or quick")
    parser.add_argument("--norm_epsilon", type=float, metavar="X", help="epsilon of the norms, if IN does not state it")
    parser.add_argument(
        "--image_size",
        type=height_width,
        metavar="H,W",
        help="resample position embeddings for images of this size, in pixels",
    )
    parser.add_argument(
        "--stored_image_size",
        type=height_width,
        metavar="H,W",
        help="training image size, if IN does not state it",
    )
    parser.add_argument("--num_frames", type=int, metavar="N", help="resample time embeddings for clips of N frames")
    parser.add_argument("--num_classes", type=int, metavar="N", help="replace the head by a new one for N classes")
    parser.add_argument(
        "--entry", metavar="NAME", help="which weights to use if a torch file holds several, such as model_ema"
    )
    parser.add_argument("--preprocessing", metavar="CHAIN", help="evaluation transforms, if IN does not state them")
    parser.add_argument("--trust", action="store_true", help="import code outside vit_jax that a workdir names")


def run(args: argparse.Namespace) -> int:
    common.start_jax(args)
    from rich.console import Console

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
