"""Prepares data sets, and says what is in them.

python -m vit_jax data prepare digits
python -m vit_jax data prepare fashion_mnist --path /usr/share/datasets/fashion-mnist
python -m vit_jax data prepare cifar10          # rewrite TFRecords as ArrayRecord, without TensorFlow
python -m vit_jax data info fashion_mnist
python -m vit_jax data info folder --path ~/photos --json
"""

import argparse
import json
import sys
from typing import Any

from vit_jax.errors import UserError

HELP = "prepare data sets, and say what is in them"

_NAME = "digits, fashion_mnist, any image-classification set of TFDS such as cifar10"
_DATA_DIR = "folder of the prepared sets (default: $TFDS_DATA_DIR, then ~/tensorflow_datasets)"
_PREPARE = """Prepares one of the project's own sets (digits, fashion_mnist), or rewrites a set that an older TFDS has
prepared in TFRecord files as ArrayRecord beside them; neither needs TensorFlow, and the TFRecords stay."""
_INFO = """Prints the splits, the classes and their counts, the sizes of the images, the files that cannot be read and
the checksums of the files. A set above 1 GiB is read in full only with --full."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    prepare = actions.add_parser(
        "prepare", help="put a set on disk in the form that is read here", description=_PREPARE
    )
    prepare.add_argument("name", metavar="NAME", help=_NAME)
    prepare.add_argument("--path", metavar="DIR", help="folder of the raw files, for fashion_mnist")
    prepare.add_argument("--data_dir", metavar="DIR", help=_DATA_DIR)

    info = actions.add_parser("info", help="say what is in a set", description=_INFO)
    info.add_argument("name", metavar="NAME", help=f"{_NAME}, or folder")
    info.add_argument("--path", metavar="DIR", help="the folder, for NAME folder")
    info.add_argument("--data_dir", metavar="DIR", help=_DATA_DIR)
    info.add_argument("--full", action="store_true", help="count classes and checksum files however large the set is")
    info.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Returns 0; raises `UserError` for what is missing or unknown."""
    if args.action == "prepare":
        _prepare(args)
    else:
        _info(args)
    return 0


def _prepare(args: argparse.Namespace) -> None:
    from vit_jax.data import prepare

    if args.name == "folder":
        raise UserError("a folder is read as it is, nothing to prepare: python -m vit_jax data info folder --path DIR")
    already = prepare.find_prepared(args.name, args.data_dir)
    directory = already or prepare.prepare(args.name, args.data_dir, args.path, _progress)
    print(f"{'already prepared' if already else 'prepared'}: {directory}")


def _progress(what: str, done: int, total: int) -> None:
    print(f"\r{done}/{total} {what:60}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _info(args: argparse.Namespace) -> None:
    from vit_jax.data.describe import describe

    info = describe(args.name, path=args.path, data_dir=args.data_dir, full=args.full)
    print(json.dumps(info, indent=2) if args.json else "\n".join(_lines(info)))


def _lines(info: dict[str, Any]) -> list[str]:
    size = "" if info["bytes"] is None else f", {info['bytes'] / 2**20:,.1f} MiB"
    lines = [f"{info['name']}: {info['path']}{size}", "", f"{'split':12} {'examples':>10} {'skipped':>8}  images"]
    for name, split in info["splits"].items():
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in list(split["images"].items())[:3])
        more = ", ..." if len(split["images"]) > 3 else ""
        lines.append(f"{name:12} {split['examples']:>10,} {len(split['skipped']):>8,}  {kinds}{more}")
    lines += ["", *_class_lines(info)]
    for split, classes in info["missing_classes"].items():
        lines.append(f"{split} has no folder for {', '.join(classes)}")
    for name, split in info["splits"].items():
        lines += [f"skipped in {name}: {file} ({reason})" for file, reason in split["skipped"]]
    if info["sha256"]:
        lines += ["", *(f"{digest}  {file}" for file, digest in info["sha256"].items())]
    return lines


def _class_lines(info: dict[str, Any]) -> list[str]:
    splits = {name: split["class_counts"] for name, split in info["splits"].items()}
    lines = [f"{info['num_classes']} classes"]
    if any(counts is None for counts in splits.values()):
        return [*lines, "(counts and checksums of a set this large: --full)"]
    shown = info["classes"][:20]
    width = max(len("class"), *(len(label) for label in shown))
    lines.append(f"{'class':{width}} " + " ".join(f"{name:>10}" for name in splits))
    for number, label in enumerate(shown):
        lines.append(f"{label:{width}} " + " ".join(f"{counts[number]:>10,}" for counts in splits.values()))
    if len(shown) < info["num_classes"]:
        lines.append(f"... and {info['num_classes'] - len(shown)} more (--json lists all)")
    return lines
