"""Draw what a model attends to: over images, over the frames of a clip, or between the tokens of a sentence.

  python -m vit_jax analyze attention runs/quickstart three.png four.png --out=attention.pdf
  python -m vit_jax analyze attention runs/quickstart three.png --method=weights --layer=2 --head=0 --out=head.png
  python -m vit_jax analyze attention runs/quickstart three.png --method=gradient --class=8 --out=eight.svg
  python -m vit_jax analyze attention runs/motion clip.mp4 --out=strip.png
  python -m vit_jax analyze attention runs/motion clip.mp4 --kind=temporal --out=attention.gif --csv=attention.csv
  python -m vit_jax analyze attention runs/messages --text "Save the file" --kind=cross --out=tokens.pdf

Over an image or a clip, a map says how much each patch contributes to the output, through all layers (rollout,
gradient) or one layer (weights). With --kind, it is how much attention of one kind each patch receives in one layer.
Between tokens, rows attend to columns, in one layer (weights) or through all layers (rollout).
"""

import argparse
import csv
import json
from typing import TYPE_CHECKING, Any

from vit_jax.commands.shared import checkpoints, common
from vit_jax.errors import UserError, counted, nearest

if TYPE_CHECKING:
    import numpy as np

HELP = "draw what a model attends to"
_METHODS = ("weights", "rollout", "gradient")
_MOST_IMAGES = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    files = f"up to {_MOST_IMAGES} images; one video, or a folder of its frames; or a text file with one sentence"
    parser.add_argument("inputs", nargs="*", metavar="FILE", type=common.given, help=files)
    parser.add_argument("--text", metavar="SENTENCE", type=common.given, help="a sentence, which is translated")
    example = "example N of the run's evaluation split, counted from 0, in place of files"
    parser.add_argument("--example", metavar="N", type=common.at_least(0), help=example)
    out = "figure (.png, .pdf or .svg), or for a clip a film (.gif or .mp4)"
    parser.add_argument("--out", required=True, metavar="FILE", type=common.given, help=out)
    method = "default: rollout; for sentences and with --kind, weights"
    parser.add_argument("--method", choices=_METHODS, help=method)
    layer = "layer of weights, or the last one of rollout and gradient; negative ones count from the last (default: -1)"
    parser.add_argument("--layer", type=int, default=-1, metavar="I", help=layer)
    head = "one head, with --method=weights (default: mean of all)"
    parser.add_argument("--head", type=common.at_least(0), metavar="I", help=head)
    label = "class to explain, with --method=gradient (default: the most probable)"
    parser.add_argument("--class", dest="label", metavar="NAME", type=common.given, help=label)
    kind = "one kind of attention: temporal, spatial, ... of a TimeSformer; inner (words) or outer of a TNT; encoder, "
    kind += "decoder or cross of a Transformer"
    parser.add_argument("--kind", metavar="KIND", type=common.given, help=kind)
    numbers = parser.add_mutually_exclusive_group()
    numbers.add_argument("--json", action="store_true", help="also print the numbers, one JSON object per input")
    numbers.add_argument("--csv", metavar="FILE", type=common.given, help="also write the numbers, one row for each")


def run(args: argparse.Namespace) -> int:
    """Draws the attention for all inputs; returns 0."""
    from vit_jax.plots import check_path
    from vit_jax.plots.attention import FILMS

    check_path(args.out, "--out", also=FILMS)
    common.start_jax(args)
    run = checkpoints.load(args).one_view()

    from vit_jax.models.transformer import Transformer

    draw = _draw_tokens if isinstance(run.model, Transformer) else _draw_maps
    try:
        draw(run, args)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    return 0


def _read(run: Any, args: argparse.Namespace, most: int) -> list[tuple[str, Any]]:
    """Returns the inputs as (name, input).

    Raises:
      UserError: One of them cannot be read, or there are more than `most`.
    """
    if args.example is not None:
        if args.inputs or args.text:
            raise UserError(f"--example={args.example} takes the place of files and --text; give one of them")
        return [_example(run, args.example)]
    found = []
    for name, stored in run.modality.read_inputs(args.inputs, [args.text] if args.text else [], run.config):
        if isinstance(stored, UserError):
            raise stored
        found.append((name, stored))
        if len(found) > most:
            raise UserError(f"one figure shows at most {counted(most, run.modality.inputs)}; name fewer")
    return found


def _example(run: Any, number: int) -> tuple[str, Any]:
    """Returns an example of the evaluation split as (name, input)."""
    source = run.open_split()
    if number >= len(source):
        raise UserError(f"--example={number}: {source.name} {source.split} has examples 0 to {len(source) - 1}")
    (example,) = source.__getitems__([number])
    return f"{source.name} {source.split} {number}", example[run.modality.input_name]


