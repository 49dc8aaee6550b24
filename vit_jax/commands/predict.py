"""Names what is in images and videos, or translates text, as the checkpoint has learned it.

python -m vit_jax predict runs/quickstart image.png folder/
python -m vit_jax predict runs/motion clip.mp4 --top=3 --per_frame --json
python -m vit_jax predict runs/messages --text "Save the file" --attention=maps.png
python -m vit_jax predict runs/messages sentences.txt - < more.txt    # a translation a line; "-" is standard input

Preprocessing, labels and vocabulary are those the checkpoint holds.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

from vit_jax.commands import common
from vit_jax.errors import UserError

HELP = "name what is in images and videos, or translate text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="WORKDIR", help="a workdir, or WORKDIR/checkpoints/STEP")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="images or videos (folders of frames too), or folders of them; files of text, a sentence a line",
    )
    parser.add_argument(
        "--batch_size", type=int, default=64, metavar="N", help="images, views of videos, or sentences at once [64]"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    parser.add_argument("--average", type=int, default=1, metavar="N", help="average the newest N checkpoints [1]")
    vision = parser.add_argument_group("images and videos")
    vision.add_argument("--top", type=int, default=5, metavar="K", help="labels of each [5]")
    vision.add_argument(
        "--per_frame", action="store_true", help="also the first label of every frame of one clip, its crops averaged"
    )
    vision.add_argument("--contact_sheet", metavar="PNG", help="also draw them with their first label")
    text = parser.add_argument_group("text")
    text.add_argument("--text", action="append", default=[], metavar="SENTENCE", help="a sentence; may be repeated")
    text.add_argument("--beam_size", type=int, metavar="N", help="hypotheses kept [as in training]")
    text.add_argument("--attention", metavar="PNG", help="also draw the attention of the first sentence")


def run(args: argparse.Namespace) -> int:
    """Returns 1 if some input could not be read."""
    for option in ("top", "batch_size", "average", "beam_size"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise UserError(f"--{option} must be at least 1, not {value}")
    for option in ("contact_sheet", "attention"):
        _check_picture(option, getattr(args, option))
    common.start_jax(args)
    from vit_jax.experiment import load_run

    run = load_run(args.checkpoint, average=args.average)
    is_text = run.preprocessing.key == "text"
    for option in ("per_frame", "contact_sheet") if is_text else ("text", "beam_size", "attention"):
        if getattr(args, option):
            raise UserError(f"--{option} is not for a checkpoint of {run.task.name}, which {args.checkpoint} is")
    if not is_text and not args.inputs:
        raise UserError(f"nothing to predict: name {run.preprocessing.key}s, or folders of them")
    return _translate(args, run) if is_text else _classify(args, run)


def _check_picture(option: str, path: str | None) -> None:
    picture = pathlib.Path(path or "picture.png")
    if picture.suffix.lower() != ".png" or not picture.parent.is_dir():
        raise UserError(f"--{option} {picture}: give the name of a PNG, as picture.png, in a folder that is there")


def _classify(args: argparse.Namespace, run: Any) -> int:
    import numpy as np

    from vit_jax.plots import GREY, contact_sheet
    from vit_jax.predict import find_files, predict, preview, read_files

    key = run.preprocessing.key
    inputs, failed = read_files(find_files(args.inputs, key), key, run.config.data.frames_fps)
    paths, unread = list(inputs), {}

    def probabilities(**options: Any) -> np.ndarray:
        return predict(
            run,
            list(inputs.values()),
            batch_size=args.batch_size,
            failed=unread,
            track=lambda starts: common.progress(starts, len(starts), "predicting"),
            **options,
        )

    def guesses(p: np.ndarray, top: int) -> list[tuple[str, float]]:
        return [(run.labels[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:top]]

    found = probabilities()
    frames = probabilities(per_frame=True) if args.per_frame else [()] * len(found)
    failed |= {paths[place]: reason for place, reason in unread.items()}
    shown = {
        path: (guesses(p, args.top), [guesses(frame, 1)[0] for frame in clip])
        for path, p, clip in zip(paths, found, frames, strict=True)
        if path not in failed
    }
    for path, (guess, by_frame) in shown.items():
        if args.json:
            line: dict[str, Any] = {key: str(path), "predictions": _named(guess)}
            print(json.dumps({**line, **({"frames": _named(by_frame)} if by_frame else {})}))
        else:
            print(f"{path}\t" + "\t".join(f"{label} {probability:.4f}" for label, probability in guess))
            for i, (label, probability) in enumerate(by_frame):
                print(f"{path}\tframe {i}\t{label} {probability:.4f}")
    for path, reason in failed.items():
        print(f"vit_jax: skipped {path}: {reason.removeprefix(f'{path}: ')}", file=sys.stderr)
    if args.contact_sheet and shown:
        titles = [f"{guess[0][0]} {guess[0][1]:.0%}" for guess, _ in shown.values()]
        heading = f"{args.checkpoint}, step {run.step}: {len(shown)} {key}s"
        pictures = [preview(inputs[path]) if key == "video" else inputs[path] for path in shown]
        contact_sheet(args.contact_sheet, pictures, titles, [GREY] * len(shown), heading)
        print(f"vit_jax: wrote {args.contact_sheet}", file=sys.stderr)
    return 1 if failed else 0


def _named(guesses: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": label, "probability": probability} for label, probability in guesses]


def _translate(args: argparse.Namespace, run: Any) -> int:
    from vit_jax.translate import plot_attention, translate

    sentences = list(args.text)
    for path in args.inputs or ([] if args.text else ["-"]):
        sentences += _lines(path)
    found = translate(
        run,
        sentences,
        batch_size=args.batch_size,
        beam_size=args.beam_size,
        track=lambda batches: common.progress(batches, len(batches), "translating"),
    )
    for sentence, (translation, score) in zip(sentences, found, strict=True):
        print(
            json.dumps({"source": sentence, "translation": translation, "score": score}) if args.json else translation
        )
    if args.attention and sentences:
        plot_attention(run, sentences[0], found[0][0], args.attention)
        print(f"vit_jax: wrote {args.attention}", file=sys.stderr)
    return 0


def _lines(path: str) -> list[str]:
    """Reads sentences, one a line, from a file or from standard input."""
    from vit_jax.data.text.source import decode_lines, read_lines

    if path == "-":
        return decode_lines(sys.stdin.buffer.read(), "standard input")
    try:
        return read_lines(pathlib.Path(path))
    except FileNotFoundError:
        raise UserError(f"no file {path}; a sentence itself is given as --text") from None
