"""Classify images and videos, or translate sentences, with a trained checkpoint.

  python -m vit_jax predict runs/quickstart image.png folder/
  python -m vit_jax predict runs/motion clip.mp4 --top=3 --per_frame --json
  python -m vit_jax predict runs/messages --text "Save the file" --attention=maps.png
  python -m vit_jax predict runs/messages sentences.txt - < more.txt    # one sentence per line; "-" is standard input

  python -m vit_jax predict B_16.npz folder/ --name=vit:B/16 --labels=imagenet2012 --output=predictions.parquet

Preprocessing, labels and vocabulary are those that the checkpoint holds. Results are printed as they are computed;
with --output, they are written to a table instead.
"""

import argparse
import contextlib
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from vit_jax.commands.shared import checkpoints, common
from vit_jax.errors import UserError, counted

HELP = "classify images and videos, or translate text"
PICTURES = ("contact_sheet", "attention")  # options that draw predictions; each modality supports one of them
MOST_DRAWN = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        type=common.given,
        help="images or videos (or folders of frames), or folders of them; text files with one sentence per line",
    )
    parser.add_argument(
        "--batch_size",
        type=common.at_least(1),
        default=64,
        metavar="N",
        help="images, views of videos, or sentences per batch (default: 64)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=common.given,
        help="write a row per input instead of printing: id, file, top classes, logits (.csv, .npz or .parquet)",
    )
    vision = parser.add_argument_group("images and videos")
    vision.add_argument("--top", type=common.at_least(1), metavar="K", help="number of labels to print (default: 5)")
    vision.add_argument(
        "--per_frame",
        action="store_true",
        help="also print the top label of every frame of one clip, averaged over crops",
    )
    vision.add_argument(
        "--contact_sheet",
        metavar="PNG",
        type=common.given,
        help=f"also draw the first {MOST_DRAWN}, with their names and top labels",
    )
    text = parser.add_argument_group("text")
    text.add_argument("--text", action="append", default=[], metavar="SENTENCE", help="a sentence; may be repeated")
    text.add_argument(
        "--beam_size", type=common.at_least(1), metavar="N", help="hypotheses kept in beam search (default: the run's)"
    )
    text.add_argument(
        "--attention", metavar="PNG", type=common.given, help="also draw the attention for the first sentence"
    )


def run(args: argparse.Namespace) -> int:
    """Prints an answer for each input; returns 1 if an input could not be read."""
    for option in PICTURES:
        _check_picture(option, getattr(args, option))
    if args.output:
        from vit_jax import records

        records.check_table(args.output, "--output")
    common.start_jax(args)

    run = checkpoints.load(args)
    modality, task = run.modality, run.task.name
    for option in PICTURES:
        if getattr(args, option) and option != modality.picture:
            raise UserError(f"--{option} does not apply to {task}; use --{modality.picture}")
    if args.output and not hasattr(run.task, "row"):
        raise UserError(f"the task {task} has no method `row`, so its answers cannot be written to a table")
    options = {name: getattr(args, name) for name in ("top", "beam_size") if getattr(args, name) is not None}
    if args.output and hasattr(run.task, "with_logits"):
        options["with_logits"] = True
    inputs = modality.read_inputs(args.inputs, args.text, run.config)
    options |= {"batch_size": args.batch_size, "on_error": "yield"}
    named, first = itertools.tee(inputs)
    frames = itertools.repeat({})
    if args.per_frame:
        first, second = itertools.tee(first)
        if not hasattr(run.encoder, "clips"):
            raise UserError(f"--per_frame applies to videos; this checkpoint takes {modality.inputs}")
        frames = run.with_views(clips=1).predict(_only_inputs(second), per_frame=True, **options)
    answers = run.predict(_only_inputs(first), **options)

    drawn, failed = [], False
    picture = getattr(args, modality.picture)
    with _answers(args, run) as write:
        everything = zip(itertools.count(), named, answers, frames, strict=False)
        for number, (name, stored), answer, by_frame in common.progress(everything, None, "predicting"):
            error = next((found for found in (answer, by_frame) if isinstance(found, UserError)), None)
            if error:
                failed = True
                print(f"vit_jax: skipped {name}: {str(error).removeprefix(f'{name}: ')}", file=sys.stderr)
                continue
            answer = {**answer, **({"frames": by_frame["frames"]} if by_frame else {})}
            write(number, name, answer)
            if picture and len(drawn) < MOST_DRAWN:
                drawn.append((name, stored, answer))
    if drawn:
        modality.draw(run, drawn, picture)
        print(f"vit_jax: wrote {picture}", file=sys.stderr)
    return 1 if failed else 0


@contextlib.contextmanager
def _answers(args: argparse.Namespace, run: Any) -> Iterator[Callable[[int, str, dict[str, Any]], None]]:
    """Yields a function that prints an answer, or adds it to the table in --output."""
    import jax

    from vit_jax import records

    def to_stdout(_: int, name: str, answer: dict[str, Any]) -> None:
        line = json.dumps({run.modality.input_name: name, **answer}) if args.json else run.task.text(name, answer)
        print(line, flush=True)

    if not args.output:
        yield to_stdout
        return
    with common.ending_at_sigterm(), records.open_table(None if jax.process_index() else args.output) as table:
        buffered = records.Buffered(table, args.batch_size)
        try:
            yield lambda number, name, answer: buffered.add({"id": number, "file": name, **run.task.row(answer)})
        finally:
            buffered.flush()
    if table is not None:
        print(f"vit_jax: wrote {args.output}: {counted(buffered.rows, 'rows')}", file=sys.stderr)


def _only_inputs(named: Any) -> Any:
    return (stored for _, stored in named)


def _check_picture(option: str, path: str | None) -> None:
    picture = pathlib.Path(path or "picture.png")
    if picture.suffix.lower() != ".png" or not picture.parent.is_dir():
        raise UserError(
            f"--{option}={picture} must be the name of a PNG file in an existing folder, such as picture.png"
        )