# Images and clips


def _draw_maps(run: Any, args: argparse.Namespace) -> None:
    import numpy as np

    from vit_jax.analysis.attention.pictures import as_pictures
    from vit_jax.plots.attention import FILMS, film, plot_clip, plot_images

    is_clip, is_film = len(run.model.input_shape) == 4, args.out.lower().endswith(FILMS)
    if is_film and not is_clip:
        raise UserError(f"--out={args.out}: a film needs a clip; this run is on {run.modality.inputs}")
    found = _read(run, args, 1 if is_clip else _MOST_IMAGES)
    names = [name for name, _ in found]
    rows = np.stack([_encoded(run, name, stored) for name, stored in found])
    maps = _maps(run, rows, args)
    pictures = as_pictures(run.encoder, rows)
    label = f"{args.kind} attention received" if args.kind else "attention per patch"
    if is_film:
        film(args.out, pictures[0], maps[0])
    elif is_clip:
        plot_clip(args.out, pictures[0], maps[0], names[0], label=label)
    else:
        plot_images(args.out, list(pictures), list(maps), names, label=label)
    axes = ("frame", "row", "column")[-(maps.ndim - 1) :]
    _write_numbers(args, [({"input": name}, axes, values) for name, values in zip(names, maps, strict=True)])


def _encoded(run: Any, name: str, stored: Any) -> "np.ndarray":
    """Returns the model's input.

    Raises:
      UserError: A clip has fewer frames than the model, so that some would be shown twice.
    """
    wanted, there = getattr(run.encoder, "num_frames", 0), getattr(stored, "num_frames", 0)
    if there < wanted:
        raise UserError(f"{name}: {counted(there, 'frames')}, but the model takes {wanted}; use a longer clip")
    return run.encoder.rows(stored, None)[0]


def _maps(run: Any, rows: "np.ndarray", args: argparse.Namespace) -> "np.ndarray":
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vit_jax.analysis import attention_map, received_attention

    classes: Any = None
    if args.label is not None:
        if args.label not in run.labels:
            raise UserError(f"--class={args.label}: no such class{nearest(args.label, run.labels)}")
        classes = jnp.full(len(rows), run.labels.index(args.label))
    if args.kind and (args.method not in (None, "weights") or args.label):
        raise UserError(f"--kind={args.kind} applies to --method=weights, without --class")

    @jax.jit
    def compute(params, rows):
        one = {"layer": args.layer, "head": args.head}
        if args.kind:
            return received_attention(run.model, params, rows, args.kind, **one)
        return attention_map(run.model, params, rows, method=args.method or "rollout", classes=classes, **one)

    return np.asarray(compute(run.params, rows))


# Sentences


def _draw_tokens(run: Any, args: argparse.Namespace) -> None:
    from vit_jax.analysis.attention.translations import PANELS, translation_attention
    from vit_jax.plots.attention import FILMS, plot_tokens

    if args.out.lower().endswith(FILMS):
        raise UserError(f"--out={args.out}: a film needs a clip; this run is on {run.modality.inputs}")
    if args.label is not None:
        raise UserError(f"--class={args.label}: a run on {run.modality.inputs} has no classes")
    found = _read(run, args, 1)
    if not found:
        raise UserError("no sentence was given; use --text")
    sentence = found[0][1]
    (answer,) = run.predict([sentence])
    options = {"method": args.method or "weights", "layer": args.layer, "head": args.head}
    matrices, tokens = translation_attention(run, sentence, answer["translation"], **options)
    if args.kind and args.kind not in matrices:
        raise UserError(f"--kind={args.kind}: the model has {', '.join(matrices)}")
    matrices = {kind: values for kind, values in matrices.items() if args.kind in (None, kind)}
    panels = [(PANELS[kind].title, values, *PANELS[kind].of(tokens)) for kind, values in matrices.items()]
    plot_tokens(args.out, panels)
    _write_numbers(
        args,
        [
            ({"input": sentence, "translation": answer["translation"], "kind": kind}, ("query", "key"), values)
            for kind, values in matrices.items()
        ],
    )


def _write_numbers(
    args: argparse.Namespace, arrays: "list[tuple[dict[str, str], tuple[str, ...], np.ndarray]]"
) -> None:
    """Writes arrays, each given as (what it is, names of its axes, values), as JSON or CSV if asked for."""
    import numpy as np

    if args.json:
        for about, _, values in arrays:
            print(json.dumps({**about, "attention": values.tolist()}))
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow((*arrays[0][0], *arrays[0][1], "attention"))
            for about, _, values in arrays:
                writer.writerows((*about.values(), *index, f"{value:.6g}") for index, value in np.ndenumerate(values))
