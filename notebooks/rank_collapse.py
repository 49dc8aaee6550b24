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
# equal if attention is all there is, below the paper's bound; that skip connections prevent it and MLPs slow it down,
# in models at initialisation and after training, on images, clips and sentences; and which lengths of paths the output
# consists of.

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

runs = {
    "images": vit_jax.load_run(make("digits")),
    "clips": vit_jax.load_run(make("divided")),
    "sentences": vit_jax.load_run(make("messages")),
}


# %%
def some_inputs(run, count=16):
    """Returns the first examples of the split on which a run is evaluated, as the model takes them."""
    batches, _ = run.batches(run.open_split())
    batch = next(iter(batches))
    names = [name for name in ("image", "video", "source", "target") if name in batch]
    return [batch[name][:count, :-1] if name == "target" else batch[name][:count] for name in names]


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
from vit_jax.plots.rank import plot_decay, plot_depth, plot_paths

from vit_jax.analysis.rank_collapse import decay, residuals_by_depth

panels = {}
for name, run in runs.items():
    inputs = some_inputs(run)
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
# Without layer norms, the norm of the residual is cubed in each layer, so that its logarithm falls exponentially. The
# bound of the paper is one inequality per layer; it is drawn from the layer before, and from the first layer at which
# it says something on its own. These are ViTs of 12 layers at initialisation.

# %%
images = some_inputs(runs["images"])
deep = runs["images"].model.clone(num_layers=8)
params = deep.init(jax.random.key(0), *images, train=False)["params"]
plot_decay(start.FIGURES / "decay.png", {"8 layers, initial": decay(deep, params, *images)})
Image(start.FIGURES / "decay.png", width=420)

# %% [markdown]
# ## Paths
#
# With its attention weights held fixed, a network of attentions and skip connections is a sum over paths, each of which
# passes one head, or the skip connection, of every layer. The length of a path is the number of its heads. Long paths
# collapse, but the output consists mostly of short ones.

# %%
from vit_jax.analysis.branches import open_stack
from vit_jax.analysis.paths import heads_of, paths_by_length, share_of_lengths, summary

run = runs["images"]
stack = open_stack(run.model, run.params, *images)
found = summary(paths_by_length(stack))
heads = heads_of(stack)
plot_paths(start.FIGURES / "paths.png", **found, count=share_of_lengths(len(heads), heads[0]))
Image(start.FIGURES / "paths.png", width=420)
