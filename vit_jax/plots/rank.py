"""Figures of rank collapse: residuals by depth, the decay of pure attention, and paths through heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.analysis.rank.branches import Parts
from vit_jax.plots.figure import COLOURS, COLUMN, SEQUENTIAL, figure

# Parts of a network -> (colour, marker, style of the line); without layer norms, lines are dashed
_STYLES = {
    (False, False): (COLOURS[1], "o"),
    (False, True): (COLOURS[4], "s"),
    (True, False): (COLOURS[0], "^"),
    (True, True): (COLOURS[2], "D"),
}


def plot_depth(path: Any, panels: Mapping[str, Mapping[Parts, np.ndarray]]) -> None:
    """Draws the relative residual by depth, with one panel per network (arXiv:2103.03404, Figure 2).

    Lines are means over the examples, and bands are one standard deviation wide on each side.

    Args:
      panels: What `residuals_by_depth` returns, by title, for example initial and trained.
    """
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    with figure(path, COLUMN, 0.75 + 1.45 * rows) as drawing:
        axes = drawing.subplots(rows, columns, squeeze=False, sharex="row", sharey=True)
        for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
            for parts, values in curves.items():
                colour, marker = _STYLES[parts.skip, parts.mlp]
                style = "-" if parts.norm else "--"
                depth, mean, spread = np.arange(values.shape[1]), values.mean(axis=0), values.std(axis=0)
                axis.plot(depth, mean, style, color=colour, marker=marker, markersize=2.5, lw=0.9, label=str(parts))
                axis.fill_between(depth, np.maximum(mean - spread, 0), mean + spread, color=colour, alpha=0.2, lw=0)
            last = values.shape[1] - 1
            axis.set(title=title, ylim=(-0.02, None), xlim=(-0.04 * last, 1.04 * last))
            axis.xaxis.get_major_locator().set_params(integer=True, nbins=5)
        for axis in axes[-1]:
            axis.set_xlabel("after block")
        for axis in axes[:, 0]:
            axis.set_ylabel("relative residual")
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        drawing.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def plot_decay(path: Any, panels: Mapping[str, Any]) -> None:
    """Draws how the residual of pure attention decays, and the paper's bound, both as powers of ten.

    Args:
      panels: `Decay` of each network, by title. Examples are averaged (as logarithms).
    """
    with figure(path, COLUMN, 2.5) as drawing:
        axes = drawing.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, (title, found) in zip(axes, panels.items(), strict=True):
            measured = np.where(np.isfinite(found.residual), found.residual, np.nan)
            lines = (
                (measured, COLOURS[1], "o-", "pure attention"),
                (
                    np.where(np.isnan(measured), np.nan, found.step_bound),
                    COLOURS[0],
                    "v:",
                    "bound, from the layer before",
                ),
                (found.bound, COLOURS[0], "s--", "bound, from where it holds"),
            )
            for values, colour, style, label in lines:
                rows = [column[np.isfinite(column)] for column in values.T]
                points = [(depth, row.mean()) for depth, row in enumerate(rows) if len(row) == len(values)]
                if points:
                    axis.plot(*zip(*points, strict=True), style, color=colour, label=label)
            axis.set(title=title, xlabel="after block", ylim=(np.nanmin(measured) - 10, 20))
            axis.set_xlim(-0.3, max(np.flatnonzero(np.isfinite(measured).all(axis=0))) + 1)
            axis.xaxis.get_major_locator().set_params(integer=True, nbins=5)
            axis.grid(alpha=0.3, lw=0.4)
        axes[0].set_ylabel("log10 of the residual's norm")
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def plot_paths(
    path: Any,
    residual: np.ndarray,
    share: np.ndarray,
    count: np.ndarray,
    accuracy: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Draws, by length of path: the residual, the share of the output and of the paths; and the accuracy.

    Args:
      residual, share: `(lengths, examples)`, see `paths.summary`.
      count: `(lengths,)`, see `paths.share_of_lengths`.
      accuracy: `(lengths,)` of the outputs from the paths up to each length, by what it is called in the legend.
    """
    lengths = np.arange(len(residual))
    with figure(path, COLUMN, 2.4) as drawing:
        left, right = drawing.subplots(1, 2)
        for values, colour, marker, label in (
            (residual, COLOURS[1], "o", "relative residual"),
            (share, COLOURS[0], "^", "share of the output"),
        ):
            mean, spread = values.mean(axis=1), values.std(axis=1)
            left.plot(lengths, mean, color=colour, marker=marker, label=label)
            left.fill_between(lengths, np.maximum(mean - spread, 0), mean + spread, color=colour, alpha=0.2, lw=0)
        left.set(xlabel="length of path", ylim=(0, None))
        right.bar(lengths, count, color="#bbbbbb", label="share of all paths")
        for (label, values), colour in zip((accuracy or {}).items(), (COLOURS[2], COLOURS[3]), strict=False):
            right.plot(lengths, values, color=colour, marker="D", label=label)
        right.set(xlabel="length of path", ylim=(0, 1.04 if accuracy else None))
        for axis, place in ((left, "outside lower left"), (right, "outside lower right")):
            axis.xaxis.get_major_locator().set_params(integer=True, nbins=5)
            drawing.legend(*axis.get_legend_handles_labels(), loc=place, frameon=False, handlelength=1.5)


