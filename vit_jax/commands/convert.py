"""Convert a weight file or a checkpoint to another format, and print what was loaded, resampled and skipped.

python -m vit_jax convert B_16.npz b16-timm --format=timm --name=vit:B/16
python -m vit_jax convert runs/quickstart digits-timm --format=timm
python -m vit_jax convert B_16.npz b16-384.npz --format=npz --name=vit:B/16 --image_size=384,384

The content of IN determines its format. What IN does not state must be given by the options. See docs/checkpoints.md.
"""

import argparse

from vit_jax.commands.shared import common, foreign

HELP = "convert weights: npz, timm, Hugging Face, the authors' files, a workdir"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option, text, count = parser.add_argument, common.given, common.at_least(1)
    option("source", metavar="IN", type=text, help="weight file, folder with config.json, or workdir")
    option("target", metavar="OUT", type=text, help="file (npz, big_vision) or folder (timm, huggingface) to create")
    option("--format", required=True, type=text, help="npz, big_vision, timm or huggingface")
    foreign.add_arguments(parser)
    option("--num_classes", type=count, metavar="N", help="replace the head by a new one for N classes")
    option("--trust", action="store_true", help="import code outside vit_jax that a workdir names")
    option("--license", type=text, default="unknown", metavar="ID", help="of the model card (default: unknown)")


def run(args: argparse.Namespace) -> int:
    common.start_jax(args)
    from rich.console import Console

    from vit_jax.export.model_card import model_card
    from vit_jax.pretrained.save import check_absent
    from vit_jax.weights import from_pretrained, save_pretrained

    check_absent(args.target)
    head = {} if args.num_classes is None else {"num_classes": args.num_classes}
    loaded = from_pretrained(args.source, trust=args.trust, **foreign.given(args), **head)
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
