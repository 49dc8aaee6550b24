"""Trains a model, or goes on where the workdir was left, and evaluates it.

The same command resumes. Ctrl-C and SIGTERM save first.

  python -m vit_jax train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m vit_jax train --config=configs/folder.py --workdir=runs/flowers \\
      --config.data.path=DIR --config.init_from=runs/pretrained
"""

import argparse
import textwrap

from vit_jax.commands import common

HELP = "train a model, or resume a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARGS]", help="a config, as configs/quickstart.py")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run is written, and resumed from")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    common.add_distributed(parser)
    parser.set_defaults(overrides=[])
    parser.epilog = "any key of the config can be set as --config.KEY=VALUE:\n\n" + _keys()


def _keys() -> str:
    from vit_jax import config

    lines = []
    for name, key in config.keys().items():
        default = f"({key.default.__name__})" if isinstance(key.default, type) else repr(key.default)
        text = f"  {name}: {key.meaning} [{default}]"
        lines.append(textwrap.fill(text, 116, subsequent_indent="      ", break_on_hyphens=False))
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    from vit_jax import config

    settings = config.load_config(args.config, args.overrides)  # before JAX is loaded: mistakes show at once
    common.start_jax(args, settings.compilation_cache)
    import jax

    from vit_jax.plots import plot_curves
    from vit_jax.predict import plot_predictions
    from vit_jax.provenance import recorded
    from vit_jax.train import train_and_evaluate

    with recorded(args.workdir):
        result = train_and_evaluate(settings, args.workdir, quiet=args.quiet)
    if jax.process_index() == 0:
        pictures = [plot_curves(args.workdir), plot_predictions(args.workdir)]
        print(f"test accuracy {result['top1']:.2%} ({result['examples']} examples, {result['skipped']} skipped)")
        print("pictures: " + ", ".join(str(path) for path in pictures))
    return 0