def plot_lengths(path: Any, shares: Mapping[str, np.ndarray]) -> None:
    """Draws the share of paths of each length for several architectures (a figure of the paper).

    The first of them has a thick black line.
    """
    styles, colours = ("-", "--", ":", "-."), (COLOURS[-1], *COLOURS[:-1], "#888888")
    with figure(path, COLUMN, 2.2) as drawing:
        axis = drawing.subplots()
        for i, (name, values) in enumerate(shares.items()):
            style = {"color": colours[i % len(colours)], "marker": ".", "lw": 1.0 if i else 1.8}
            axis.plot(np.arange(len(values)), values, styles[i % 4], label=name, **style)
        axis.set(xlabel="length of path", ylabel="share of all paths", ylim=(0, None))
        axis.legend(frameon=False, ncols=2)


def plot_two_paths(path: Any, values: np.ndarray, paths: Sequence[np.ndarray], labels: Sequence[str]) -> None:
    """Draws the heads of a network as a grid, and paths through them (the paper's Figure 1).

    Args:
      values: `(attentions, heads)`: the size of the path that passes one head only.
      paths: For each attention a head, or -1 for its skip connection.
      labels: Text of each path in the legend.
    """
    attentions, heads = values.shape
    with figure(path, COLUMN, 0.9 + 0.24 * (heads + 1)) as drawing:
        axis = drawing.subplots()
        grid = np.stack(np.meshgrid(np.arange(attentions), np.arange(heads), indexing="ij"))
        drawn = axis.scatter(*grid.reshape(2, -1), c=values.ravel(), s=90, cmap=SEQUENTIAL, vmin=0, zorder=2)
        axis.scatter(np.arange(attentions), np.full(attentions, -1), c="white", edgecolors="#999999", s=90, zorder=2)
        for path_, label, colour, style, shift in zip(
            paths, labels, COLOURS[1:4:2], ("-", "--"), (-0.07, 0.07), strict=False
        ):
            ends = np.concatenate([[-1], path_, [-1]]) + shift
            axis.plot(np.arange(-1, attentions + 1), ends, style, color=colour, lw=1.6, label=label, zorder=3)
        axis.set_yticks([-1, *range(heads)], ["skip", *(f"head {h}" for h in range(heads))])
        axis.set_xticks(range(-1, attentions + 1), ["in", *map(str, range(attentions)), "out"])
        axis.set(xlabel="attention", xlim=(-1.3, attentions + 0.3), ylim=(-1.6, heads - 0.4))
        axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axis.tick_params(length=0)
        scale = drawing.colorbar(drawn, ax=axis, aspect=14, pad=0.02, shrink=0.9)
        scale.set_label("share of the output")
        drawing.legend(loc="outside lower center", ncols=1, frameon=False)
