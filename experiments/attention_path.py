"""Attention on moving objects: whether the maps of a trained TimeSformer follow the object through a clip.

python -m vit_jax train --config=configs/timesformer.py:motion --workdir=runs/motion8 \\
    --config.model.name=timesformer:Ti/8 --config.duration="3 epochs"
python experiments/attention_path.py runs/motion8      # writes results/analysis/attention_path.csv, prints a table

The place of the object in every frame of a test clip is known, because clip i is drawn from the seed and i. For each
kind of map the report contains, over the first clips of the test split,

- `on_object`: share of a map, among its patches, on those whose centre is within the object's square;
- `area`: share of these patches among all, which is what a map without any preference has;
- `ratio`: the first divided by the second;
- `shuffled`: the same ratio for maps whose frames are exchanged at random. A map that only knows which places the
  object crosses at any time has the same value in both; the difference is what it knows about when.
"""

import argparse
import csv
import datetime
import functools
import itertools
import pathlib
from typing import Any

import jax
import numpy as np
from results import HERE

from vit_jax.analysis import attention, attention_map, received_attention
from vit_jax.data.sets.motion import CYCLE, Motion, MotionConfig, draw_clip
from vit_jax.load import load_run
from vit_jax.run import Run
from vit_jax.workdir.metrics import read_metrics

CSV = HERE / "results" / "analysis" / "attention_path.csv"
METHODS = ("weights", "rollout", "gradient")
NUM_OBJECTS, NUM_PHOTOS = 10_000, 6  # of the test split of motion/fashion


def maps_of(run: Run, clips: np.ndarray) -> dict[str, np.ndarray]:
    """Returns maps `(clips, frames, rows, columns)` by name."""
    model, layers = run.model, range(run.model.num_layers)
    functions = {method: functools.partial(attention_map, model, method=method) for method in METHODS}
    for layer in layers:
        functions[f"spatial of the class token, layer {layer}"] = functools.partial(by_class_token, model, layer=layer)
    for layer, head in itertools.product(layers, range(model.num_heads)):
        received = functools.partial(received_attention, model, kind="temporal", layer=layer, head=head)
        functions[f"temporal, layer {layer}, head {head}"] = received

    @jax.jit
    def compute(params, clips):
        return {name: function(params, clips) for name, function in functions.items()}

    return jax.tree.map(np.asarray, compute(run.params, clips))


def by_class_token(model: Any, params: Any, clips: Any, *, layer: int) -> Any:
    """Returns the spatial attention of the class token in each frame, averaged over the heads."""
    weights = attention(model, params, clips, layers=(layer,))["spatial"][0].mean(axis=-3)
    return weights[:, :, 0, 1:].reshape(len(clips), model.num_frames, *model.grid)


def is_object(config: MotionConfig, clips: int, grid: tuple[int, int]) -> np.ndarray:
    """Returns whether the centre of a patch is within the object's square, `(clips, frames, rows, columns)`."""
    inside = []
    for index in range(clips):
        spec = draw_clip(config, "test", index, NUM_OBJECTS, NUM_PHOTOS)
        x, y, _, size = (spec.states(config.num_frames) / CYCLE).T[:, :, None, None]
        low, high = config.size
        half = low * (high / low) ** size / 2
        across, down = (
            np.abs(((np.arange(count) + 0.5) / count - place + 0.5) % 1 - 0.5)  # the short way round the torus
            for count, place in ((grid[1], x[..., 0]), (grid[0], y[..., 0]))
        )
        inside.append((abs(across[:, None, :]) < half) & (abs(down[:, :, None]) < half))
    return np.stack(inside)


def report(workdir: pathlib.Path, clips: int) -> None:
    run = load_run(workdir)
    config = next(each for each in Motion.BUILDER_CONFIGS if run.config.data.name == f"motion/{each.name}")
    source, rng = run.open_split(), np.random.default_rng(0)
    examples = source.__getitems__(range(clips))
    encoded = np.stack([run.encoder.rows(example["video"], None)[0] for example in examples])
    inside = is_object(config, clips, run.model.grid)
    accuracy = [row["top1"] for row in read_metrics(workdir) if row["split"] == "eval" and row["step"] <= run.step][-1]
    rows = []
    for name, maps in maps_of(run, encoded).items():
        share = maps / maps.sum(axis=(1, 2, 3), keepdims=True)
        shuffled = np.stack([each[rng.permutation(len(each))] for each in share])
        on_object, by_chance = ((each * inside).sum(axis=(1, 2, 3)).mean() for each in (share, shuffled))
        area = inside.mean()
        rows.append(
            {
                "map": name,
                "on_object": round(float(on_object), 4),
                "area": round(float(area), 4),
                "ratio": round(float(on_object / area), 3),
                "shuffled": round(float(by_chance / area), 3),
                "clips": clips,
                "model": run.config.model.name,
                "top1": round(float(accuracy), 4),
                "step": run.step,
                "date": datetime.date.today().isoformat(),
            }
        )
        print(f"{name:40} {rows[-1]['ratio']:6.3f} {rows[-1]['shuffled']:6.3f}")
    CSV.parent.mkdir(parents=True, exist_ok=True)
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--clips", type=int, default=512, help="number of test clips")
    arguments = parser.parse_args()
    report(arguments.workdir, arguments.clips)
