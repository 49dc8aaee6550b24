"""Draw how fast the tokens become equal with depth: rank collapse.

  python -m vit_jax analyze rank runs/quickstart --out=depth.pdf
  python -m vit_jax analyze rank runs/quickstart --what=decay --out=decay.pdf
  python -m vit_jax analyze rank runs/quickstart --what=paths --examples=64 --out=paths.pdf --csv=paths.csv
  python -m vit_jax analyze rank runs/messages --out=depth.svg --json

- `depth`: the relative residual of the tokens after each block, with skip connections and MLPs switched off and on, for
  the trained parameters and for the initial ones of the same model.
- `decay`: the residual of attention alone, without layer norms, next to the bound of the paper.
- `paths`: the output as a sum over paths through the heads, by the length of the path; for a classifier also the
  accuracy from the paths up to each length.
- `heads`: the heads as a grid, and the strongest short and long path through them.
- `lengths`: the share of paths of each length in the run's model, and in the models of the papers.

"Attention is not all you need: pure attention loses rank doubly exponentially with depth" (arXiv:2103.03404). For
ViT, TimeSformer, and the encoder of a Transformer.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vit_jax.commands.analyze import numbers
from vit_jax.commands.shared import checkpoints, common
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

HELP = "draw how fast tokens become equal with depth"
_WHAT = ("depth", "decay", "paths", "heads", "lengths")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    option = parser.add_argument
    option("--out", required=True, metavar="FILE", type=common.given, help="figure (.png, .pdf or .svg)")
    option("--what", choices=_WHAT, default="depth", help="what is drawn (default: depth)")
    option("--norm", choices=("composite", "frobenius"), default="composite", help="norm of depth and paths")
    count = "examples of the evaluation split (default: 8)"
    option("--examples", type=common.at_least(1), default=8, metavar="N", help=count)
    option(
        "--seed", type=common.at_least(0), default=0, metavar="N", help="seed of the initial parameters (default: 0)"
    )
    numbers.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draws the figure; returns 0."""
    from vit_jax.plots import check_path

    check_path(args.out, "--out")
    common.start_jax(args)
    run = checkpoints.load(args).one_view()
    inputs, labels = _examples(run, args.examples)
    draw = {"depth": _depth, "decay": _decay, "paths": _paths, "heads": _heads, "lengths": _lengths}[args.what]
    numbers.write(args, draw(args, run, inputs, labels))
    return 0


def _examples(run: Any, count: int) -> tuple[tuple[Any, ...], Any]:
    """Returns the model's inputs for the first examples of the evaluation split, and their labels (None for text)."""
    import numpy as np

    from vit_jax.data.loading.levels import as_floats
    from vit_jax.data.source import Subset

    source = run.open_split()
    source = Subset(source, list(range(min(count, len(source)))))
    if not hasattr(run.task, "model_inputs"):
        raise UserError(f"the task {run.task.name} has no `model_inputs`, by which analyses find the model's inputs")
    import jax.numpy as jnp

    inputs, labels = [], []
    for batch in run.batches(source)[0]:
        real = {name: values[batch["mask"] > 0] for name, values in as_floats(batch).items()}
        inputs.append([np.asarray(x) for x in run.task.model_inputs(real)])
        labels.extend([real["label"]] if "label" in real else [])
    joined = tuple(jnp.asarray(_joined(arrays)) for arrays in zip(*inputs, strict=True))
    return joined, np.concatenate(labels) if labels else None


def _joined(arrays: "Sequence[np.ndarray]") -> "np.ndarray":
    """Joins batches; shorter sentences are padded with zeros, the token that is ignored."""
    import numpy as np

    width = max(array.shape[1] for array in arrays)
    return np.concatenate(
        [np.pad(array, ((0, 0), (0, width - array.shape[1]), *((0, 0),) * (array.ndim - 2))) for array in arrays]
    )


def _initial(run: Any, inputs: tuple[Any, ...], seed: int) -> Any:
    import jax

    return run.model.init(jax.random.key(seed), *(x[:1] for x in inputs), train=False)["params"]


