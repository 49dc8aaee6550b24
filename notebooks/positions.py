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
# Transformer and their relatives in two dimensions; and the filters with which models see patches.

# %%
import os
import subprocess

if not os.path.exists("start.py"):  # outside a checkout, such as on Colab
    subprocess.run(["git", "clone", "--depth=1", "https://github.com/ACCOUNT/vit_jax"], check=True)
    os.chdir("vit_jax/notebooks")

import start

start.begin()

# %%
import vit_jax
from make_checkpoints import make

digits, clips = make("digits"), make("divided")
image_model, clip_model = vit_jax.from_pretrained(digits), vit_jax.from_pretrained(clips)

# %% [markdown]
# ## Learned positions in space
#
# Each small map belongs to one patch of the 4 x 4 grid: the cosine similarity of its position embedding with those of
# all patches. Neighbours, and patches of one row or column, have learned similar positions.

# %%
import numpy as np
from IPython.display import Image

from vit_jax.plots import COLUMN, DIVERGING, PAGE, SEQUENTIAL, figure


def similarity(positions):
    """Returns the cosine similarity of each position with all others, `(*grid, *grid)`."""
    unit = positions / np.linalg.norm(positions, axis=-1, keepdims=True)
    return np.tensordot(unit, unit, axes=(-1, -1))


def draw_maps(positions, name, width):
    """Draws a map for each position of a grid, `(rows, columns, hidden_dim)`."""
    maps = similarity(np.asarray(positions))
    rows, columns = maps.shape[:2]
    with figure(start.FIGURES / name, COLUMN, COLUMN * rows / columns) as drawing:
        axes = drawing.subplots(rows, columns, squeeze=False)
        for (row, column), axis in np.ndenumerate(axes):
            drawn = axis.imshow(maps[row, column], SEQUENTIAL, vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
        drawing.colorbar(drawn, ax=axes, label="cosine similarity", shrink=0.7)
    return Image(start.FIGURES / name, width=width)


draw_maps(image_model.params["pos_embed"], "learned.png", 480)

# %% [markdown]
# ## At another resolution
#
# For images of 16 x 16 pixels the grid is 8 x 8. `from_pretrained` resamples the embeddings, and its report says how.

# %%
larger = vit_jax.from_pretrained(digits, image_size=(16, 16))
print(larger.report)
draw_maps(larger.params["pos_embed"], "resampled.png", 600)

# %% [markdown]
# ## A TimeSformer: space and time apart
#
# A patch of a clip has the sum of a position in space and one in time. In space, for the 4 x 4 patches of a frame:

# %%
draw_maps(clip_model.params["pos_embed"], "space.png", 480)

# %% [markdown]
# In time, for the 8 frames, and resampled to 16 frames:

# %%
longer = vit_jax.from_pretrained(clips, num_frames=16)
with figure(start.FIGURES / "time.png", PAGE, 2.6) as drawing:
    axes = drawing.subplots(1, 2)
    for axis, model in zip(axes, (clip_model, longer)):
        times = model.params["time_embed"]
        drawn = axis.imshow(similarity(times), SEQUENTIAL, vmin=-1, vmax=1)
        axis.set(title=f"{len(times)} frames", xlabel="frame", ylabel="frame")
    drawing.colorbar(drawn, ax=axes, label="cosine similarity")
Image(start.FIGURES / "time.png", width=700)

# %% [markdown]
# ## Fixed positions
#
# The Transformer adds sinusoids (section 3.5). Left: the values, by position and channel. Middle: their similarity. The
# further apart two positions are, the less similar they are, at first. Right: the same idea in two dimensions
# (`pos_embed="sincos2d"`), the similarity of the patch in the centre with all others.

# %%
import jax.numpy as jnp
from vit_jax.models.positions import sincos2d
from vit_jax.models.transformer import sinusoids

waves, plane = np.asarray(sinusoids(jnp.arange(64), 64)), np.asarray(sincos2d((15, 15), 64))
with figure(start.FIGURES / "fixed.png", PAGE, 2.2) as drawing:
    values, line, centre = drawing.subplots(1, 3)
    values.imshow(waves, DIVERGING, vmin=-1, vmax=1)
    values.set(title="sinusoids", xlabel="channel", ylabel="position")
    line.imshow(similarity(waves), SEQUENTIAL, vmin=-1, vmax=1)
    line.set(title="their similarity", xlabel="position", ylabel="position")
    drawn = centre.imshow(similarity(plane)[7, 7], SEQUENTIAL, vmin=-1, vmax=1)
    centre.set(title="in two dimensions", xticks=[], yticks=[])
    drawing.colorbar(drawn, ax=centre, shrink=0.8)
Image(start.FIGURES / "fixed.png", width=900)

# %% [markdown]
# ## What a patch is seen through
#
# The first principal components of the TimeSformer's patch embedding (8 x 8 pixels), as in Figure 7 (left) of the ViT
# paper: a basis for what the model keeps of a patch. They are ordered by how much of the filters they explain.

# %%
kernel = np.asarray(clip_model.params["embedding"]["kernel"])
kernel.shape
