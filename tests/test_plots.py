"""The curves of a run: training and evaluation losses are comparable, without label smoothing where possible."""

import numpy as np
import pytest

from vit_jax import plots
from vit_jax.data.video.decode import ArrayVideo
from vit_jax.data.video.modality import MODALITY


@pytest.mark.parametrize(("more", "train"), [({}, [3.0, 2.0]), ({"nll": 1.5}, [1.5, 1.5])])
def test_the_curve_of_training_is_that_of_evaluation(tmp_path, monkeypatch, more, train):
    rows = [{"step": step, "split": "train", "loss": loss, **more} for step, loss in ((1, 3.0), (2, 2.0))]
    rows.append({"step": 2, "split": "eval", "loss": 1.0, "bleu": 9.0})
    monkeypatch.setattr(plots, "_save", lambda figure, path: figure)
    loss, bleu = plots.plot_curves(rows, tmp_path / "curves.png", "bleu").axes
    assert {line.get_label(): list(line.get_ydata()) for line in loss.lines} == {"train": train, "eval": [1.0]}
    assert [list(line.get_ydata()) for line in bleu.lines] == [[9.0]]


@pytest.mark.parametrize(("num_frames", "shown"), [(1, [0]), (3, [0, 1, 2]), (8, [0, 2, 5, 7])])
def test_a_clip_is_shown_by_frames_spread_evenly_none_of_them_twice(num_frames, shown):
    frames = np.broadcast_to(10 * np.arange(num_frames, dtype=np.uint8)[:, None, None, None], (num_frames, 16, 16, 1))
    strip = np.asarray(MODALITY.thumbnail(ArrayVideo(frames, 8.0, "numbers")))[0, 8::17, 0]
    assert strip.tolist() == [10 * index for index in shown]