def _depth(args: argparse.Namespace, run: Any, inputs: Any, labels: Any) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.rank.branches import Parts
    from vit_jax.analysis.rank.collapse import VARIANTS, residuals_by_depth
    from vit_jax.plots.rank import plot_depth

    variants = [*VARIANTS, *(Parts(parts.skip, parts.mlp, norm=False) for parts in VARIANTS)]
    drawn = variants[: len(VARIANTS) + 1]  # of those without layer norms, attention alone
    found = {
        title: residuals_by_depth(run.model, params, *inputs, variants=variants, norm=args.norm)
        for title, params in (("initial", _initial(run, inputs, args.seed)), (f"step {run.step:,}", run.params))
    }
    plot_depth(args.out, {title: {parts: curves[parts] for parts in drawn} for title, curves in found.items()})
    for title, curves in found.items():
        for parts, values in curves.items():
            for depth, of_examples in enumerate(values.T):
                yield {
                    "parameters": title,
                    "network": str(parts),
                    "blocks": depth,
                    "residual": of_examples.mean(),
                    "deviation": of_examples.std(),
                    "examples": len(of_examples),
                }


def _decay(args: argparse.Namespace, run: Any, inputs: Any, labels: Any) -> Iterator[dict[str, Any]]:
    import numpy as np

    from vit_jax.analysis.rank.collapse import decay
    from vit_jax.plots.rank import plot_decay

    found = {
        title: decay(run.model, params, *inputs)
        for title, params in (("initial", _initial(run, inputs, args.seed)), (f"step {run.step:,}", run.params))
    }
    plot_decay(args.out, found)
    for title, each in found.items():
        for (example, blocks), residual in np.ndenumerate(each.residual):
            yield {
                "parameters": title,
                "example": example,
                "blocks": blocks,
                "log10_residual": residual,
                "log10_step_bound": each.step_bound[example, blocks],
                "log10_bound": each.bound[example, blocks],
                "condition_holds": bool(each.holds[example, blocks]),
            }


def _paths(args: argparse.Namespace, run: Any, inputs: Any, labels: Any) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.rank.branches import Parts, open_stack
    from vit_jax.analysis.rank.paths import heads_of, outputs_by_length, paths_by_length, share_of_lengths, summary
    from vit_jax.plots.rank import plot_paths

    stack = open_stack(run.model, run.params, *inputs)
    found = summary(paths_by_length(stack, Parts()), stack.real, args.norm)
    heads = heads_of(stack)
    counts, accuracy = share_of_lengths(len(heads), heads[0]), None
    if labels is not None:
        outputs = outputs_by_length(run.model, run.params, *inputs)
        accuracy = (outputs.argmax(axis=-1) == labels).mean(axis=-1)
    plot_paths(
        args.out,
        found["residual"],
        found["share"],
        counts,
        None if accuracy is None else {"accuracy, up to here": accuracy},
    )
    for length, count in enumerate(counts):
        row = {
            "length": length,
            "residual": found["residual"][length].mean(),
            "share_of_output": found["share"][length].mean(),
            "share_of_paths": count,
            "examples": found["share"].shape[1],
        }
        yield row if accuracy is None else {**row, "top1_up_to_it": accuracy[length]}


def _heads(args: argparse.Namespace, run: Any, inputs: Any, labels: Any) -> Iterator[dict[str, Any]]:
    import numpy as np

    from vit_jax.analysis.rank.branches import open_stack
    from vit_jax.analysis.rank.paths import single_heads, strongest_path
    from vit_jax.plots.rank import plot_two_paths

    stack = open_stack(run.model, run.params, *inputs)
    share = single_heads(stack, args.norm)
    short, long = strongest_path(share, 1), strongest_path(share, len(share))
    plot_two_paths(args.out, share, [short, long], ["strongest path of length 1", "strongest head of every attention"])
    for (attention, head), value in np.ndenumerate(share):
        yield {"attention": attention, "head": head, "share_of_output": value}


def _lengths(args: argparse.Namespace, run: Any, inputs: Any, labels: Any) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.rank.branches import open_stack
    from vit_jax.analysis.rank.paths import heads_of, share_of_lengths
    from vit_jax.models import transformer, vit
    from vit_jax.plots.rank import plot_lengths

    heads = heads_of(open_stack(run.model, run.params, *inputs))
    sizes = {"this run": (len(heads), heads[0])}
    for family, variants in (("ViT", vit.VARIANTS), ("Transformer", transformer.VARIANTS)):
        sizes |= {f"{family}-{name}": (each["num_layers"], each["num_heads"]) for name, each in variants.items()}
    shares = {name: share_of_lengths(*size) for name, size in sizes.items()}
    plot_lengths(args.out, shares)
    for name, values in shares.items():
        for length, share in enumerate(values):
            yield {
                "model": name,
                "attentions": sizes[name][0],
                "heads": sizes[name][1],
                "length": length,
                "share": share,
            }
