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
# # Attention: where models look in images and clips
#
# You will see where a ViT looks in handwritten digits, by layer and head, through all layers, and for one class against
# another; then how a TimeSformer follows a moving digit through the frames of a clip; and how far the heads of both
# look. All maps are computed by `vit_jax.analysis`, from any checkpoint.

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
from vit_jax.data.loading.levels import as_floats

digits, clips = vit_jax.load_run(make("digits")), vit_jax.load_run(make("divided"))
for run in (digits, clips):
    print(run, f"{run.evaluate('test')['top1']:.2%} of the test split")


# %%
def first_batch(run):
    """Returns the first examples of the test split, as the model takes them."""
    batches, _ = run.batches(run.open_split("test"))
    return as_floats(next(iter(batches)))


# %% [markdown]
# ## Images
#
# Rollout (Abnar and Zuidema, arXiv:2005.00928) multiplies the attention of all layers, so that it says what the output
# has read from each patch. The digits have 8 x 8 pixels and 4 x 4 patches.

# %%
import numpy as np
from IPython.display import Image

from vit_jax import analysis
from vit_jax.analysis.attention.pictures import as_pictures
from vit_jax.plots.attention import film, plot_clip, plot_distances, plot_images

batch = first_batch(digits)
images, labels = batch["image"][:4], batch["label"][:4]
pictures = as_pictures(digits.encoder, images)
maps = np.asarray(analysis.attention_map(digits.model, digits.params, images))
plot_images(start.FIGURES / "rollout.png", pictures, maps, [f"a {digits.labels[label]}" for label in labels])
Image(start.FIGURES / "rollout.png", width=420)

# %% [markdown]
# `attention` returns the weights themselves, of all layers and heads. For the first digit, each layer is a row and each
# head a column. This model pools all patches, so each map is the mean over the patches that attend.

# %%
from vit_jax.plots import PAGE, figure
from vit_jax.plots.attention import blend

weights = np.asarray(analysis.attention(digits.model, digits.params, images[:1])["attention"])
by_head = weights[:, 0].mean(axis=-2).reshape(4, 4, 4, 4)  # layers, heads, rows, columns
with figure(start.FIGURES / "heads.png", 0.6 * PAGE, 0.6 * PAGE) as drawing:
    for (layer, head), axis in np.ndenumerate(drawing.subplots(4, 4)):
        axis.imshow(blend(pictures[0], by_head[layer, head], by_head[layer, head].max()))
        axis.set(xticks=[], yticks=[], title=f"layer {layer}, head {head}")
Image(start.FIGURES / "heads.png", width=600)

# %% [markdown]
# Weighted by gradients (Chefer et al., arXiv:2103.15679), the maps are of a class: what speaks for it. The first digit,
# for its own class and for the second most probable one:

# %%
import jax

probabilities = np.asarray(jax.nn.softmax(digits.model.apply({"params": digits.params}, images[:1], train=False)))[0]
best = np.argsort(-probabilities)[:2]
twice = np.repeat(images[:1], 2, axis=0)
explained = np.asarray(analysis.attention_map(digits.model, digits.params, twice, method="gradient", classes=best))
names = [f"for {digits.labels[i]}, of probability {probabilities[i]:.3f}" for i in best]
plot_images(start.FIGURES / "gradient.png", [pictures[0]] * 2, explained, names)
Image(start.FIGURES / "gradient.png", width=420)

# %% [markdown]
# ## Clips
#
# The clips have 8 frames of 32 x 32 pixels, in which a digit moves over a photograph. The class is the motion. The
# model has divided space-time attention: in each layer, a patch first attends to the same place in all frames, then to
# all patches of its frame. A map composes both, and follows them through the layers.

# %%
batch = first_batch(clips)
rightwards = batch["video"][batch["label"] == clips.labels.index("right")]
middle = rightwards[:, :, 8:24].std(axis=1).mean(axis=(1, 2, 3))  # how much moves in the middle of the frames
clip = rightwards[[middle.argmax()]]
frames = as_pictures(clips.encoder, clip)[0]
maps = np.asarray(analysis.attention_map(clips.model, clips.params, clip))[0]
plot_clip(start.FIGURES / "clip.png", frames, maps, "a digit that moves to the right: rollout")
Image(start.FIGURES / "clip.png", width=500)

# %% [markdown]
# As a film:

# %%
film(start.FIGURES / "clip.gif", frames, maps)
Image(start.FIGURES / "clip.gif", format="gif")

# %% [markdown]
# Temporal attention by itself: how much attention each frame receives at each place. Some heads look at particular
# frames, whatever they show; others look at the frames in which the digit is at this place, so that their maps show its
# path, at least in part. This is the head whose attention is correlated most with the difference between a patch and
# its median over the frames, which is large where the digit is. At the places that the digit does not cross, it looks
# mostly at the first frame.

# %%
bright = frames.mean(axis=-1).reshape(8, 4, 8, 4, 8).mean(axis=(2, 4))  # of each patch: frames, rows, columns
change = abs(bright - np.median(bright, axis=0))
weights = np.asarray(analysis.attention(clips.model, clips.params, clip)["temporal"])[:, 0]
layers, _, heads, _, _ = weights.shape  # layers, patches of a frame, heads, frames that attend, frames
by_head = weights.mean(axis=-2).transpose(0, 2, 3, 1).reshape(layers, heads, 8, 4, 4)
received = {index: by_head[index] for index in np.ndindex(layers, heads)}
follows = {name: np.corrcoef(values.ravel(), change.ravel())[0, 1] for name, values in received.items()}
layer, head = max(follows, key=follows.get)
for name, value in follows.items():
    print(f"layer {name[0]}, head {name[1]}: correlation {value:5.2f}")

# %%
caption = f"temporal attention of layer {layer}, head {head}"
plot_clip(start.FIGURES / "temporal.png", frames, received[layer, head], caption, label="attention received")
Image(start.FIGURES / "temporal.png", width=500)

# %% [markdown]
# ## How far heads look
#
# The mean distance between the patch that attends and those it attends to, for each head, as in Figure 7 of the ViT
# paper; for clips also in frames. First the ViT on 64 digits, in pixels:

# %%
for run, inputs in ((digits, first_batch(digits)["image"][:64]), (clips, first_batch(clips)["video"][:64])):
    distances = analysis.attention_distance(run.model, run.params, inputs)
    name = f"distance-{run.config.data.name.replace('/', '-')}.png"
    plot_distances(start.FIGURES / name, {unit: np.asarray(found).mean(axis=0) for unit, found in distances.items()})
Image(start.FIGURES / "distance-digits.png", width=420)

# %% [markdown]
# The TimeSformer on 64 clips: temporal attention in frames, spatial attention in pixels.

# %%
Image(start.FIGURES / "distance-motion-digits.png", width=420)
