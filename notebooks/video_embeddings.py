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
# # Embeddings of clips: space-only against divided attention
#
# You will see the features that two small TimeSformers have learned of clips in which a digit moves left, right, up,
# down, or turns one way or the other: as pictures (t-SNE, as in Figure 6 of the TimeSformer paper), as a number (the
# accuracy of the nearest neighbours), and by the clips that each model finds most similar to a given one. A motion and
# its reverse have the same frames in another order. The model that looks at each frame by itself cannot tell them
# apart; the one with divided space-time attention does.

# %%
import os
import subprocess

if not os.path.exists("start.py"):  # outside a checkout, such as on Colab
    subprocess.run(["git", "clone", "--depth=1", "https://github.com/ACCOUNT/vit_jax"], check=True)
    os.chdir("vit_jax/notebooks")

import start

start.begin()

# %%
from make_checkpoints import make

import vit_jax

runs = {name: vit_jax.load_run(make(name)) for name in ("space_only", "divided")}
for name, run in runs.items():
    print(f"{name}: {run.task.headline(run.evaluate('test'))}")

# %% [markdown]
# Both were trained once over 40,000 clips. Space-only attention is then at chance, 1 in 6; after six times as many
# steps, such models recognise at most the family of a motion: horizontal, vertical or rotation (`docs/results.md`).
#
# ## Features
#
# The input of the head, for 1,000 test clips and 2,000 training clips.

# %%
train, test = (
    {name: run.features(run.open_split(split)) for name, run in runs.items()}
    for split in ("train[:2000]", "test[:1000]")
)
{name: found["features"].shape for name, found in test.items()}

# %% [markdown]
# The class of a test clip is taken to be that of most of its 20 nearest training clips. In the family, a motion and
# its reverse count as the same.

# %%
from vit_jax.analysis.embedding.embeddings import knn_accuracy, nearest, project

print(f"{'features':12} {'motion':>7} {'family':>7}")
for name in runs:
    known, asked = train[name], test[name]
    motion = knn_accuracy(known["features"], known["label"], test=(asked["features"], asked["label"]))
    family = knn_accuracy(known["features"], known["label"] // 2, test=(asked["features"], asked["label"] // 2))
    print(f"{name:12} {motion:7.1%} {family:7.1%}")

# %% [markdown]
# ## t-SNE
#
# The test clips, coloured by motion. A motion and its reverse have two shades of one colour.

# %%
from IPython.display import Image
from matplotlib import colormaps

from vit_jax.plots import PAGE, figure

labels = runs["divided"].labels
with figure(start.FIGURES / "tsne.png", PAGE, 3.6) as drawing:
    for axis, name in zip(drawing.subplots(1, 2), runs):
        points = project(test[name]["features"])
        for motion, label in enumerate(labels):
            chosen = points[test[name]["label"] == motion]
            axis.scatter(*chosen.T, color=colormaps["tab20"].colors[motion], s=4, label=label)
        axis.set(title=name, xticks=[], yticks=[])
    drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, markerscale=3)
Image(start.FIGURES / "tsne.png", width=800)

# %% [markdown]
# ## The most similar clips
#
# A test clip, and the training clip that each model finds most similar.

# %%
from vit_jax.plots import GREEN, GREY, RED, contact_sheet, film_strip

clips, others = runs["divided"].open_split("test"), runs["divided"].open_split("train[:2000]")


def strip(clip):
    return film_strip([frame.convert("RGB") for frame in clip["video"].read(range(8))])


shown = []  # picture, name, title, colour
for query, asked in zip((0, 1, 4), clips.__getitems__([0, 1, 4])):
    shown.append((strip(asked), "a test clip", labels[asked["label"]], GREY))
    for name in runs:
        rows, _ = nearest(train[name]["features"], test[name]["features"][query : query + 1], 1)
        (found,) = others.__getitems__(rows[0].tolist())
        colour = GREEN if found["label"] == asked["label"] else RED
        shown.append((strip(found), f"nearest for {name}", labels[found["label"]], colour))
contact_sheet(start.FIGURES / "nearest.png", *zip(*shown))
Image(start.FIGURES / "nearest.png", width=1000)
