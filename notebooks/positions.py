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
# # Positions: what models know of space and time
#
# You will see how similar the learned position embeddings of a ViT's patches are, as in Figure 7 of the ViT paper, and
# what remains of this at another resolution; those of a TimeSformer in space and in time; the fixed sinusoids of the
# Transformer and their relatives in two dimensions; and the filters with which a model sees its patches.

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

images = vit_jax.from_pretrained(make("digits"))
clips = vit_jax.from_pretrained(make("divided"))

# %% [markdown]
# ## Learned positions in space
#
# Each small map belongs to one patch of the 4 x 4 grid of a ViT for handwritten digits: the cosine similarity of its
# position embedding with those of all patches.

# %%
from IPython.display import Image

from vit_jax.analysis.positions import in_space, in_time, of_tokens, patch_filters, similarity
from vit_jax.plots.positions import plot_filters, plot_grid, plot_sequence

plot_grid(start.FIGURES / "learned.png", similarity(in_space(images.model, images.params)))
Image(start.FIGURES / "learned.png", width=480)

# %% [markdown]
# ## At another resolution
#
# For images of 16 x 16 pixels the grid is 8 x 8, and the embeddings are resampled, here as `from_pretrained` does it.

# %%
plot_grid(start.FIGURES / "resampled.png", similarity(in_space(images.model, images.params, grid=(8, 8))))
Image(start.FIGURES / "resampled.png", width=560)

# %% [markdown]
# ## A TimeSformer: space and time apart
#
# A patch of a clip has the sum of a position in space and one in time. In space, for the 4 x 4 patches of a frame:

# %%
plot_grid(start.FIGURES / "space.png", similarity(in_space(clips.model, clips.params)))
Image(start.FIGURES / "space.png", width=480)

# %% [markdown]
# In time, for the 8 frames of a clip:

# %%
plot_sequence(start.FIGURES / "time.png", similarity(in_time(clips.params)), "frame")
Image(start.FIGURES / "time.png", width=420)

# %% [markdown]
# ## Fixed positions
#
# The Transformer adds sinusoids (section 3.5): the further apart two tokens are, the less similar their positions are,
# at first.

# %%
transformer = vit_jax.build_model("transformer:base")
plot_sequence(start.FIGURES / "sinusoids.png", similarity(of_tokens(transformer, {}, length=64)), "token")
Image(start.FIGURES / "sinusoids.png", width=420)

# %% [markdown]
# "Better plain ViT baselines" uses the same idea in two dimensions. Nothing is learned, and any grid has its positions:

# %%
plain = vit_jax.build_model("vit:S/16", pos_embed="sincos2d", pool="gap", image_size=(96, 160))
plot_grid(start.FIGURES / "sincos.png", similarity(in_space(plain, {})))
Image(start.FIGURES / "sincos.png", width=560)

# %% [markdown]
# ## What a patch is seen through
#
# The first principal components of the filters with which the TimeSformer embeds its patches of 8 x 8 pixels, as in
# Figure 7 (left) of the ViT paper, with the share of the filters' variance that each explains.

# %%
plot_filters(start.FIGURES / "filters.png", *patch_filters(clips.params, count=14))
Image(start.FIGURES / "filters.png", width=560)
