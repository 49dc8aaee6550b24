"""Prepare, describe and check data sets.

python -m vit_jax data prepare digits
python -m vit_jax data prepare fashion_mnist --path /usr/share/datasets/fashion-mnist
python -m vit_jax data prepare motion/fashion --path /usr/share/datasets/fashion-mnist
python -m vit_jax data prepare messages --path DEBS    # English-Italian text, from a folder of Debian packages
python -m vit_jax data prepare treebank --path WSJ     # sentences and their trees, from the Penn Treebank
python -m vit_jax data prepare cifar10          # convert TFRecords to ArrayRecord, without TensorFlow
python -m vit_jax data info fashion_mnist
python -m vit_jax data info folder --path ~/photos --json
python -m vit_jax data info video --path ~/clips
python -m vit_jax data info text --path ~/parallel --languages=en,de
python -m vit_jax data check ~/clips            # decode every video and record which are broken
"""

import argparse
import json
import os
import sys
from collections import Counter
from typing import Any

from vit_jax.commands.shared import common
from vit_jax.errors import counted

HELP = "prepare, describe and check data sets"

_NAME = "digits, fashion_mnist, motion/..., or any image classification set of TFDS, such as cifar10"
_PATH = (
    "for sets made from Fashion-MNIST: folder of its raw files; for messages: folder of packages or catalogues; for "
    "treebank: folder of the sections of the Wall Street Journal"
)
_DATA_DIR = "folder of prepared sets (default: $TFDS_DATA_DIR, then ~/tensorflow_datasets)"
_PREPARE = """Prepare one of the project's own sets (digits; fashion_mnist; motion/fashion, motion/digits and others
drawn from these), or convert a set that TFDS has prepared as TFRecord files to ArrayRecord. Neither needs TensorFlow,
and the TFRecords are kept. 'messages' is parallel text for data.name=text: the interface strings in the packages in
--path, or if it is not given, in the installed Python packages. 'treebank' is parallel text as well: sentences and
their trees, from the bracketed files (.mrg) of the Penn Treebank in --path."""
_INFO = """Print splits, classes and their counts, image sizes, files that cannot be read or are unusual, and checksums
of a data set; for lists of clips, how they were read; for text, the number of sentence pairs. Sets above
1 GiB are read in full only with --full."""
_CHECK = """Decode every clip of a folder, given by its lists or its class folders, and write the status of each to
manifest.csv. Clips with status ok, variable-rate or few-frames are used; training and evaluation skip those that are
truncated, empty, audio-only, unreadable or missing. Clips that have not changed since the last check are not decoded
again, except for truncated and unreadable ones, because a failing disk looks the same. The exit status is 1 if any clip
cannot be used."""
_MOST_BROKEN = 20  # broken clips that are named; the rest are counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    prepare = actions.add_parser("prepare", help="prepare a set on disk, so that it can be read", description=_PREPARE)
    prepare.add_argument("name", metavar="NAME", type=common.given, help=f"{_NAME}, messages or treebank")
    prepare.add_argument("--path", metavar="DIR", type=common.given, help=_PATH)
    prepare.add_argument("--data_dir", metavar="DIR", type=common.given, help=_DATA_DIR)

    info = actions.add_parser("info", help="print what a set contains", description=_INFO)
    info.add_argument(
        "name", metavar="NAME", type=common.given, help=f"{_NAME}; or folder, video, text, messages or treebank"
    )
    info.add_argument("--path", metavar="DIR", type=common.given, help="root folder, for folder, video and text")
    info.add_argument(
        "--languages",
        default="en,it",
        metavar="FROM,TO",
        type=common.given,
        help="source and target language, for text (default: en,it)",
    )
    info.add_argument("--data_dir", metavar="DIR", type=common.given, help=_DATA_DIR)
    info.add_argument(
        "--full", action="store_true", help="count classes and compute checksums, however large the set is"
    )
    info.add_argument("--json", action="store_true", help="print JSON")

    check = actions.add_parser("check", help="decode every video and record which are broken", description=_CHECK)
    check.add_argument("path", metavar="PATH", type=common.given, help="folder of the clips, or of their lists")
    check.add_argument("--split", type=common.given, help="check only this split (default: all)")
    check.add_argument(
        "--min_frames",
        type=common.at_least(1),
        default=8,
        metavar="N",
        help="clips with fewer frames get the status few-frames (default: 8)",
    )
    check.add_argument(
        "--workers",
        type=common.at_least(0),
        metavar="N",
        help="worker processes; 0 to decode in the main process (default: one per core)",
    )
    check.add_argument("--json", action="store_true", help="print JSON, with all broken clips")


def run(args: argparse.Namespace) -> int:
    """Returns the exit status: 0, or 1 if clips are broken.

    Raises:
      UserError: A set, a file or an option is missing or unknown.
    """
    if args.action == "check":
        return _check(args)
    if args.action == "prepare":
        _prepare(args)
    else:
        _info(args)
    return 0


def _prepare(args: argparse.Namespace) -> None:
    from vit_jax.data.sets.prepare import prepare_and_report

    lines, skipped = prepare_and_report(args.name, args.data_dir, args.path, _progress)
    print("\n".join(lines))
    for line in skipped:
        print(f"vit_jax: {line}", file=sys.stderr)


def _progress(what: str, done: int, total: int) -> None:
    print(f"\r{done}/{total} {what:60}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _info(args: argparse.Namespace) -> None:
    from vit_jax.data.describe import report
    from vit_jax.data.layout import printable

    languages = args.languages.split(",")
    info, lines = report(args.name, path=args.path, data_dir=args.data_dir, languages=languages, full=args.full)
    print(json.dumps(info, indent=2) if args.json else "\n".join(map(printable, lines)))


def _check(args: argparse.Namespace) -> int:
    from vit_jax.data.layout import printable
    from vit_jax.data.scan import BROKEN, USABLE
    from vit_jax.data.video.check import Check

    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    check = Check(args.path, args.split, min_frames=args.min_frames)
    try:
        for _ in common.progress(check.run(workers), len(check.todo), "checking clips"):
            pass
    except KeyboardInterrupt:
        left = len(check.files) - len(check.records)
        total = counted(len(check.files), "clips")
        print(f"{left:,} of {total} left to check; run the same command to continue", file=sys.stderr)
        raise
    broken = [record for record in check.records if not record.is_usable]
    counts = Counter(record.status for record in check.records)
    summary = {
        "path": str(check.path),
        "manifest": str(check.manifest),
        "clips": len(check.records),
        "decoded": len(check.todo),
        "usable": len(check.records) - len(broken),
        "counts": {status: counts[status] for status in USABLE + BROKEN if counts[status]},
        "broken": [{"path": record.path, "status": record.status, "detail": record.detail} for record in broken],
    }
    print(json.dumps(summary, indent=2) if args.json else "\n".join(map(printable, _check_lines(summary))))
    return 1 if broken else 0


def _check_lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"{summary['manifest']}: {counted(summary['clips'], 'clips')}, {summary['decoded']:,} of them decoded now",
        "",
    ]
    lines += [f"{status:14} {count:>10,}" for status, count in summary["counts"].items()]
    lines += ["", f"{summary['usable']:,} can be used, {len(summary['broken']):,} cannot"]
    lines += [f"{clip['status']}: {clip['path']} ({clip['detail']})" for clip in summary["broken"][:_MOST_BROKEN]]
    more = len(summary["broken"]) - _MOST_BROKEN
    return lines + ([f"... and {more:,} more (--json lists all)"] if more > 0 else [])
