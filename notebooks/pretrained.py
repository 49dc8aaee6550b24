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
# # Pretrained weights: in, features out, fine-tuned on a folder
#
# You will see what happens when a weight file is loaded: which architecture was found, and what was resized and
# replaced. Then the features of its images, as a picture; and a fine-tuning on a folder of images of your own, compared
# with training from scratch.
#
# The notebook needs no download: it writes a small model of its own in timm's format first. A published checkpoint is
# read by the same lines: see `docs/checkpoints.md` for where to get it.

# %%
import os
import subprocess

if not os.path.exists("start.py"):  # outside a checkout, such as on Colab
    subprocess.run(["git", "clone", "--depth=1", "https://github.com/ACCOUNT/vit_jax"], check=True)
    os.chdir("vit_jax/notebooks")

import start

start.begin()

# %% [markdown]
# ## Weights in
#
# A ViT that was trained on handwritten digits, as a folder in timm's format (`config.json` and `model.safetensors`).

# %%
import shutil

from make_checkpoints import make

import vit_jax

digits = vit_jax.load_run(make("digits"))
WEIGHTS = "../runs/notebooks/digits-timm"
shutil.rmtree(WEIGHTS, ignore_errors=True)
digits.export(WEIGHTS, "timm")

loaded = vit_jax.from_pretrained(WEIGHTS)
print(loaded.report)

# %% [markdown]
# The result has the model, a Flax module; its parameters, nested dicts of arrays; the preprocessing; and class names.

# %%
print(loaded.preprocessing)
print(loaded.labels)
{name: value.shape for name, value in loaded.params["encoder"]["block_0"]["attention"]["query"].items()}

# %% [markdown]
# Fields of the model can be overridden. At another resolution the position embeddings are resampled; for another number
# of classes the head is made anew. Nothing of this happens without a line in the report.

# %%
larger = vit_jax.from_pretrained(WEIGHTS, image_size=(16, 16), num_classes=5)
print(larger.report)

# %% [markdown]
# What does not fit is an error that names the field.

# %%
from vit_jax.errors import UserError

try:
    vit_jax.from_pretrained(WEIGHTS, num_layers=5)
except UserError as error:
    print(error)

# %% [markdown]
# ## Features out
#
# `analysis.features` takes a model and parameters from anywhere. Here: the mean of the patches in every layer, for the
# 355 test images, reduced to two dimensions by principal components. A digit has a colour and a marker.

# %%
import numpy as np
from IPython.display import Image

from vit_jax import analysis
from vit_jax.analysis.embedding.embeddings import project
from vit_jax.plots.embeddings import plot_map

test = digits.open_split("test")
rows = test.__getitems__(range(len(test)))
images = np.stack([loaded.preprocessing.rows(row["image"], None)[0] for row in rows])
labels = np.array([row["label"] for row in rows])
panels = {}
for layer in range(loaded.model.num_layers):
    patches = analysis.features(loaded.model, loaded.params, images, layer=layer, kind="patch")
    panels[f"layer {layer}"] = project(np.asarray(patches).mean(axis=(1, 2)), "pca")
plot_map(start.FIGURES / "features.png", panels, labels, loaded.labels)
Image(start.FIGURES / "features.png", width=900)

# %% [markdown]
# A run gives the features of a whole split, and `few_shot` fits a linear classifier to some of them: here five labelled
# digits of each class.

# %%
few = analysis.few_shot
train, held_out = digits.features("train"), digits.features("test")
chosen = np.concatenate([np.flatnonzero(train["label"] == digit)[:5] for digit in range(10)])
few({name: train[name][chosen] for name in ("features", "label")}, held_out, num_classes=10)

# %% [markdown]
# ## Fine-tune on a folder
#
# The folder has `train/CLASS/*.png` and `val/CLASS/*.png`. For want of photographs, these are ten letters in the fonts
# that Matplotlib has: six fonts for training, and four others for validation.

# %%
import pathlib

import matplotlib
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from vit_jax.plots import GREY, contact_sheet

