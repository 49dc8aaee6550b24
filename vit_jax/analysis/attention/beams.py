"""Beam search step by step: the hypotheses that are kept at each position."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID
from vit_jax.errors import UserError
from vit_jax.models.decoding import beam_loop, length_penalty, make_step


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """The beginning of a translation, or a complete one.

    Attributes:
      tokens: Token ids, without the first token `BOS_ID`; a complete hypothesis ends with `EOS_ID`.
      log_prob: log P(tokens | source), the natural logarithm.
      score: `log_prob / length_penalty(len(tokens), alpha)`, by which complete hypotheses are compared.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float

    @property
    def is_complete(self) -> bool:
        return self.tokens[-1] == EOS_ID


def beam_steps(run: Any, sentence: str, *, beam_size: int | None = None) -> list[list[Hypothesis]]:
    """Returns, for each position, the hypotheses that beam search keeps, the most probable first.

    This is the search of `Run.predict`, run one position at a time. A hypothesis that becomes complete is listed once
    and keeps its place, so that later positions have fewer. The translation is the complete hypothesis with the highest
    score of all positions (if none is complete at the maximum length, the best of the last position).

    Args:
      run: A run on text, as `load_run` returns it.
      beam_size: Number of hypotheses kept; by default that of the run.

    Raises:
      UserError: The run does not translate, or the sentence is blank.
    """
    if "text" not in run.task.modalities:
        raise UserError(f"beam_steps needs a run that translates; this run is on {run.modality.inputs}")
    if not sentence.strip():
        raise UserError("beam_steps needs a sentence that is not blank")
    task = run.task_with(**({} if beam_size is None else {"beam_size": beam_size}))
    source = jnp.asarray([[*run.encoder.encode(sentence), EOS_ID]], jnp.int32)
    length = source.shape[1] + task.extra_length
    if run.model.pos_embed == "learned":
        length = min(length, run.model.max_length)
    step, past = make_step(run.model, run.params, source, (task.beam_size, length))
    more, advance, state = beam_loop(
        step,
        past,
        jnp.asarray([length]),
        beam_size=task.beam_size,
        length=length,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        alpha=task.length_penalty,
    )
    advance, steps = jax.jit(advance), []
    while more(state):
        state = advance(state)
        position, beams = int(state[0]), state[1]
        penalty = float(length_penalty(jnp.asarray(position), task.length_penalty))
        rows = zip(np.asarray(beams.tokens[0, :, :position]).tolist(), np.asarray(beams.kept[0]).tolist(), strict=True)
        steps.append([Hypothesis(tuple(row), total, total / penalty) for row, total in rows if total > -np.inf])
    return steps
