"""Prepares data sets, and says what is in them.

python -m vit_jax data prepare digits
python -m vit_jax data prepare fashion_mnist --path /usr/share/datasets/fashion-mnist
python -m vit_jax data prepare motion/fashion --path /usr/share/datasets/fashion-mnist
python -m vit_jax data prepare messages --path DEBS    # English-Italian text, from the catalogues of Debian packages
python -m vit_jax data prepare cifar10          # rewrite TFRecords as ArrayRecord, without TensorFlow
python -m vit_jax data info fashion_mnist
python -m vit_jax data info folder --path ~/photos --json
python -m vit_jax data info text --path ~/parallel --languages=en,de
python -m vit_jax data check ~/clips            # decode every video, and note which are broken
"""

import argparse
import json
import os
import sys
from collections import Counter
from typing import Any

from vit_jax.errors import UserError

HELP = "prepare data sets, and say what is in them"

_NAME = "digits, fashion_mnist, motion/..., any image-classification set of TFDS such as cifar10"
_PATH = "folder of Fashion-MNIST's raw files, for the sets that need them; of packages or catalogues, for messages"
_DATA_DIR = "folder of the prepared sets (default: $TFDS_DATA_DIR, then ~/tensorflow_datasets)"
_PREPARE = """Prepares one of the project's own sets (digits, fashion_mnist, and motion/fashion, motion/digits and more
drawn from them), or rewrites a set that an older TFDS has prepared in TFRecord files as ArrayRecord beside them;
neither needs TensorFlow, and the TFRecords stay. 'messages' is parallel text for data.name=text: the interface strings
of the packages in --path, or without it of the installed Python packages."""
_INFO = """Prints the splits, the classes and their counts, the sizes of the images, the files that cannot be read and
the checksums of the files; of text the pairs of sentences. A set above 1 GiB is read in full only with --full."""
_CHECK = """Decodes every clip of a folder of videos, by its lists or its class folders, and writes into manifest.csv
what each is: ok, variable-rate and few-frames, which are used, or truncated, empty, audio-only, unreadable and missing,
which training and evaluation then skip. Clips that have not changed since the last check are not decoded again, but for
truncated and unreadable ones: a disk that fails looks the same. Exit status 1 if there are any that cannot be used."""
_MOST_BROKEN = 20  # that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    prepare = actions.add_parser(
        "prepare", help="put a set on disk in the form that is read here", description=_PREPARE
    )
    prepare.add_argument("name", metavar="NAME", help=f"{_NAME}, or messages")
    prepare.add_argument("--path", metavar="DIR", help=_PATH)
    prepare.add_argument("--data_dir", metavar="DIR", help=_DATA_DIR)

    info = actions.add_parser("info", help="say what is in a set", description=_INFO)
    info.add_argument("name", metavar="NAME", help=f"{_NAME}; folder, text or messages")
    info.add_argument("--path", metavar="DIR", help="the folder, for NAME folder and text")
    info.add_argument("--languages", default="en,it", metavar="FROM,TO", help="of text (default: en,it)")
    info.add_argument("--data_dir", metavar="DIR", help=_DATA_DIR)
    info.add_argument("--full", action="store_true", help="count classes and checksum files however large the set is")
    info.add_argument("--json", action="store_true", help="print JSON")

    check = actions.add_parser("check", help="decode every video and note which are broken", description=_CHECK)
    check.add_argument("path", metavar="PATH", help="the folder of the clips, or of their lists")
    check.add_argument("--split", help="of all splits check only this one")
    check.add_argument("--min_frames", type=int, default=8, metavar="N", help="fewer are called few (default: 8)")
    check.add_argument("--workers", type=int, metavar="N", help="processes; 0 for this one (default: one per core)")
    check.add_argument("--json", action="store_true", help="print JSON, with all that are broken")


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if clips are broken; raises `UserError` for what is missing or unknown."""
    if args.action == "check":
        return _check(args)
    if args.action == "prepare":
        _prepare(args)
    else:
        _info(args)
    return 0


def _prepare(args: argparse.Namespace) -> None:
    from vit_jax.data.sets import prepare

    if args.name == "folder":
        raise UserError("a folder is read as it is, nothing to prepare: python -m vit_jax data info folder --path DIR")
    if args.name == "video":
        raise UserError("clips are read as they are, nothing to prepare: python -m vit_jax data check DIR")
    if args.name == "text":
        raise UserError("text is read as it is, nothing to prepare: give its folder as --config.data.path")
    if args.name == "messages":
        _prepare_messages(args)
        return
    already = prepare.find_prepared(args.name, args.data_dir)
    directory = already or prepare.prepare(args.name, args.data_dir, args.path, _progress)
    print(f"{'already prepared' if already else 'prepared'}: {directory}")


def _prepare_messages(args: argparse.Namespace) -> None:
    from vit_jax.data.sets.messages import build
    from vit_jax.data.sets.prepare import data_root

    directory = data_root(args.data_dir) / "messages"
    if (directory / "counts.json").exists():
        print(f"already prepared: {directory}")
        return
    counts = build(directory, args.path, progress=_progress)
    pairs = ", ".join(f"{count:,} {split}" for split, count in counts["pairs"].items())
    print(f"prepared: {directory}: {pairs} pairs; --config.data.path={directory}")
    for file, reason in counts["unreadable"]:
        print(f"vit_jax: skipped {file}: {reason}", file=sys.stderr)


def _progress(what: str, done: int, total: int) -> None:
    print(f"\r{done}/{total} {what:60}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _info(args: argparse.Namespace) -> None:
    from vit_jax.data.describe import describe

    if args.name == "video":
        raise UserError(f"of a folder of clips: python -m vit_jax data check {args.path or 'DIR'}")
    if args.name in ("text", "messages"):
        info, lines = _text(args), _text_lines
    else:
        info, lines = describe(args.name, path=args.path, data_dir=args.data_dir, full=args.full), _lines
    print(json.dumps(info, indent=2) if args.json else "\n".join(lines(info)))


def _text(args: argparse.Namespace) -> dict[str, Any]:
    from vit_jax.data.describe import describe_text
    from vit_jax.data.sets.prepare import data_root

    path = args.path or (data_root(args.data_dir) / "messages" if args.name == "messages" else None)
    if path is None:
        raise UserError("text is in a folder of yours: --path DIR")
    if args.name == "messages" and not os.path.isdir(path):
        raise UserError(f"{path} is not there: python -m vit_jax data prepare messages --path DEBS")
    languages = args.languages.split(",")
    if len(languages) != 2:
        raise UserError(f"--languages {args.languages}: two are wanted, as en,it")
    return describe_text(path, languages)


def _text_lines(info: dict[str, Any]) -> list[str]:
    source, target = info["languages"]
    lines = [f"{info['path']}: {source} to {target}", "", f"{'split':12} {'pairs':>10} {'skipped':>8}  characters"]
    for name, split in info["splits"].items():
        characters = " and ".join(f"{count:,}" for count in split["characters"])
        lines.append(f"{name:12} {split['pairs']:>10,} {len(split['skipped']):>8,}  {characters}")
    for name, split in info["splits"].items():
        lines += [f"skipped in {name}: {where} ({reason})" for where, reason in split["skipped"]]
    return lines


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


def _check(args: argparse.Namespace) -> int:
    from vit_jax.commands.common import progress
    from vit_jax.data.video.check import Check
    from vit_jax.data.video.manifest import BROKEN, USABLE

    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    if workers < 0:
        raise UserError(f"--workers must be 0 or more, not {workers}")
    check = Check(args.path, args.split, min_frames=args.min_frames)
    try:
        for _ in progress(check.run(workers), len(check.todo), "checking clips"):
            pass
    except KeyboardInterrupt:
        left = len(check.files) - len(check.records)
        print(f"{left:,} of {len(check.files):,} clips are left; the same command goes on from here", file=sys.stderr)
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
    print(json.dumps(summary, indent=2) if args.json else "\n".join(_check_lines(summary)))
    return 1 if broken else 0


def _check_lines(summary: dict[str, Any]) -> list[str]:
    lines = [f"{summary['manifest']}: {summary['clips']:,} clips, {summary['decoded']:,} of them decoded now", ""]
    lines += [f"{status:14} {count:>10,}" for status, count in summary["counts"].items()]
    lines += ["", f"{summary['usable']:,} can be used, {len(summary['broken']):,} cannot"]
    lines += [f"{clip['status']}: {clip['path']} ({clip['detail']})" for clip in summary["broken"][:_MOST_BROKEN]]
    more = len(summary["broken"]) - _MOST_BROKEN
    return lines + ([f"... and {more:,} more (--json lists all)"] if more > 0 else [])
