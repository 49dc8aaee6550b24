"""Motion: which attention schemes distinguish a motion from its reverse, in TimeSformers trained on the motion set.

python experiments/motion.py train runs/motion    # all schemes, for motions and objects, 3 seeds each: hours on a CPU
python experiments/motion.py train runs/motion --learned=motion --schemes=axial --seeds=3 --config.duration="9 epochs"
python experiments/motion.py report runs/motion   # writes results/motion.csv, prints a table, and draws motion.png
python experiments/motion.py draw                 # draws motion.png again from motion.csv

`train` draws the clips first if Debian's package of Fashion-MNIST is installed. Otherwise run
`python -m vit_jax data prepare motion/fashion --path=DIR` (and the same for motion/fashion_frames), where DIR holds the
four idx files of Fashion-MNIST.

A motion and its opposite have the same frames in another order. A model that treats frames independently can therefore
at best identify the family of a motion (horizontal, vertical, rotation), and its top-1 accuracy is at most 50 %. The
models that classify objects start from an image model (`frames`), as in the paper. It is trained on single frames,
which show more garments than the clips do, and evaluated on the first frames of the test clips. The report contains

- `top1`: accuracy for the six motions, or the ten classes of objects.
- `family`: share of the test clips whose family is correct. The families of objects are upper body, trousers, shoes and
  bags.
- `direction`: share of the clips with a correct family whose motion is correct; chance is 50 %.

This is not a comparison of `python -m vit_jax reproduce`, whose rows have the scores that a run writes at its end: the
family and the direction follow from the predictions of the test clips, and their intervals are over these clips instead
of seeds. `reproduce timesformer/table1 --scale=small` answers the first question with smaller models on moving digits.

Intervals are exact 95 % binomial intervals (Clopper and Pearson). The objects and backgrounds of the test clips do not
occur in training.
"""

import argparse
import csv
import pathlib
import subprocess
import sys

import numpy as np
from results import HERE, is_finished, row_of
from scipy.stats import binomtest

from vit_jax.plots.figure import COLOURS, PAGE, figure

SCHEMES = ("space_only", "joint_space_time", "divided_space_time", "sparse_local_global", "axial")
DATA = {"motion": ["motion/fashion"], "object": ["motion/fashion_frames", "motion/fashion"]}
LABELS = tuple(DATA)
IMAGE_MODEL = "frames"  # its name in the config's argument, and in the column `scheme` of the CSV
CONFIG = "configs/timesformer.py:motion"
CSV, FIGURE = HERE / "results" / "motion.csv", HERE / "results" / "motion.png"
COLUMNS = (
    "learned", "scheme", "seed", "top1", "top1_low", "top1_high", "family", "direction", "direction_low",
    "direction_high", "examples", "skipped", "parameters", "steps", "seconds", "hardware", "python", "jax", "date",
    "commit", "command",
)  # fmt: skip
FAMILIES = {  # family of each class, by feature
    "label": np.repeat(range(3), 2),  # a motion and its opposite have consecutive numbers
    "object": np.array([0, 1, 0, 0, 0, 2, 0, 2, 3, 2]),  # in the order of Fashion-MNIST's classes
}


def train(runs: pathlib.Path, learned: list[str], schemes: list[str], seeds: list[int], overrides: list[str]) -> None:
    """Trains the runs under `runs` that are not finished. After an interruption, the same command resumes them."""
    key = "--config.data.data_dir="
    data_dir = [word.replace(key, "--data_dir=") for word in overrides if word.startswith(key)]
    for dataset in sorted({dataset for label in learned for dataset in DATA[label]}):
        run_command(
            "data", "prepare", dataset, *data_dir
        )  # all sets first, so that a mistake shows before hours of training
    for seed in seeds:
        if "motion" in learned:
            for scheme in schemes:
                train_one(runs / "motion" / f"{scheme}-{seed}", scheme, seed, overrides)
        if "object" in learned:
            image_model = runs / "object" / f"{IMAGE_MODEL}-{seed}"
            train_one(image_model, IMAGE_MODEL, seed, overrides)
            start = [f"--config.init_from={image_model}", *overrides]
            for scheme in schemes:
                train_one(runs / "object" / f"{scheme}-{seed}", f"{scheme},object", seed, start)


def train_one(workdir: pathlib.Path, options: str, seed: int, overrides: list[str]) -> None:
    """Trains a run unless it is finished; `options` are those of the config's argument."""
    if is_finished(workdir):
        return
    print(f"== {workdir}", flush=True)
    run_command("train", f"--config={CONFIG},{options}", f"--workdir={workdir}", f"--config.seed={seed}", *overrides)


