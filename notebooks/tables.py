# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tables: the papers' numbers and our own, redrawn from CSV files
#
# You will see every table of the four papers that can be computed without training, next to what the papers print, with
# the reason for each difference; how far all these numbers agree, in one figure; the TimeSformer paper's Figure 3; and
# the results that were measured with this code, with their intervals. Nothing is computed anew: the notebook reads
# `experiments/results/`, and takes a few seconds.

# %%
import os
import subprocess

if not os.path.exists("start.py"):  # outside a checkout, such as on Colab
    subprocess.run(["git", "clone", "--depth=1", "https://github.com/ACCOUNT/vit_jax"], check=True)
    os.chdir("vit_jax/notebooks")

import start

start.begin()

# %% [markdown]
# ## Computed: parameters and multiply-accumulates
#
# `python -m vit_jax reproduce --all` computes these numbers at the published sizes. The column "paper" has what the
# paper prints.

# %%
import pathlib

from IPython.display import Image, Markdown, display

from vit_jax.reproduce import tables

EXPERIMENTS = pathlib.Path("../experiments")
loaded = {name: tables.load_definition(path).table for name, path in tables.find_tables(EXPERIMENTS).items()}
loaded = {name: table for name, table in loaded.items() if table}
cells = {name: tables.read_cells(EXPERIMENTS / "results" / f"{name}.csv") for name in loaded}
for name, table in loaded.items():
    display(Markdown(table.markdown(cells[name])))

# %% [markdown]
# All of them in one figure: by how many percent the computed number differs from the printed one. Half a unit of the
# last printed digit is often more than 1 %; those that differ by more than their digits allow are orange.

# %%
from vit_jax.plots import COLOURS, PAGE, figure

printed = {name: [cell for cell in rows if cell.printed] for name, rows in cells.items()}
printed = {name: rows for name, rows in printed.items() if rows}
with figure(start.FIGURES / "agreement.png", width=PAGE, height=2.6) as drawing:
    axis = drawing.subplots()
    for place, rows in enumerate(printed.values()):
        percent = [100 * (cell.computed / float(cell.printed.replace(",", "")) - 1) for cell in rows]
        colours = [COLOURS[1] if cell.differs else COLOURS[0] for cell in rows]
        axis.scatter(percent, [place] * len(rows), c=colours, s=10)
    axis.axvline(0, color="black", lw=0.6)
    axis.set(yticks=range(len(printed)), yticklabels=list(printed), xlabel="computed minus printed, in %")
    axis.invert_yaxis()
Image(start.FIGURES / "agreement.png", width=800)

# %% [markdown]
# The TimeSformer paper's Figure 3, which has no printed numbers: the cost of a clip by resolution and by frames.

# %%
with figure(start.FIGURES / "figure3.png", width=PAGE, height=2.6) as drawing:
    loaded["timesformer/figure3"].plot(drawing, cells["timesformer/figure3"])
Image(start.FIGURES / "figure3.png", width=800)

# %% [markdown]
# ## Measured: which attention tells a motion from its reverse
#
# A motion and its reverse have the same frames in another order. Given that the model knows the family of a motion
# (horizontal, vertical, rotation), how often does it know the direction? Each bar is one seed, with its exact 95 %
# interval; the line is chance.

# %%
import csv


def read(name):
    with (EXPERIMENTS / "results" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


motion = [row for row in read("motion") if row["learned"] == "motion"]
schemes = list(dict.fromkeys(row["scheme"] for row in motion))
with figure(start.FIGURES / "motion.png", width=PAGE, height=2.4) as drawing:
    axis = drawing.subplots()
    for place, scheme in enumerate(schemes):
        rows = [row for row in motion if row["scheme"] == scheme]
        value, low, high = ([float(row[f"direction{end}"]) for row in rows] for end in ("", "_low", "_high"))
        errors = [[v - a for v, a in zip(value, low)], [b - v for v, b in zip(value, high)]]
        places = [place + 0.25 * (int(row["seed"]) - 1) for row in rows]
        axis.bar(places, value, width=0.22, color=COLOURS[0], yerr=errors, ecolor="black", error_kw={"lw": 0.8})
    axis.axhline(0.5, color=COLOURS[1], ls="--")
    axis.set(xticks=range(len(schemes)), xticklabels=schemes, ylim=(0, 1.03), ylabel="direction correct")
Image(start.FIGURES / "motion.png", width=800)

# %% [markdown]
# ## Measured: images and sentences

# %%
images = read("classification")
lines = ["| data | model | parameters | seed | top-1 | examples |", "|---|---|---|---|---|---|"]
for row in images:
    top1, examples = float(row["top1"]), int(row["examples"])
    model = f"`{row['model']}` | {int(row['parameters']):,}"
    lines.append(f"| {row['data']} | {model} | {row['seed']} | {top1:.2%} | {examples:,} |")
Markdown("\n".join(lines))

# %%
sentences = read("translation")
for row in sentences:
    if row["parameters"]:
        row["method"] = f"Transformer, {int(row['parameters']) / 1e6:.1f} M"
methods = list(dict.fromkeys(row["method"] for row in sentences))
with figure(start.FIGURES / "translation.png", width=PAGE, height=2.2) as drawing:
    for axis, metric in zip(drawing.subplots(1, 2), ("bleu", "chrf")):
        for shift, (split, colour) in zip((-0.2, 0.2), (("test", COLOURS[0]), ("heldout", COLOURS[1]))):
            values = {row["method"]: float(row[metric]) for row in sentences if row["split"] == split}
            bars = axis.bar([i + shift for i in range(len(methods))], [values[m] for m in methods], 0.36, color=colour)
            axis.bar_label(bars, fmt="%.1f", fontsize=6)
            bars.set_label("test" if split == "test" else "a program that is not in training")
        axis.set(xticks=range(len(methods)), xticklabels=methods, title={"bleu": "BLEU", "chrf": "chrF"}[metric])
        axis.margins(y=0.15)
    drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
Image(start.FIGURES / "translation.png", width=800)
