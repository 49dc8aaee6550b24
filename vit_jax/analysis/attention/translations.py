"""Attention of a translation, with the tokens that attend and are attended to."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vit_jax.analysis.attention.sentences import sentence_attention
from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID


class Panel(NamedTuple):
    """What the rows and columns of a matrix are.

    Attributes:
      title: For a figure.
      queries, keys: The sides that attend and are attended to, `source` or `target`.
    """

    title: str
    queries: str
    keys: str

    def of(self, tokens: dict[str, list[str]]) -> tuple[list[str], list[str]]:
        """Returns the tokens of the rows and of the columns."""
        return tokens[self.queries], tokens[self.keys]


PANELS = {
    "encoder": Panel("encoder: source (rows) to source", "source", "source"),
    "decoder": Panel("decoder: target (rows) to the target so far", "target", "target"),
    "cross": Panel("decoder: target (rows) to source", "target", "source"),
}


def translation_attention(
    run: Any, source: str, target: str, *, method: str = "weights", layer: int = -1, head: int | None = None
) -> tuple[dict[str, Float[np.ndarray, "queries keys"]], dict[str, list[str]]]:
    """Returns the `sentence_attention` of a sentence and its translation, and the tokens of `source` and `target`.

    The source ends with the token for its end. The target starts with the token for its beginning: row i of `decoder`
    and `cross` belongs to the token before the one that is predicted there.

    Args:
      run: A run on text.
      source, target: The sentence and its translation, such as the run's own, from `run.predict`.
      method, layer, head: See `sentence_attention`.

    Raises:
      ValueError: See `sentence_attention`.
      UserError: A text is not valid Unicode.
    """
    ids = {"source": [*run.encoder.encode(source), EOS_ID], "target": [BOS_ID, *run.encoder.encode(target)]}

    @jax.jit
    def compute(params, *sentences):
        return sentence_attention(run.model, params, *sentences, method=method, layer=layer, head=head)

    given = list(ids.values())[: 1 if run.model.architecture != "encoder_decoder" else 2]
    found = compute(run.params, *(jnp.asarray([tokens], jnp.int32) for tokens in given))
    pieces = {side: [run.encoder.piece(token) for token in tokens] for side, tokens in ids.items()}
    return {kind: np.asarray(found[kind][0]) for kind in PANELS if kind in found}, pieces  # jit sorts them
