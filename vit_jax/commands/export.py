"""Export a trained model for programs without vit_jax: a StableHLO artefact for JAX, or an ONNX file.

  python -m vit_jax export runs/quickstart digits            # needs only jax and flatbuffers to predict
  python -m vit_jax export runs/quickstart digits-onnx --format=onnx --license=apache-2.0
  python -m vit_jax export b16-timm b16 --platforms=cpu,tpu  # foreign weights: a folder with config.json

OUT is a folder with the artefact, labels.json, preprocessing.json and a model card, README.md, that shows how to load
it. See docs/export.md.
"""

import argparse
import dataclasses
from typing import Any

from vit_jax.commands.shared import checkpoints, common, foreign

HELP = "export a model for programs without vit_jax: StableHLO or ONNX"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    option = parser.add_argument
    option("target", metavar="OUT", type=common.given, help="folder to create")
    option("--format", type=common.given, default="stablehlo", help="stablehlo or onnx (default: stablehlo)")
    option(
        "--platforms",
        type=_names,
        metavar="NAME,...",
        help="platforms of a StableHLO artefact, of cpu, cuda, rocm and tpu (default: cpu,cuda,tpu)",
    )
    add_license(parser)


def add_license(parser: argparse.ArgumentParser) -> None:
    """Adds the option that sets the licence of a model card."""
    parser.add_argument(
        "--license",
        type=common.given,
        default="unknown",
        metavar="ID",
        help="licence of the model card, such as apache-2.0 (default: unknown)",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def run(args: argparse.Namespace) -> int:
    common.start_jax(args)
    from vit_jax.architecture import is_run
    from vit_jax.errors import UserError
    from vit_jax.export.model_card import model_card
    from vit_jax.export.stablehlo import DEFAULT_PLATFORMS, export_run, serve

    if args.platforms and args.format != "stablehlo":
        raise UserError(f"--platforms applies to --format=stablehlo, not to {args.format}")
    if args.name and is_run(args.checkpoint):
        raise UserError(f"--name applies to foreign weights; {args.checkpoint} is a run and states its model")
    source, task, encoder, origin = _run(args) if is_run(args.checkpoint) else _foreign(args)

    def card(loading: str) -> str:
        described = {"labels": source.labels, "encoder": encoder, "license": args.license, "loading": loading}
        return model_card(source.model, source.params, origin, **described)

    served = serve(source.model, source.params, task, encoder)
    platforms = args.platforms or DEFAULT_PLATFORMS
    export_run(args.target, served, args.format, card, labels=source.labels, encoder=encoder, platforms=platforms)
    print(f"wrote {args.target}")
    return 0


def _run(args: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """Loads a run; returns it with its task, encoder and origin."""
    from vit_jax.export.model_card import origin_of_run

    run = checkpoints.load(args)
    origin = origin_of_run(run)
    if args.average > 1:  # the recorded scores are those of one checkpoint
        origin = dataclasses.replace(origin, metrics=(), notes=(f"mean of the newest {args.average} checkpoints",))
    return run, run.task, run.encoder, origin


def _foreign(args: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """Loads foreign weights; returns them with a task, the encoder and their origin."""
    from vit_jax.tasks.classification import Classification
    from vit_jax.weights import from_pretrained

    loaded = from_pretrained(args.checkpoint, trust=args.trust, **foreign.given(args))
    task = Classification(num_classes=loaded.model.num_classes)  # pyright: ignore[reportAttributeAccessIssue]
    return loaded, task, loaded.preprocessing, loaded.origin
