"""Trains a model, or goes on where the workdir was left, and evaluates it.

The same command resumes. Ctrl-C and SIGTERM save first.

  python -m vit_jax train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m vit_jax train --config=configs/folder.py --workdir=runs/flowers \\
      --config.data.path=DIR --config.init_from=runs/pretrained
"""

import argparse
import pathlib
import textwrap
from typing import Any

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

    from vit_jax.experiment import load_run
    from vit_jax.plots import plot_curves
    from vit_jax.train import train_and_evaluate
    from vit_jax.workdir.provenance import recorded

    with recorded(args.workdir):
        result = train_and_evaluate(settings, args.workdir, quiet=args.quiet)
    if jax.process_index() == 0:
        run = load_run(args.workdir)
        headline = run.task.headline(result)
        print(f"test {headline}", flush=True)  # first: a picture may fail
        files = [plot_curves(args.workdir, run.task.metric, headline), *_show_predictions(run, args.workdir)]
        print("to look at: " + ", ".join(str(path) for path in files))
    return 0


def _show_predictions(run: Any, workdir: str) -> list[pathlib.Path]:
    """Writes what the model makes of some examples of the evaluation split; returns the files."""
    directory = pathlib.Path(workdir)
    if run.preprocessing.key == "text":
        from vit_jax.translate import write_translations

        return write_translations(run, directory)
    from vit_jax.predict import plot_predictions

    return [plot_predictions(run, directory / "predictions.png")]
