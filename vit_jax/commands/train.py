"""Train and evaluate a model, or resume a run from its workdir.

Ctrl-C and SIGTERM save the state before the run stops. To resume it, run the same command again.

  python -m vit_jax train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m vit_jax train --config=configs/finetune.py --workdir=runs/flowers \\
      --config.init_from=runs/quickstart --config.data.path=DIR
"""

import argparse
import textwrap
from typing import Any

from vit_jax.commands.shared import common

HELP = "train a model, or resume a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:ARGS]",
        type=common.given,
        help="config file, for example configs/quickstart.py",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        type=common.given,
        help="directory that the run is written to and resumed from",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the result")
    parser.add_argument("--trust", action="store_true", help="import code outside vit_jax that init_from names")
    common.add_distributed(parser)
    parser.set_defaults(overrides=[])
    parser.epilog = "Any key of the config can be set as --config.KEY=VALUE:\n\n" + _keys()


def _keys() -> str:
    from vit_jax import config

    lines = []
    for name, key in config.keys().items():
        text = f"  {name}: {key.description} ({_default(key)})"
        lines.append(textwrap.fill(text, 116, subsequent_indent="      ", break_on_hyphens=False))
    return "\n".join(lines)


def _default(key: Any) -> str:
    value = key.default if key.unless_init is None else key.unless_init
    if value is dict:
        return "empty by default"
    if isinstance(value, type):
        return "unset by default" if key.values else f"{value.__name__}; unset by default"
    return "unset by default" if value in ((), "") else f"default: {value!r}"


def run(args: argparse.Namespace) -> int:
    from vit_jax import config
    from vit_jax.devices.recompute import keep_barriers

    settings = config.load_config(args.config, args.overrides)  # before JAX is loaded: mistakes show at once
    if common.computes_on_cpu():
        keep_barriers(settings)
    common.start_jax(args, settings.compilation_cache)
    import jax
    from etils import epath

    from vit_jax.config.extensions import import_paths
    from vit_jax.experiment import Experiment
    from vit_jax.load import load_run
    from vit_jax.plots import plot_curves
    from vit_jax.train import train_and_evaluate
    from vit_jax.workdir.metrics import read_metrics
    from vit_jax.workdir.provenance import recorded

    with recorded(args.workdir):
        experiment = Experiment.from_config(settings, args.workdir, trust=args.trust)
        result = train_and_evaluate(experiment, args.workdir, quiet=args.quiet)
    workdir = epath.Path(args.workdir)
    headline = f"{experiment.config.data.eval_split} {experiment.task.headline(result)}"
    is_main = jax.process_index() == 0
    if is_main:
        print(headline, flush=True)  # before the pictures, which may fail
    run = load_run(workdir, own=import_paths(experiment.config))
    files = run.modality.preview(run, workdir)  # all processes predict together
    if is_main:
        curves = plot_curves(read_metrics(workdir), workdir / "curves.png", run.task.metric, headline)
        print("wrote " + ", ".join(str(path) for path in (curves, *files)))
    return 0
