"""Figures of cost: by resolution and number of frames, and by module."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.plots.figure import COLOURS, COLUMN, drawable, figure

_MARKERS = "osD^v<>"
_AXES = {"side": "side in pixels", "frames": "frames"}


def draw_costs(axis: Any, curves: Mapping[str, Mapping[int, float]]) -> None:
    """Draws costs against a size, with one line per model, on an axis that starts at zero.

    Args:
      curves: Cost by size, by the name of the model; empty ones are left out.
    """
    for i, (name, points) in enumerate(curves.items()):
        if points:
            style = {"color": COLOURS[i % len(COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
            axis.plot(list(points), list(points.values()), label=drawable(name), **style)
    axis.set_ylim(0, None)
    axis.grid(alpha=0.3)


def plot_costs(path: Any, panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> None:
    """Draws the multiply-accumulates of models by size of their input (TimeSformer, Figure 3).

    Args:
      panels: Under `side` or `frames`, what `draw_costs` takes, in multiply-accumulates.
    """
    most = max(value for curves in panels.values() for points in curves.values() for value in points.values())
    unit, letter = next(
        (unit, letter) for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1, "")) if most >= unit
    )
    with figure(path, COLUMN, 2.2) as drawing:
        axes = drawing.subplots(1, len(panels), squeeze=False)[0]
        for axis, (name, curves) in zip(axes, panels.items(), strict=True):
            scaled = {model: {size: value / unit for size, value in points.items()} for model, points in curves.items()}
            draw_costs(axis, scaled)
            axis.set(xlabel=_AXES[name], xticks=sorted({size for points in curves.values() for size in points}))
        axes[0].set_ylabel("multiply-accumulates" + (f" ({letter})" if letter else ""))
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def plot_modules(path: Any, rows: Sequence[tuple[str, int, int]]) -> None:
    """Draws the share of each module in the parameters and in the multiply-accumulates of a model.

    Args:
      rows: (module, parameters, multiply-accumulates), the whole model first, see `Cost.table`.
    """
    (_, all_params, all_macs), *modules = rows
    with figure(path, COLUMN, 0.26 * len(modules) + 0.75) as drawing:
        axis = drawing.subplots()
        bars = (
            (-0.18, [params / max(all_params, 1) for _, params, _ in modules], COLOURS[5], "parameters"),
            (0.18, [macs / max(all_macs, 1) for *_, macs in modules], COLOURS[0], "multiply-accumulates"),
        )
        for shift, shares, colour, label in bars:
            places = [place + shift for place in range(len(modules))]
            axis.barh(places, [100 * share for share in shares], height=0.34, color=colour, label=label)
        axis.set_yticks(range(len(modules)), [drawable(row[0]) for row in modules])
        axis.invert_yaxis()
        axis.set(xlabel="share of the model (%)", xlim=(0, 100))
        axis.spines[["top", "right"]].set_visible(False)
        drawing.legend(loc="outside lower center", ncols=2, frameon=False)
