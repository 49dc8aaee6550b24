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
# apart. The one with divided space-time attention can: it knows in which direction a digit moves, but after a training
# of two minutes it does not know in which direction it turns.

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
# Both have seen 20,000 clips, each once. Space-only attention is then close to chance, which is 1 in 6. When such
# models are trained for longer, they recognise at most the family of a motion: horizontal, vertical or rotation
# (`docs/results.md`).
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

titles = {}
print(f"{'features':12} {'motion':>7} {'family':>7}")
for name in runs:
    known, asked = train[name], test[name]
    motion = knn_accuracy(known["features"], known["label"], test=(asked["features"], asked["label"]))
    family = knn_accuracy(known["features"], known["label"] // 2, test=(asked["features"], asked["label"] // 2))
    print(f"{name:12} {motion:7.1%} {family:7.1%}")
    titles[name] = f"{name}: {motion:.1%} by neighbours"

# %% [markdown]
# ## t-SNE
#
# The test clips, coloured by motion, with the accuracy of the nearest neighbours. Divided attention separates the four
# shifts; the two rotations share one cluster.

# %%
from IPython.display import Image

from vit_jax.plots.embeddings import plot_map

labels = runs["divided"].labels
panels = {titles[name]: project(test[name]["features"]) for name in runs}
plot_map(start.FIGURES / "tsne.png", panels, test["divided"]["label"], labels)
Image(start.FIGURES / "tsne.png", width=700)

# %% [markdown]
# ## The most similar clips
#
# A test clip, and the training clip that each model finds most similar. With space-only attention, this clip has the
# same motion by chance.

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
