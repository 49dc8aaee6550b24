"""Measure robustness to common corruptions: accuracy and calibration by corruption and severity, as on ImageNet-C.

  python -m vit_jax analyze corruptions runs/quickstart --out=corruptions.pdf --csv=corruptions.csv
  python -m vit_jax analyze corruptions runs/mine --corruptions=fog,snow --severities=3,5 --out=weather.png

Every example of the split is scored under every corruption. All fifteen need the extra `corruptions`, which has the
photographs of frost. See docs/robustness.md.
"""

import argparse
import contextlib
import csv
import dataclasses
import json

from vit_jax.commands.analyze.calibration import add_bins, add_split
from vit_jax.commands.shared import checkpoints, common
from vit_jax.errors import counted

HELP = "measure robustness to common corruptions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    add_split(parser)
    parser.add_argument("--corruptions", type=_names, metavar="NAME,...", help="corruptions (default: all fifteen)")
    parser.add_argument("--severities", type=_severities, metavar="N,...", help="from 1 to 5 (default: all)")
    parser.add_argument("--seed", type=common.at_least(0), default=0, metavar="N", help="of the noise (default: 0)")
    add_bins(parser)
    parser.add_argument("--out", required=True, metavar="FILE", type=common.given, help="figure: .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    rows = "also write one row per corruption and severity, as they are computed"
    parser.add_argument("--csv", metavar="FILE", type=common.given, help=rows)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def _severities(text: str) -> tuple[int, ...]:
    if not all(part in ("1", "2", "3", "4", "5") for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be numbers from 1 to 5, such as 1,3,5, got {text!r}")
    return tuple(sorted(set(map(int, text.split(",")))))


def run(args: argparse.Namespace) -> int:
    from vit_jax.plots import check_path
    from vit_jax.plots.robustness import plot_corruptions

    check_path(args.out, "--out")
    common.start_jax(args)
    run = checkpoints.load(args)

    from vit_jax.analysis.robustness import corruptions

    source = run.open_split(args.split)
    scores = []
    rows = corruptions.evaluate_corruptions(
        run,
        source,
        args.corruptions or corruptions.CORRUPTIONS,
        args.severities or corruptions.SEVERITIES,
        seed=args.seed,
        bins=args.bins,
        batch_size=args.batch_size,
        track=checkpoints.tracked,
    )
    with open(args.csv, "w", newline="") if args.csv else contextlib.nullcontext() as file:
        writer = csv.writer(file, lineterminator="\n") if file else None
        if writer:
            writer.writerow(field.name for field in dataclasses.fields(corruptions.Score))
        for score in rows:
            scores.append(score)
            values = dataclasses.asdict(score)
            if writer and file:
                writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in values.values())
                file.flush()
            if args.json:
                print(json.dumps(values), flush=True)
            else:
                print("\t".join(_cell(name, value) for name, value in values.items()), flush=True)
    clean, corrupted = scores[0], scores[1:]
    error = corruptions.mean_corruption_error(corrupted)
    plot_corruptions(args.out, corrupted, clean.accuracy)
    if args.json:
        print(json.dumps({"mean_corruption_error": error, "clean_error": 1 - clean.accuracy}))
    else:
        measured = f"{counted(len(corrupted), 'rows')} of {counted(clean.examples, 'examples')}"
        print(f"mean corruption error {error:.4f}, clean error {1 - clean.accuracy:.4f} ({measured})")
    return 0


def _cell(name: str, value: object) -> str:
    return (
        f"{name} {value:.4f}" if isinstance(value, float) else str(value) if name == "corruption" else f"{name} {value}"
    )
