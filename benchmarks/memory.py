"""Memory of a training step of TimeSformer-B at 224 px by frames, by what remat keeps, and by devices per clip.

The step is that of training (AdamW, float32 parameters, one clip), compiled on shapes for one device, or with
`--devices` for simulated devices under fsdp, one clip for each group of `--devices_per_clip`. XLA's analysis of the
compiled program says what it allocates; `--run` also runs it once and records the resident memory of the process.

  python -m benchmarks.memory --attention_type joint_space_time --frames 8 32 96 --csv benchmarks/results/memory.csv
  python -m benchmarks.memory --frames 96 --devices 8 --devices_per_clip 1 2 4 8 --scan_layers --csv FILE
  python -m benchmarks.memory --figure benchmarks/results/memory.png --csv benchmarks/results/memory.csv
"""

import argparse
import csv
import itertools
import os
import pathlib
import resource
import time

COLUMNS = (
    "date", "commit", "device", "model", "attention_type", "frames", "tokens", "layers", "dtype", "kernel", "remat",
    "peak_gib", "state_gib", "temporary_gib", "seconds", "resident_gib", "scan_layers", "devices", "devices_per_clip",
    "versions",
)  # fmt: skip
GIB = 2**30


def experiment_of(args: argparse.Namespace, frames: int, remat: str, devices_per_clip: int):
    """Returns the experiment of a config, without data."""
    from vit_jax.config import default_config
    from vit_jax.data.unread import unread_data
    from vit_jax.experiment import Experiment, complete

    config = default_config()
    config.model.update(name=args.model, attention_type=args.attention_type, remat=remat, dtype=args.dtype)
    config.model.update(attention_kernel=args.kernel, scan_layers=args.scan_layers)
    if args.layers:
        config.model.num_layers = args.layers
    config.data.update(name="video", num_frames=frames, image_size=(args.size, args.size))
    config.update(batch_size=args.devices // devices_per_clip, duration="1000 steps")
    config.update(parallel="pmap" if args.devices == 1 else "fsdp", devices_per_clip=devices_per_clip)
    config = complete(config)
    return Experiment.assemble(config, unread_data(config, 400, None))


def run_once(experiment) -> tuple[float, float]:
    """Returns the seconds of a step on zeros, and the largest resident memory of this process in GiB."""
    import jax
    import jax.numpy as jnp

    from vit_jax.state import start
    from vit_jax.train import compile_step

    (shapes,) = experiment.data.batch_shapes(experiment.config.batch_size)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state, _ = start(experiment)
    started = time.perf_counter()
    state, sums = compile_step(experiment)(state, experiment.parallel.put_batch(batch))
    jax.block_until_ready((state, sums))
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(args: argparse.Namespace) -> None:
    import jax

    from benchmarks import records
    from vit_jax.analysis.plan import step_memory

    table = records.Table(args.csv, COLUMNS)
    device = jax.devices()[0]
    for frames, remat, devices_per_clip in itertools.product(args.frames, args.remat, args.devices_per_clip):
        experiment = experiment_of(args, frames, remat, devices_per_clip)
        memory = step_memory(experiment, experiment.config.batch_size)
        seconds, resident = run_once(experiment) if args.run else (None, None)
        model = experiment.model
        table.add(
            date=records.today(), commit=records.commit(), model=args.model, attention_type=args.attention_type,
            device=records.processor() if device.platform == "cpu" else device.device_kind,
            frames=frames, tokens=1 + frames * model.grid[0] * model.grid[1], layers=model.num_layers,
            dtype=args.dtype, kernel=args.kernel, remat=remat, peak_gib=memory.peak / GIB,
            state_gib=memory.state / GIB, temporary_gib=memory.temporary / GIB, seconds=seconds,
            resident_gib=resident, scan_layers=args.scan_layers, devices=args.devices,
            devices_per_clip=devices_per_clip, versions=records.versions(["jax", "jaxlib"]),
        )  # fmt: skip
        where = f"{frames} frames, {remat}, {devices_per_clip} devices per clip"
        print(f"{args.attention_type} {where}: {memory.peak / GIB:.2f} GiB", flush=True)


def draw(table: pathlib.Path, path: str) -> None:
    """Draws the peak of the whole model on one device by frames, a line for each setting with several rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["layers"] == "12" and row["devices"] == "1"]
    lines: dict[tuple[str, ...], dict[int, float]] = {}
    for row in rows:  # the newest row of a setting counts
        key = (row["attention_type"], row["kernel"], row["remat"], row["scan_layers"])
        lines.setdefault(key, {})[int(row["frames"])] = float(row["peak_gib"])
    figure, axes = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
    colours = {"joint_space_time": "#0072b2", "divided_space_time": "#d55e00"}
    dashes = {"none": "-", "full": "--", "branches": ":"}
    for (scheme, kernel, remat, scan_layers), values in sorted(lines.items()):
        if len(values) < 2:
            continue  # a single measurement is no line
        frames = sorted(values)
        style = {"color": colours[scheme], "linestyle": dashes.get(remat, "-."), "marker": "os"[scan_layers == "True"]}
        label = f"{scheme.removesuffix('_space_time')}, remat {remat}"
        label += ", scanned" if scan_layers == "True" else ""
        label += "" if kernel == "auto" else f", {kernel}"
        axes.plot(frames, [values[f] for f in frames], markersize=3, label=label, **style)
    axes.set(xlabel="frames of 224 x 224 px", ylabel="GiB in a train step", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="timesformer:B/16")
    parser.add_argument("--attention_type", default="joint_space_time")
    parser.add_argument("--frames", type=int, nargs="*", default=[])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--scan_layers", action="store_true")
    parser.add_argument("--devices", type=int, default=1, help="simulate several devices on the CPU")
    parser.add_argument("--devices_per_clip", type=int, nargs="+", default=[1])
    parser.add_argument("--remat", nargs="+", default=["full"])
    parser.add_argument("--run", action="store_true", help="also run the step once")
    parser.add_argument("--csv", type=pathlib.Path, default=pathlib.Path("/tmp/memory.csv"))
    parser.add_argument("--figure", help="draw the rows of the CSV file to this PNG file")
    args = parser.parse_args()
    if args.devices > 1:  # JAX has not started yet
        os.environ["JAX_PLATFORMS"] = "cpu"
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={args.devices}".strip()
    if args.frames:
        measure(args)
    if args.figure:
        draw(args.csv, args.figure)


if __name__ == "__main__":
    main()
