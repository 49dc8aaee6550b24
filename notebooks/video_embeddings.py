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
# ## Features
#
# The input of the head, for all 2,000 test clips and for 4,000 training clips.

# %%
train, test = (
    {name: run.features(run.open_split(split)) for name, run in runs.items()} for split in ("train[:4000]", "test")
)
{name: found["features"].shape for name, found in test.items()}

# %% [markdown]
# The motion of a test clip is taken to be that of most of its 10 nearest training clips. `family` counts a motion and
# its reverse as the same.

# %%
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

print(f"{'features':12} {'motion':>7} {'family':>7}")
for name in runs:
    neighbours = KNeighborsClassifier(10, metric="cosine").fit(train[name]["features"], train[name]["label"])
    found, true = neighbours.predict(test[name]["features"]), test[name]["label"]
    print(f"{name:12} {np.mean(found == true):7.1%} {np.mean(found // 2 == true // 2):7.1%}")

# %% [markdown]
# ## t-SNE
#
# 1,000 test clips, coloured by motion. A motion and its reverse have two shades of one colour.

# %%
from IPython.display import Image
from matplotlib import colormaps
from sklearn.manifold import TSNE

from vit_jax.plots import PAGE, figure

COLOURS = colormaps["tab20"].colors[:6]
labels = runs["divided"].labels
with figure(start.FIGURES / "tsne.png", PAGE, 3.6) as drawing:
    for axis, name in zip(drawing.subplots(1, 2), runs):
        points = TSNE(init="pca", random_state=0).fit_transform(test[name]["features"][:1000])
        for motion, label in enumerate(labels):
            axis.scatter(*points[test[name]["label"][:1000] == motion].T, color=COLOURS[motion], s=4, label=label)
        axis.set(title=name, xticks=[], yticks=[])
    drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, markerscale=3)
Image(start.FIGURES / "tsne.png", width=800)

# %% [markdown]
# ## The most similar clips
#
# A test clip, and the training clip that each model finds most similar.

# %%
from PIL import Image as Pillow

from vit_jax.plots import GREEN, GREY, RED, contact_sheet, film_strip

clips, known = runs["divided"].open_split("test"), runs["divided"].open_split("train[:4000]")


def strip(clip):
    return film_strip([Pillow.fromarray(frame.squeeze()).convert("RGB") for frame in clip["video"]])


images, names, titles, colours = [], [], [], []
for query in (0, 1, 4):
    images.append(strip(clips[query]))
    names.append("a test clip")
    titles.append(labels[clips[query]["label"]])
    colours.append(GREY)
    for name in runs:
        unit = {
            split: f / np.linalg.norm(f, axis=1, keepdims=True)
            for split, f in (("train", train[name]["features"]), ("test", test[name]["features"]))
        }
        nearest = int(train[name]["id"][np.argmax(unit["train"] @ unit["test"][query])])
        images.append(strip(known[nearest]))
        names.append(f"nearest for {name}")
        titles.append(labels[known[nearest]["label"]])
        colours.append(GREEN if known[nearest]["label"] == clips[query]["label"] else RED)
contact_sheet(start.FIGURES / "nearest.png", images, names, titles, colours)
Image(start.FIGURES / "nearest.png", width=1000)
