"""Names what is in images, with the preprocessing and the labels that the checkpoint holds.

python -m vit_jax predict runs/quickstart image.png folder/
python -m vit_jax predict runs/quickstart folder/ --top=3 --json
python -m vit_jax predict runs/quickstart folder/ --contact_sheet=sheet.png
"""

import argparse
import json
import pathlib
import sys

from vit_jax.commands import common
from vit_jax.errors import UserError

HELP = "name what is in images: a table, JSON, a contact sheet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="WORKDIR", help="a workdir, or WORKDIR/checkpoints/STEP")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders (searched below too)")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="labels an image [5]")
    parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="images at once [64]")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead of a table")
    parser.add_argument("--contact_sheet", metavar="PNG", help="also draw the images with their first label")


def run(args: argparse.Namespace) -> int:
    """Returns 1 if some image could not be read."""
    if args.top < 1 or args.batch_size < 1:
        raise UserError("--top and --batch_size must be at least 1")
    if args.contact_sheet:
        sheet = pathlib.Path(args.contact_sheet)
        if sheet.suffix.lower() != ".png" or not sheet.parent.is_dir():
            raise UserError(f"--contact_sheet {sheet}: give the name of a PNG, as sheet.png, in a folder that is there")
    common.start_jax(args)
    import numpy as np

    from vit_jax.experiment import load_run
    from vit_jax.plots import GREY, contact_sheet
    from vit_jax.predict import find_images, predict_images, read_images

    images, failed = read_images(find_images(args.images))
    run = load_run(args.checkpoint)
    probabilities = predict_images(
        run,
        list(images.values()),
        batch_size=args.batch_size,
        track=lambda starts: common.progress(starts, len(starts), "predicting"),
    )
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, : args.top]
    guesses = [[(run.labels[i], float(p[i])) for i in order] for p, order in zip(probabilities, best, strict=True)]

    for path, guess in zip(images, guesses, strict=True):
        if args.json:
            predictions = [{"label": label, "probability": probability} for label, probability in guess]
            print(json.dumps({"image": str(path), "predictions": predictions}))
        else:
            print(f"{path}\t" + "\t".join(f"{label} {probability:.4f}" for label, probability in guess))
    for path, reason in failed.items():
        print(f"vit_jax: skipped {path}: {reason}", file=sys.stderr)
    if args.contact_sheet and images:
        titles = [f"{guess[0][0]} {guess[0][1]:.0%}" for guess in guesses]
        heading = f"{args.checkpoint}, step {run.step}: {len(images)} images"
        contact_sheet(args.contact_sheet, list(images.values()), titles, [GREY] * len(images), heading)
        print(f"vit_jax: wrote {args.contact_sheet}", file=sys.stderr)
    return 1 if failed else 0