def run_command(*command: str) -> None:
    status = subprocess.run([sys.executable, "-m", "vit_jax", *command]).returncode
    if status:
        sys.exit(status)  # the command has printed the reason


def finished(runs: pathlib.Path, learned: str, scheme: str) -> list[pathlib.Path]:
    return [workdir for workdir in sorted((runs / learned).glob(f"{scheme}-*")) if is_finished(workdir)]


def score(workdir: pathlib.Path) -> dict[str, float]:
    """Scores the newest checkpoint on the test split of its run."""
    from vit_jax.load import load_run

    run = load_run(workdir)
    rows = run.rows(run.task.predict, run.open_split())
    found, true = rows["logits"].argmax(-1), rows["label"]
    families = FAMILIES[run.config.data.label]
    same_family = families[found] == families[true]
    scores = {**with_interval("top1", found == true), "family": float(same_family.mean())}
    if run.config.data.label == "object":
        return scores
    return {**scores, **with_interval("direction", (found == true)[same_family])}


def with_interval(name: str, correct: np.ndarray) -> dict[str, float]:
    """Returns the share of correct examples, and its 95 % interval."""
    low, high = binomtest(int(correct.sum()), len(correct)).proportion_ci(0.95)
    return {name: float(correct.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def report(runs: pathlib.Path) -> None:
    """Writes the CSV of the finished runs, prints a table, and draws the figure."""
    rows = []
    for learned in LABELS:
        for scheme in (IMAGE_MODEL, *SCHEMES):
            for workdir in finished(runs, learned, scheme):
                row = {**row_of(workdir), **score(workdir), "learned": learned, "scheme": scheme}
                rows.append({name: row.get(name, "") for name in COLUMNS})
    if not rows:
        sys.exit(f"{runs} has no finished run. Train first: python experiments/motion.py train {runs}")
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in row.items()} for row in rows)
    draw()
    print(f"{'learned':8} {'scheme':20} {'seed':>4}  {'top-1':>7}  {'family':>7}  direction (95 %)")
    for row in rows:
        line = f"{row['learned']:8} {row['scheme']:20} {row['seed']:>4}  {row['top1']:7.2%}  {row['family']:7.2%}"
        if row["learned"] == "motion":
            line += f"  {row['direction']:.2%} ({row['direction_low']:.2%} to {row['direction_high']:.2%})"
        print(line)


def _rounded(value: object) -> object:
    return round(value, 5) if isinstance(value, float) else value


def draw() -> None:
    """Draws the top-1 accuracy in the CSV, with a bar for the 95 % interval of every run."""
    with CSV.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["scheme"] in SCHEMES]
    shown = [learned for learned in LABELS if any(row["learned"] == learned for row in rows)]
    if not shown:
        return
    with figure(FIGURE, PAGE, 2.0) as drawing:
        axes = drawing.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axis, learned in zip(axes, shown, strict=True):
            for place, scheme in enumerate(SCHEMES):
                seeds = [row for row in rows if (row["learned"], row["scheme"]) == (learned, scheme)]
                for number, row in enumerate(seeds):
                    value, low, high = (100 * float(row[f"top1{end}"]) for end in ("", "_low", "_high"))
                    beside = place + 0.15 * (number - (len(seeds) - 1) / 2)
                    axis.errorbar(beside, value, [[value - low], [high - value]], fmt="o", color=COLOURS[0], capsize=2)
            labels = [scheme.replace("_", " ").replace(" ", "\n", 1) for scheme in SCHEMES]
            axis.set(title=f"label: {learned}", ylim=(0, 100), xticks=range(len(SCHEMES)), xticklabels=labels)
            axis.grid(axis="y", alpha=0.3)
            if learned == "motion":
                axis.axhline(50, color="black", lw=0.8, ls="--", label="every family known, no direction")
                axis.legend(loc="lower right", frameon=False)
        axes[0].set_ylabel("top-1 accuracy (%)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    training = actions.add_parser("train", help="train the runs that are not yet finished")
    training.add_argument("--learned", nargs="+", choices=LABELS, default=list(LABELS))
    training.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    training.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    for action in (training, actions.add_parser("report", help="score finished runs and write the results")):
        action.add_argument("runs", type=pathlib.Path, metavar="DIR", help="folder of the runs")
    actions.add_parser("draw", help="draw the figure from results/motion.csv")
    # argparse would take an override that contains a space for a positional argument
    overrides = [word for word in sys.argv[1:] if word.startswith("--config.")]
    args = parser.parse_args([word for word in sys.argv[1:] if word not in overrides])
    if args.action == "train":
        train(args.runs, args.learned, args.schemes, args.seeds, overrides)
    elif args.action == "report":
        report(args.runs)
    else:
        draw()


if __name__ == "__main__":
    main()
