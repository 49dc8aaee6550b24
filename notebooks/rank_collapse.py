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
# # Rank collapse: what keeps tokens apart
#
# You will see the figures of "Attention is not all you need: pure attention loses rank doubly exponentially with depth"
# (Dong, Cordonnier and Loukas, arXiv:2103.03404), redrawn with models of this project: how quickly all tokens become
# equal if attention is all there is, below the paper's bound; that skip connections prevent it, and that MLPs alone do
# not, in models at initialisation and after training, on images, clips and sentences; and which lengths of paths the
# output consists of.

# %%
import os
import subprocess

if not os.path.exists("start.py"):  # outside a checkout, such as on Colab
    subprocess.run(["git", "clone", "--depth=1", "https://github.com/ACCOUNT/vit_jax"], check=True)
    os.chdir("vit_jax/notebooks")

import start

start.begin()

# %%
import jax
from make_checkpoints import make

import vit_jax
from vit_jax.data.loading.levels import as_floats

runs = {
    "images": vit_jax.load_run(make("digits")),
    "clips": vit_jax.load_run(make("divided")),
    "sentences": vit_jax.load_run(make("messages")),
}


# %%
def some_inputs(run, count=16):
    """Returns the first examples of the split on which a run is evaluated, as a model takes them, and labels."""
    batches, _ = run.batches(run.open_split())
    batch = {name: rows[:count] for name, rows in as_floats(next(iter(batches))).items()}
    return run.task.model_inputs(batch), batch.get("label")


def initial(run, inputs):
    return run.model.init(jax.random.key(0), *inputs, train=False)["params"]


# %% [markdown]
# ## Pure attention collapses, skip connections prevent it
#
# The residual of the tokens is what remains after their mean is subtracted, relative to the tokens: 0 means that all
# are equal. It is measured after each block, with parts of the blocks switched off; as in the paper's Figure 2, the
# layer norms stay.

# %%
from IPython.display import Image

from vit_jax.analysis.rank.collapse import decay, residuals_by_depth
from vit_jax.plots.rank import plot_decay, plot_depth, plot_paths

panels = {}
for name, run in runs.items():
    inputs, _ = some_inputs(run)
    panels[f"{name}, initial"] = residuals_by_depth(run.model, initial(run, inputs), *inputs)
    panels[f"{name}, trained"] = residuals_by_depth(run.model, run.params, *inputs)
plot_depth(start.FIGURES / "depth.png", panels)
Image(start.FIGURES / "depth.png", width=560)

# %% [markdown]
# The same numbers after the last block, averaged over the examples:

# %%
for title, curves in panels.items():
    print(title)
    for parts, values in curves.items():
        print(f"    {parts!s:24} {values[:, -1].mean():.3g}")

# %% [markdown]
# ## The decay is doubly exponential
#
# Without skip connections, MLPs and layer norms, the norm of the residual is cubed in each layer, so that even its
# logarithm falls exponentially. The dotted bound takes the measured residual of the layer before and bounds the next;
# the dashed one takes nothing but the residual where it first holds. The model is the ViT for digits, with 6 layers to
# have more of them, at initialisation.

# %%
images, labels = some_inputs(runs["images"])
deep = runs["images"].model.clone(num_layers=6)
params = deep.init(jax.random.key(0), *images, train=False)["params"]
plot_decay(start.FIGURES / "decay.png", {"6 layers, initial": decay(deep, params, *images)})
Image(start.FIGURES / "decay.png", width=420)

# %% [markdown]
# ## Paths
#
# With its attention weights held fixed, a network of attentions and skip connections is a sum over paths, each of which
# passes one head, or the skip connection, of every layer. The length of a path is the number of its heads. Left: the
# paths of each length together, their residual and their share of the output. Right: how many paths have this length,
# and the accuracy of the model if only paths up to this length count.

# %%
from vit_jax.analysis.rank.branches import Parts, open_stack
from vit_jax.analysis.rank.paths import heads_of, outputs_by_length, paths_by_length, share_of_lengths, summary

run = runs["images"]
images, labels = some_inputs(run, count=128)
stack = open_stack(run.model, run.params, *images)
heads = heads_of(stack)
accuracy = (outputs_by_length(run.model, run.params, *images).argmax(-1) == labels).mean(axis=-1)
plot_paths(
    start.FIGURES / "paths.png",
    **summary(paths_by_length(stack, Parts())),
    count=share_of_lengths(len(heads), heads[0]),
    accuracy={"accuracy": accuracy},
)
Image(start.FIGURES / "paths.png", width=560)
