"""TimeSformer, Figure 3: the cost of joint and divided attention by resolution and by number of frames.

The paper prints no numbers for this figure, so the cells have none to agree with.
"""

from collections.abc import Sequence

from vit_jax.plots.cost import draw_costs
from vit_jax.reproduce.tables import Cell, Column, Row, Table

TERA = Column("multiply-accumulates (T)", lambda row, found: found.macs / 1e12)
SCHEMES = {"joint": "joint_space_time", "divided": "divided_space_time"}
RESOLUTIONS = {side: f"8 x {side}" for side in (224, 336, 448, 560)}
FRAMES = {frames: f"{frames} x 224" for frames in (8, 32, 64, 96)}


def _row(scheme: str, clip: str) -> Row:
    frames, side = map(int, clip.split(" x "))
    fields = {"attention_type": SCHEMES[scheme], "num_frames": frames, "image_size": (side, side), "num_classes": 400}
    return Row(f"{scheme}, {clip}", "timesformer:B/16", fields)


def plot(figure, cells: Sequence[Cell]) -> None:
    """Draws the two panels of the figure."""
    cost = {cell.row: cell.computed for cell in cells}
    panels = zip(figure.subplots(1, 2), (RESOLUTIONS, FRAMES), ("side of the frames, in pixels", "frames"), strict=True)
    for axis, clips, label in panels:
        rows = {scheme: {size: f"{scheme}, {clip}" for size, clip in clips.items()} for scheme in SCHEMES}
        draw_costs(
            axis,
            {
                f"{scheme} space-time attention": {size: cost[row] for size, row in sizes.items() if row in cost}
                for scheme, sizes in rows.items()
            },
        )
        axis.set(xlabel=label, ylabel="multiply-accumulates of a clip (T)", xticks=list(clips))
        axis.legend(frameon=False)


_CLIPS = dict.fromkeys([*RESOLUTIONS.values(), *FRAMES.values()])

TABLE = Table(
    title="TimeSformer, Figure 3: cost by resolution and frames",
    source="none: the figure has no printed numbers",
    note="Frames x pixels of one clip; 400 classes.",
    columns=(TERA,),
    rows=[
        _row(scheme, clip) for scheme in SCHEMES for clip in dict.fromkeys([*RESOLUTIONS.values(), *FRAMES.values()])
    ],
    plot=plot,
)
