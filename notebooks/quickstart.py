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
# # Quickstart: train, predict, look
#
# You will see how a Vision Transformer of 0.2 M parameters is trained on 1,442 handwritten digits, in about two minutes
# on two CPU cores; its accuracy on 355 other digits; which of them it confuses; and where in a digit it looks.

# %%
import os
import subprocess

if not os.path.exists("start.py"):  # outside a checkout, such as on Colab
    subprocess.run(["git", "clone", "--depth=1", "https://github.com/ACCOUNT/vit_jax"], check=True)
    os.chdir("vit_jax/notebooks")

import start

start.begin()

# %% [markdown]
# ## Train
#
# In a terminal this is `python -m vit_jax train --config=configs/quickstart.py --workdir=DIR`. If it is interrupted, it
# resumes when it is run again.

# %%
RUN = "../runs/notebooks/digits"
start.vit_jax("train", "--config=../configs/quickstart.py", f"--workdir={RUN}")

# %% [markdown]
# The run's folder has its curves, predictions, metrics and checkpoints.

# %%
from IPython.display import Image

Image(f"{RUN}/curves.png", width=800)

# %% [markdown]
# ## Predict
#
# `load_run` opens the newest checkpoint, with its preprocessing and class names.

# %%
import vit_jax

run = vit_jax.load_run(RUN)
run

# %%
run.evaluate("test")

# %% [markdown]
# `predict` takes images as Pillow opens them. This one is the first of the test split.

# %%
test = run.open_split("test")
(first,) = test.__getitems__([0])
next(run.predict([first["image"]], top=3))

# %% [markdown]
# `rows` gives the logits of every example. These are all the digits that the model gets wrong, the most certain first;
# the title is what it takes them for.

# %%
import jax
import numpy as np

from vit_jax.plots import RED, contact_sheet

rows = run.rows(run.task.predict, test)
probabilities = np.asarray(jax.nn.softmax(rows["logits"]))
wrong = np.flatnonzero(probabilities.argmax(-1) != rows["label"])
wrong = wrong[np.argsort(-probabilities[wrong].max(-1))]
names = [f"a {run.labels[rows['label'][i]]}" for i in wrong]
titles = [f"{run.labels[probabilities[i].argmax()]}, {probabilities[i].max():.0%}" for i in wrong]
images = [example["image"] for example in test.__getitems__(wrong)]
contact_sheet(start.FIGURES / "wrong.png", images, names, titles, [RED] * len(wrong))
Image(start.FIGURES / "wrong.png", width=900)

# %% [markdown]
# ## Look
#
# Rollout follows the attention through all layers: what the output has read from each patch of 2 x 2 pixels. The
# notebook `attention` has more of this kind.

# %%
from vit_jax import analysis
from vit_jax.analysis.attention.pictures import as_pictures
from vit_jax.plots.attention import plot_images

shown = np.stack([run.encoder.rows(image, None)[0] for image in images[:3]])
maps = np.asarray(analysis.attention_map(run.model, run.params, shown))
captions = [f"{name}, taken for {title}" for name, title in zip(names, titles)][:3]
plot_images(start.FIGURES / "looks.png", as_pictures(run.encoder, shown), maps, captions)
Image(start.FIGURES / "looks.png", width=420)
