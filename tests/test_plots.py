"""Pictures: what they show, and that it can be read."""

import numpy as np
import pytest
from PIL import Image

from vit_jax import plots
from vit_jax.data.image.modality import MODALITY as IMAGES
from vit_jax.data.video.decode import ArrayVideo
from vit_jax.data.video.modality import MODALITY
from vit_jax.plots import pictures


def drawn(monkeypatch, draw, *arguments):
    """Returns the figure that a function draws, instead of writing it."""
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, *_: figures.append(figure))
    draw(*arguments)
    (figure,) = figures
    return figure


@pytest.mark.parametrize(("more", "train"), [({}, [3.0, 2.0]), ({"nll": 1.5}, [1.5, 1.5])])
def test_the_curve_of_training_is_that_of_evaluation(tmp_path, monkeypatch, more, train):
    rows = [{"step": step, "split": "train", "loss": loss, **more} for step, loss in ((1, 3.0), (2, 2.0))]
    rows.append({"step": 2, "split": "eval", "loss": 1.0, "bleu": 9.0})
    loss, bleu = drawn(monkeypatch, plots.plot_curves, rows, tmp_path / "curves.png", "bleu").axes
    label = "train, without label smoothing" if more else "train"
    assert {line.get_label(): list(line.get_ydata()) for line in loss.lines} == {label: train, "eval: 1": [1.0]}
    assert [list(line.get_ydata()) for line in bleu.lines] == [[9.0]]


def test_curves_of_one_evaluation_can_be_read(tmp_path, monkeypatch):
    rows = [{"step": 28, "split": "train", "loss": 2.0}, {"step": 28, "split": "eval", "loss": 1.0, "top1": 0.93333}]
    loss, top1 = drawn(monkeypatch, plots.plot_curves, rows, tmp_path / "curves.png").axes
    assert {line.get_label() for line in loss.lines} == {"train: 2", "eval: 1"}
    assert [line.get_label() for line in top1.lines] == ["eval: 0.9333"]
    for axis in (loss, top1):
        assert axis.get_xlim()[0] == 0
        assert axis.get_xlim()[1] > 28
        assert all(step == round(step) for step in axis.get_xticks())
        assert all(line.get_marker() == "o" for line in axis.lines)


def test_a_metric_without_values_is_said_to_have_none(tmp_path, monkeypatch):
    rows = [{"step": 1, "split": "train", "loss": 2.0}]
    _, top1 = drawn(monkeypatch, plots.plot_curves, rows, tmp_path / "curves.png").axes
    assert [text.get_text() for text in top1.texts] == ["no values"]
    assert top1.get_legend() is None


def test_a_contact_sheet_has_names_and_predictions(tmp_path, monkeypatch):
    images = [Image.new("RGB", (8, 8))] * 3
    names = ["val/red/0.png", "a" * 40 + "/1.png", "$x$ \udcff.png"]
    titles = ["red (97%)", "red (60%)\ntrue: blue", "$5"]
    colours = [plots.GREEN, plots.RED, plots.GREY]
    figure = drawn(monkeypatch, plots.contact_sheet, tmp_path / "sheet.png", images, names, titles, colours, "three")
    captions = [axis.get_title().split("\n") for axis in figure.axes]
    assert captions == [
        ["val/red/0.png", "red (97%)"],
        ["…" + "a" * 17 + "/1.png", "red (60%)", "true: blue"],
        ["$x$ ?.png", "$5"],
    ]
    assert [axis.title.get_color() for axis in figure.axes] == colours
    assert len({axis.get_position().height for axis in figure.axes}) == 1


def test_heat_maps_share_one_colour_scale_and_begin_at_the_same_height(tmp_path, monkeypatch):
    panels = [(f"{n} tokens", np.full((n, n), 1 / n), ["t"] * n, ["t"] * n) for n in (2, 9)]
    figure = drawn(monkeypatch, plots.heat_maps, tmp_path / "maps.png", panels)
    *maps, scale = figure.axes
    assert {axis.images[0].get_clim() for axis in maps} == {(0.0, 0.5)}
    assert scale.get_ylim() == (0.0, 0.5)
    figure.draw_without_rendering()
    tops = [axis.get_position().y1 for axis in maps]
    assert tops[0] == pytest.approx(tops[1], abs=0.01)
    cells = [axis.get_position().width / n for axis, n in zip(maps, (2, 9), strict=True)]
    assert cells[0] == pytest.approx(cells[1], rel=0.05)


def test_characters_without_a_font_are_named_in_one_line(tmp_path, caplog, recwarn):
    names = ["\U0010fffe \U0010fffd.png", "\U0010fffd.png"]
    plots.contact_sheet(tmp_path / "sheet.png", [Image.new("L", (8, 8))] * 2, names, ["a"] * 2, [plots.GREY] * 2)
    (line,) = caplog.messages
    assert line == (
        f"{tmp_path}/sheet.png: no installed font has the characters \U0010fffe\U0010fffd; they are drawn as boxes"
    )
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


@pytest.mark.parametrize(("num_frames", "shown"), [(1, [0]), (3, [0, 1, 2]), (8, [0, 2, 5, 7])])
def test_a_clip_is_shown_by_frames_spread_evenly_none_of_them_twice(num_frames, shown):
    frames = np.broadcast_to(10 * np.arange(num_frames, dtype=np.uint8)[:, None, None, None], (num_frames, 16, 16, 1))
    strip = np.asarray(MODALITY.thumbnail(ArrayVideo(frames, 8.0, "numbers")))[0, 8::17, 0]
    assert strip.tolist() == [10 * index for index in shown]


@pytest.mark.parametrize(
    ("mode", "level", "drawn"), [("L", 255, 255), ("L", 40, 40), ("I;16", 65535, 255), ("LA", (0, 0), 255)]
)
def test_levels_are_drawn_as_models_see_them(tmp_path, mode, level, drawn):
    image = IMAGES.thumbnail(Image.new(mode, (8, 8), level))
    path = plots.contact_sheet(tmp_path / "sheet.png", [image], ["a"], ["b"], ["black"])
    sheet = np.asarray(Image.open(path).convert("L"))
    assert abs(int(sheet[sheet.shape[0] // 2 + 10, sheet.shape[1] // 2]) - drawn) <= 1
