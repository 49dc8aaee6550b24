"""Tell what a training run needs, without allocating it: memory by strategy and remat, steps, hours, input rate.

  python -m vit_jax plan --config=configs/vit.py:B/16,imagenet2012 --num_classes=1000 --examples=1281167 \\
      --devices=8 --strategy=pmap,fsdp --remat=none,dots,full --memory=80 --peak_tflops=989
  python -m vit_jax plan --config=configs/transformer.py:base --json

The training step is compiled on shapes, and XLA's analysis of the compiled program says what it allocates. With
--devices, the devices are simulated on the CPU; a GPU or TPU may need somewhat more or less. See docs/devices.md.
"""

import argparse
import json
import os
import sys
from typing import Any

from vit_jax.commands.shared import common

HELP = "tell what a run needs: memory, batch size, hours"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option, count = parser.add_argument, common.at_least(1)
    option("--config", required=True, metavar="FILE.py[:ARGS]", type=common.given, help="config file, as for train")
    option("--devices", type=count, metavar="N", help="simulate N devices; the devices of this machine if left out")
    option("--strategy", type=_several("parallel"), default=(), metavar="A,B", help="compare values of config.parallel")
    option(
        "--remat", type=_several("model.remat"), default=(), metavar="A,B", help="compare values of config.model.remat"
    )
    option("--num_classes", type=count, metavar="N", help="number of classes, so that the data need not be read")
    option("--examples", type=count, metavar="N", help="number of training examples, for a duration in epochs")
    option("--memory", type=_positive, metavar="GIB", help="find the largest batch for this memory of one device")
    option("--peak_tflops", type=_positive, metavar="X", help="peak of one device, in 10^12 operations per second")
    option("--utilisation", type=_positive, default=0.4, metavar="X", help="fraction of the peak that is reached")
    option("--json", action="store_true", help="print JSON")
    parser.set_defaults(overrides=[])
    parser.epilog = "Any key of the config can be set as --config.KEY=VALUE, see train --help."


def run(args: argparse.Namespace) -> int:
    from vit_jax import config

    settings = config.load_config(args.config, args.overrides)
    if args.devices:
        _simulate(args.devices)
    common.silence_libraries()
    from vit_jax.analysis.plan import make_plan

    plan = make_plan(
        settings,
        strategies=args.strategy,
        remats=args.remat,
        num_classes=args.num_classes,
        examples=args.examples,
        memory=args.memory and args.memory * 2**30,
        peak_tflops=args.peak_tflops,
        utilisation=args.utilisation,
    )
    print(json.dumps(plan.to_dict(), indent=2) if args.json else "\n".join(describe(plan, args)))
    return 0


def describe(plan: Any, args: argparse.Namespace) -> list[str]:
    """Returns the lines that the command prints."""
    from vit_jax.errors import counted

    lines = [
        f"{counted(plan.params, 'parameters')}; {plan.macs / 1e9:,.1f} GMAC forward per batch of {plan.batch_size:,} "
        f"{plan.unit}",
        f"{counted(plan.steps, 'steps')} on {counted(plan.devices, f'{plan.device_kind} devices')}",
    ]
    if plan.hours is not None:
        lines.append(
            f"{plan.hours:,.1f} hours at {args.utilisation:.0%} of {args.peak_tflops:g} TFLOP/s a device: "
            f"{plan.seconds_per_step * 1e3:,.1f} ms per step, {plan.rows_per_second:,.0f} examples/s of input"
        )
    largest = "" if args.memory is None else f"{f'largest batch in {args.memory:g} GiB':>28}"
    lines.append(f"{'parallel':<10}{'remat':<12}{'GiB a device':>14}{'state':>9}{'batch':>9}{'temporary':>11}{largest}")
    for layout in plan.layouts:
        peak, *parts = (getattr(layout.memory, name) / 2**30 for name in ("peak", "state", "batch", "temporary"))
        row = f"{layout.strategy:<10}{layout.remat:<12}{peak:>14.3f}{parts[0]:>9.3f}{parts[1]:>9.3f}{parts[2]:>11.3f}"
        lines.append(row + ("" if layout.largest_batch is None else f"{layout.largest_batch or 'none':>28}"))
    return lines


def _simulate(devices: int) -> None:
    """Makes JAX, which must not have started yet, simulate devices on the CPU."""
    from vit_jax.errors import UserError

    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_platforms", "cpu")
        if jax.device_count() != devices:
            raise UserError(f"--devices={devices}: JAX has started with {jax.device_count()}. Use a new process.")


def _positive(text: str) -> float:
    """An argument type: numbers above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def _several(key: str) -> Any:
    """Returns an argument type: values of a key of the config, separated by commas."""
    legal = common.legal(key)
    return lambda text: tuple(legal(part) for part in text.split(","))
