"""A picture of beam search: the tree of its hypotheses."""

from collections.abc import Sequence
from typing import Any

from vit_jax.plots.figure import COLOURS, PAGE, figure


def plot_beams(steps: Sequence[Sequence[Any]], vocabulary: Any, path: Any) -> None:
    """Draws the hypotheses of `analysis.beam_steps` as a tree that grows to the right, one column for each position.

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
