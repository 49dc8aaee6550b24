"""Comparing runs: groups over seeds, intervals by hand, the table, the picture."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from vit_jax.__main__ import main
from vit_jax.analysis import compare
from vit_jax.config import default_config
from vit_jax.plots.runs import draw_runs

SCORES = {(1e-3, 0): 0.90, (1e-3, 1): 0.92, (1e-3, 2): 0.97, (3e-3, 0): 0.80, (3e-3, 1): 0.80}


def write(workdir, top1, steps=(10, 20), **values):
    config = default_config()
    config.update_from_flattened_dict({"model.name": "vit:Ti/2", **values})
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(config.to_json())
    rows = []
    for step in steps:
        rows.append({"step": step, "split": "train", "loss": 10 / step})
        rows.append({"step": step, "split": "eval", "loss": 1 - top1, "top1": top1 * step / steps[-1], "examples": 9})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def runs(tmp_path):
    for number, ((peak, seed), top1) in enumerate(SCORES.items()):
        write(
            tmp_path / str(number),
            top1,
            **{"optimizer.schedule.peak": peak, "seed": seed, "log_every": f"{number + 1} steps"},
        )
    return [str(tmp_path / str(number)) for number in range(len(SCORES))]


def test_runs_that_differ_by_their_seed_are_one_row(runs, capsys):
    assert main(["compare", *runs, "--json"]) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["optimizer.schedule.peak"], first["seeds"], first["step"]) == (1e-3, "0 1 2", "20")
    values = np.array([0.90, 0.92, 0.97])
    assert first["top1"] == pytest.approx(0.93)
    assert first["top1_95"] == pytest.approx(
        4.302653 * np.sqrt(((values - 0.93) ** 2).sum() / 2) / np.sqrt(3), rel=1e-6
    )
    assert second["top1_95"] == 0
    assert "log_every" not in first  # it changes no result


def test_the_table_for_people_and_the_csv(runs, tmp_path, capsys):
    assert main(["compare", *runs[:1], runs[3], f"--csv={tmp_path / 'x.csv'}"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["optimizer.schedule.peak", "seeds", "step", "top1", "loss"]
    assert lines[1] == ["0.001", "0", "20", "0.9000", "0.1000"]
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert [float(row["top1"]) for row in rows] == [0.9, 0.8]
    assert math.isnan(float(rows[0]["top1_95"]))


def test_the_mean_of_a_single_value_has_no_interval():
    assert compare.interval(np.array([0.5]))[0] == 0.5
    assert math.isnan(compare.interval(np.array([0.5]))[1])
    assert math.isnan(compare.interval(np.array([]))[0])


def test_a_picture_in_every_format(runs, tmp_path, capsys):
    for suffix in ("png", "pdf", "svg"):
        assert main(["compare", *runs, f"--out={tmp_path / f'x.{suffix}'}"]) == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width == 6.9 * 300
    text = (tmp_path / "x.svg").read_text()
    assert "training loss" in text
    assert "peak 0.001 (3 seeds)" in text


def test_the_bands_do_not_stretch_the_axes(runs):
    from matplotlib.figure import Figure

    groups = compare.grouped([compare.read_record(path) for path in runs])
    figure = Figure()
    draw_runs(figure, groups, "top1")
    _, axis = figure.axes
    assert len(axis.collections) == 1  # of the group with three seeds; two are too few
    values = np.concatenate([line.get_ydata() for line in axis.lines])
    low, high = axis.get_ylim()
    assert values.min() - 0.1 < low <= values.min()
    assert values.max() <= high < values.max() + 0.1


def test_curves_that_end_at_other_steps_are_drawn_one_by_one(tmp_path, capsys):
    from matplotlib.figure import Figure

    write(tmp_path / "a", 0.5, seed=0)
    write(tmp_path / "b", 0.6, seed=1, steps=(10, 20, 30))
    groups = compare.grouped([compare.read_record(str(tmp_path / name)) for name in "ab"])
    assert [group.seeds for group in groups] == [[0, 1]]
    figure = Figure()
    draw_runs(figure, groups, "top1")
    _, axis = figure.axes
    assert [len(line.get_xdata()) for line in axis.lines] == [2, 3]


def test_a_sweep_stands_for_its_runs(runs, tmp_path, capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    from vit_jax.launch.sweep import Sweep

    Sweep.parse("configs/quickstart.py", [], [], 3).save(tmp_path / "sweep")
    assert "no run of the sweep" in refused("compare", tmp_path / "sweep")
    write(tmp_path / "sweep" / "seed=1", 0.5, seed=1)
    assert main(["compare", str(tmp_path / "sweep"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == "1"


def test_mistakes_in_one_line(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("[")
    for arguments, message in (
        ([tmp_path / "no"], "no such workdir"),
        ([tmp_path / "empty"], "has no config.json. Name workdirs, or the folder of a sweep"),
        ([tmp_path / "damaged"], "config.json is damaged"),
        ([runs[0], runs[0]], "is given twice"),
        ([runs[0], "--metric=top2"], "has the metric 'top2'; did you mean 'top1'?"),
        ([runs[0], "--out=x.jpeg"], "--out=x.jpeg: the name must end in one of .png, .pdf, .svg"),
    ):
        assert message in refused("compare", *arguments)
