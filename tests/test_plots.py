"""What is drawn of a run is comparable: both curves of a loss are without smoothing where there is such a one."""

import json

import pytest

from vit_jax import plots


@pytest.mark.parametrize(("more", "train"), [({}, [3.0, 2.0]), ({"nll": 1.5}, [1.5, 1.5])])
def test_the_curve_of_training_is_that_of_evaluation(tmp_path, monkeypatch, more, train):
    rows = [{"step": step, "split": "train", "loss": loss, **more} for step, loss in ((1, 3.0), (2, 2.0))]
    rows.append({"step": 2, "split": "eval", "loss": 1.0, "bleu": 9.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(plots, "_save", lambda figure, path: figure)
    loss, bleu = plots.plot_curves(tmp_path, "bleu").axes
    assert {line.get_label(): list(line.get_ydata()) for line in loss.lines} == {"train": train, "eval": [1.0]}
    assert [list(line.get_ydata()) for line in bleu.lines] == [[9.0]]
