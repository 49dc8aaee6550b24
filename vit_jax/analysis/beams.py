"""Beam search step by step: the hypotheses that are kept at each position, and a picture of their tree."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID
from vit_jax.errors import UserError
from vit_jax.models.decoding import beam_loop, length_penalty, make_step
from vit_jax.plots import COLOURS, PAGE, figure


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
    if run.task.name != "translation":
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


def plot_beams(steps: Sequence[Sequence[Hypothesis]], vocabulary: Any, path: Any) -> epath.Path:
    """Draws the hypotheses of `beam_steps` as a tree that grows to the right, one column for each position.

    A cell has the last sub-word and the log-probability of a hypothesis; a line leads to it from the hypothesis that it
    continues. Complete hypotheses are orange, with their scores, and the path to the translation is bold.

    Args:
      vocabulary: The run's encoder.
      path: The file to write: PNG, PDF or SVG.
    """
    complete = [found for found in (row for step in steps for row in step) if found.is_complete]
    chosen = max(complete or steps[-1], key=lambda found: found.score).tokens
    places = [{found.tokens: row for row, found in enumerate(step)} for step in steps]
    width = max(PAGE, 0.62 * len(steps))
    with figure(path, width, 0.45 * max(map(len, steps)) + 0.5) as drawing:
        axis = drawing.subplots()
        for column, step in enumerate(steps):
            for row, found in enumerate(step):
                on_path = found.tokens == chosen[: column + 1]
                if column:
                    above = places[column - 1][found.tokens[:-1]]
                    colour, line = ("black", 1.6) if on_path else ("#999999", 0.6)
                    axis.plot([column - 0.62, column - 0.38], [above, row], color=colour, lw=line)
                piece = "end" if found.is_complete else vocabulary.piece(found.tokens[-1])
                number = f"score {found.score:.2f}" if found.is_complete else f"{found.log_prob:.2f}"
                colour = COLOURS[1] if found.is_complete else "black"
                weight = "bold" if on_path else "normal"
                axis.text(column, row - 0.04, piece, ha="center", va="bottom", color=colour, weight=weight)
                axis.text(column, row + 0.04, number, ha="center", va="top", fontsize=5.5, color=colour)
        axis.set(xlim=(-0.5, len(steps) - 0.5), ylim=(max(map(len, steps)) - 0.5, -0.5), yticks=[])
        axis.set(xticks=range(len(steps)), xticklabels=range(1, len(steps) + 1), xlabel="position")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return epath.Path(path)
