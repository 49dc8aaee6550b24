"""Count the parameters and multiply-accumulates of a model: by module, and by size of the input.

  python -m vit_jax analyze cost vit:B/16
  python -m vit_jax analyze cost runs/quickstart --depth=3 --csv=cost.csv
  python -m vit_jax analyze cost transformer:base --tokens=70
  python -m vit_jax analyze cost vit:B/16 --out=modules.pdf
  python -m vit_jax analyze cost vit:S/16 vit:B/16 --sides=224,384,512 --out=cost.pdf
  python -m vit_jax analyze cost timesformer:B/16 --schemes=joint_space_time,divided_space_time \\
      --sides=224,336,448,560 --frames=8,32,64,96 --out=figure3.pdf

A forward pass of one example is counted, without running it; see `vit_jax.analysis.cost` for what is counted. With
--sides or --frames, the cost at these sizes is drawn (TimeSformer, Figure 3).
"""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from vit_jax.commands.analyze import numbers
from vit_jax.commands.shared import common
from vit_jax.errors import UserError

HELP = "count multiply-accumulates by module and by size of the input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("models", nargs="+", metavar="MODEL", type=common.given, help="a model such as vit:B/16, or a run")
    option("--out", metavar="FILE", type=common.given, help="figure (.png, .pdf or .svg)")
    depth = "names in the path of a module that are shown (default: 4; 3 in a figure)"
    option("--depth", type=common.at_least(1), metavar="N", help=depth)
    tokens = "tokens of each sentence, for a Transformer (default: 64)"
    option("--tokens", type=common.at_least(1), default=64, metavar="N", help=tokens)
    option("--sides", type=_sizes, default=(), metavar="N,...", help="draw the cost at these heights and widths")
    option("--frames", type=_sizes, default=(), metavar="N,...", help="draw the cost at these numbers of frames")
    option("--schemes", metavar="NAME,...", type=common.given, help="attention types of a TimeSformer to compare")
    numbers.add_arguments(parser)


def _sizes(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*", text):
        raise argparse.ArgumentTypeError(f"must be whole numbers, such as 224,384, got {text!r}")
    return tuple(sorted(set(map(int, text.split(",")))))


def run(args: argparse.Namespace) -> int:
    """Prints the table, and draws the figure if asked for; returns 0."""
    from vit_jax.plots import check_path

    if args.out:
        check_path(args.out, "--out")
    by_size = bool(args.sides or args.frames)
    if by_size and not args.out:
        raise UserError("--sides and --frames draw a figure: name its file with --out")
    if not by_size and (len(args.models) > 1 or args.schemes):
        raise UserError("several models and --schemes are compared by size: add --sides or --frames, or name one model")
    common.start_jax(args)
    models = dict(pair for name in args.models for pair in _models(name, args))
    try:
        rows = list(_by_size(args, models) if by_size else _by_module(args, *models.values()))
    except ValueError as error:
        raise UserError(f"{', '.join(args.models)}: {error}") from error
    numbers.write(args, rows)
    return 0


def _models(name: str, args: argparse.Namespace) -> Iterator[tuple[str, tuple[Any, list[tuple[int, ...]]]]]:
    """Yields the model of a name or run, with the shapes of its inputs, once for each scheme."""
    model, shapes = _model(name, args.tokens)
    schemes = args.schemes.split(",") if args.schemes else [None]
    for scheme in schemes:
        if scheme is None:
            yield name, (model, shapes)
            continue
        from vit_jax.errors import nearest
        from vit_jax.models.blocks.timesformer import ATTENTIONS

        if not hasattr(model, "attention_type"):
            raise UserError(f"--schemes: {name} is not a TimeSformer, the family that has several")
        if scheme not in ATTENTIONS:
            raise UserError(f"--schemes={args.schemes}: no scheme {scheme!r}{nearest(scheme, ATTENTIONS)}")
        yield (scheme if len(args.models) == 1 else f"{name}, {scheme}"), (model.clone(attention_type=scheme), shapes)


def _model(name: str, tokens: int) -> tuple[Any, list[tuple[int, ...]]]:
    from etils import epath

    if ":" in name and not epath.Path(name).exists():
        from vit_jax.models import build_model

        try:
            model: Any = build_model(name)
        except ValueError as error:
            raise UserError(str(error)) from error
        sides = 2 if getattr(model, "architecture", "") == "encoder_decoder" else 1
        return model, [model.input_shape] if hasattr(model, "input_shape") else [(tokens,)] * sides
    from vit_jax.load import load_run

    run = load_run(name)
    return run.model, [x.shape[1:] for x in run.task.init_inputs(run.model)]


def _by_module(args: argparse.Namespace, one: tuple[Any, list[tuple[int, ...]]]) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.cost import cost
    from vit_jax.plots.cost import plot_modules

    found = cost(one[0], *one[1])
    rows = found.table(args.depth or 4)
    if args.out:
        plot_modules(args.out, found.table(args.depth or 3))
    if not args.json:
        print(f"{'module':<40} {'parameters':>16} {'':>7} {'multiply-accumulates':>22}")
    for module, params, macs in rows:
        *above, name = module.split("/")
        label = "  " * (len(above) + 1) + name if module else "all"
        shares = f"{params / max(found.params, 1):7.1%}", f"{macs / max(found.macs, 1):7.1%}"
        if not args.json:
            print(f"{label:<40} {params:>16,} {shares[0]} {macs:>22,} {shares[1]}")
        yield {"module": module, "parameters": params, "macs": macs}


def _by_size(args: argparse.Namespace, models: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.cost import cost_by_size
    from vit_jax.plots.cost import plot_costs

    panels: dict[str, dict[str, dict[int, float]]] = {}
    for name, (model, _) in models.items():
        for axis, costs in cost_by_size(model, args.sides, args.frames).items():
            panels.setdefault(axis, {})[name] = {size: found.macs for size, found in costs.items()}
            for size, found in costs.items():
                yield {"model": name, "axis": axis, "size": size, "parameters": found.params, "macs": found.macs}
    plot_costs(args.out, panels)
