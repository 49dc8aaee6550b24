"""Previews of a text run: a table of translations, and a picture of the attention weights for one of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID
from vit_jax.plots import heat_maps

EXAMPLES = 50
SHOWN_WORDS = (4, 10)  # shortest and longest translation to draw, in words

PANELS = {
    "encoder/attention": ("encoder: from each source token to the source", "source", "source"),
    "decoder/attention": ("decoder: from each target token to those before it", "target", "target"),
    "decoder/cross_attention": ("from each target token to the source", "target", "source"),
}


def plot_attention(run: Any, sentence: str, translation: str, path: Any, layer: int = -1) -> Any:
    """Draws the attention weights of one layer, averaged over its heads, for a sentence and its translation.

    Three panels: the encoder's self-attention, the decoder's self-attention, and the decoder's attention to the
    encoder. Queries are rows, keys are columns.
    """
    vocabulary, layer = run.encoder, layer % run.model.num_layers
    source, target = (vocabulary.encode(text) for text in (sentence, translation))
    tokens = {"source": [*source, EOS_ID], "target": [BOS_ID, *target]}
    names = tuple(f"{kind}/{layer}" for kind in PANELS)

    @jax.jit
    def weights(params, source, target):
        captured: Any = run.model.apply({"params": params}, source, target, train=False, capture=names)[1]
        return [captured[name][0].mean(axis=0) for name in names]

    maps = weights(run.params, *(jnp.asarray([ids], jnp.int32) for ids in tokens.values()))
    pieces = {side: [vocabulary.piece(token) for token in ids] for side, ids in tokens.items()}
    panels = [
        (title, np.asarray(values), pieces[queries], pieces[keys])
        for (title, queries, keys), values in zip(PANELS.values(), maps, strict=True)
    ]
    return heat_maps(path, panels, f"{sentence}\n{translation}\n(layer {layer}, mean of its heads)")


def write_translations(run: Any, source: Any, workdir: Any, count: int = EXAMPLES) -> list[Any]:
    """Translates the first pairs of a split, and draws the attention for one of them; returns the files.

    `translations.tsv` has one row per pair: source, translation and reference, with white space collapsed.
    """
    sources, references = source.sources[:count], source.targets[:count]
    found = [answer["translation"] for answer in run.predict(sources)]
    if jax.process_index():
        return []
    rows = [("source", "translation", "reference"), *zip(sources, found, references, strict=True)]
    table = workdir / "translations.tsv"
    table.write_text("".join("\t".join(" ".join(text.split()) for text in row) + "\n" for row in rows))
    lengths = [len(text.split()) for text in found]
    shown = next((i for i, length in enumerate(lengths) if SHOWN_WORDS[0] <= length <= SHOWN_WORDS[1]), 0)
    return [table, plot_attention(run, sources[shown], found[shown], workdir / "attention.png")]