FOLDER, LETTERS = pathlib.Path("../runs/notebooks/letters"), "ABCDEFGHIJ"
shutil.rmtree(FOLDER, ignore_errors=True)
rng = np.random.default_rng(0)


def draw(letter, font):
    canvas = Pillow.new("L", (48, 48))
    place = 24 + rng.uniform(-3, 3, size=2)
    ImageDraw.Draw(canvas).text(tuple(place), letter, 255, ImageFont.truetype(font, rng.integers(34, 44)), anchor="mm")
    return canvas.rotate(rng.uniform(-15, 15), Pillow.Resampling.BICUBIC).resize((8, 8), Pillow.Resampling.BOX)


folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
fonts = {
    "train": ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "STIXGeneral"],
    "val": ["DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneralBol", "cmr10"],
}
for split, names in fonts.items():
    for letter in LETTERS:
        (FOLDER / split / letter).mkdir(parents=True)
        for number in range(20):
            image = draw(letter, folder / f"{names[number % len(names)]}.ttf")
            image.save(FOLDER / split / letter / f"{number:02}.png")

shown = sorted((FOLDER / "val").glob("*/0[0-3].png"))
contact_sheet(
    start.FIGURES / "letters.png",
    [Pillow.open(file) for file in shown],
    [""] * len(shown),
    [file.parent.name for file in shown],
    [GREY] * len(shown),
)
Image(start.FIGURES / "letters.png", width=900)

# %% [markdown]
# One command fine-tunes the weights on the folder. Architecture, image size, channels and preprocessing come from the
# weights, the classes from the folder.

# %%
TUNED, SCRATCH = "../runs/notebooks/letters-tuned", "../runs/notebooks/letters-scratch"
OPTIONS = (
    "--config=../configs/finetune.py",
    "--config.data.path=../runs/notebooks/letters",
    "--config.batch_size=40",
    "--config.data.train_transforms=random_affine(degrees=10, shift=0.1)|resize|normalize(mean=0.5, std=0.5)",
    "--config.optimizer.schedule.peak=0.01",
    "--config.duration=80 epochs",
    "--config.log_every=20 epochs",
    "--config.eval_every=10 epochs",
)
for run in (TUNED, SCRATCH):
    shutil.rmtree(run, ignore_errors=True)
start.vit_jax("train", *OPTIONS, f"--workdir={TUNED}", f"--config.init_from={WEIGHTS}")

# %% [markdown]
# The same model, data and recipe from random weights:

# %%
fields = {"name": "vit:Ti/2", "hidden_dim": 64, "mlp_dim": 256, "num_heads": 4, "num_layers": 4, "pool": "gap"}
model = [f"--config.model.{name}={value}" for name, value in fields.items()]
model += ["--config.data.image_size=8,8", "--config.data.channels=1"]
start.vit_jax("train", *OPTIONS, f"--workdir={SCRATCH}", "--quiet", *model)

# %%
from etils import epath

from vit_jax.plots import COLOURS, figure
from vit_jax.workdir.metrics import read_metrics

with figure(start.FIGURES / "tuned.png") as drawing:
    axis = drawing.subplots()
    for run, label, colour in ((TUNED, "fine-tuned", COLOURS[0]), (SCRATCH, "from scratch", COLOURS[1])):
        found = read_metrics(epath.Path(run))
        points = [(row["step"], row["top1"]) for row in found if row["split"] == "eval"]
        axis.plot(*zip(*points), color=colour, marker="o", label=label)
    axis.set(xlabel="step", ylabel="top-1 accuracy on other fonts", ylim=(0, 1))
    axis.legend(frameon=False)
Image(start.FIGURES / "tuned.png", width=480)

# %% [markdown]
# The fine-tuned run predicts, evaluates and gives its features like any other, and leaves in any format that can
# express it.

# %%
tuned = vit_jax.load_run(TUNED)
print(next(tuned.predict([Pillow.open(shown[0])], top=3)))
try:
    tuned.export("../runs/notebooks/letters-hf", "huggingface")
except UserError as error:
    print(error)
