"""The commands analyze rank, positions, embed and cost from end to end, on one small run."""

import contextlib
import csv
import io
import json

import numpy as np
import pytest
import tiny
from matplotlib import pyplot  # noqa: F401  here, before HOME is another and its fonts would be searched for again
from PIL import Image

from vit_jax.__main__ import main

pytestmark = pytest.mark.usefixtures("own_home")


def run(*arguments):
    """Runs a command that must succeed, in this process; returns what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(argument) for argument in arguments]) == 0
    return out.getvalue()


def rows(*arguments):
    return [json.loads(line) for line in run("analyze", *arguments, "--json").splitlines() if line.startswith("{")]


def refusal(capsys, *arguments):
    assert main(["analyze", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def workdir(own_home, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    flags = {"duration": "6 steps", "checkpoint.every": "6 steps", "eval_every": "6 steps", "log_every": "6 steps"}
    run(*tiny.command(workdir, **flags)[3:])
    return workdir


def test_rank(workdir, tmp_path):
    found = rows("rank", workdir, f"--out={tmp_path}/depth.pdf", "--examples=3")
    assert len(found) == 2 * 8 * 3  # initial and trained, switched parts, depths
    assert {row["parameters"] for row in found} == {"initial", "step 6"}
    assert all(row["examples"] == 3 and 0 <= row["residual"] <= 2 for row in found)
    assert (tmp_path / "depth.pdf").read_bytes().startswith(b"%PDF")
    found = rows("rank", workdir, "--what=decay", f"--out={tmp_path}/decay.png", "--examples=2")
    assert [row["blocks"] for row in found] == [0, 1, 2] * 4
    assert all(row["log10_step_bound"] is None for row in found if row["blocks"] == 0)
    run("analyze", "rank", workdir, "--what=paths", f"--out={tmp_path}/paths.svg", f"--csv={tmp_path}/paths.csv")
    with open(tmp_path / "paths.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["length"] for row in table] == ["0", "1", "2"]
    assert sum(float(row["share_of_paths"]) for row in table) == pytest.approx(1, abs=1e-5)
    assert {"residual", "share_of_output", "top1_up_to_it"} < set(table[0])
    heads = rows("rank", workdir, "--what=heads", f"--out={tmp_path}/heads.png", "--examples=2")
    assert len(heads) == 2 * 4
    lengths = [
        row
        for row in rows("rank", workdir, "--what=lengths", f"--out={tmp_path}/lengths.png")
        if row["model"] == "this run"
    ]
    assert [row["share"] for row in lengths] == pytest.approx([1 / 25, 8 / 25, 16 / 25])


def test_positions(workdir, tmp_path):
    found = rows("positions", workdir, f"--out={tmp_path}/space.png")
    assert len(found) == 16**2
    assert all(row["similarity"] == pytest.approx(1) for row in found[:: 16 + 1])
    assert len(rows("positions", workdir, "--grid=2,3", f"--out={tmp_path}/grid.png")) == 36
    filters = rows("positions", workdir, "--what=filters", f"--out={tmp_path}/filters.png")
    assert sum(row["share_of_variance"] for row in filters) == pytest.approx(1)


def test_embed(workdir, tmp_path):
    features = tmp_path / "features.npz"
    assert "features of 355 examples" in run("analyze", "embed", workdir, f"--out={features}")
    (row,) = rows("embed", workdir, f"--out={tmp_path}/map.png", "--method=pca", "--knn=5", "--probe", "--examples=120")
    assert row["examples"] == 120
    assert 0 <= row["knn_5"] <= 1
    assert 0 <= row["probe"] <= 1
    (row,) = rows("embed", features, f"--out={tmp_path}/map.png", "--method=pca", "--knn=5")
    assert row["examples"] == 355
    found = rows("embed", workdir, "--cka", f"--out={tmp_path}/cka.png", "--examples=50")
    assert [round(row["cka"], 5) for row in found if row["block"] == row["other_block"]] == [1, 1]
    found = rows("embed", workdir, "--nearest=3", f"--out={tmp_path}/near.png", "--examples=50")
    assert len(found) == 6 * 3
    assert all(row["neighbour"] != row["query"] for row in found)
    with Image.open(tmp_path / "near.png") as image:
        assert image.width == 990


def test_cost(workdir, tmp_path):
    found = rows("cost", workdir)
    assert found[0]["module"] == ""
    assert found[0]["parameters"] > sum(row["parameters"] for row in found[1:] if "/" not in row["module"]) > 0
    assert found[0]["macs"] == sum(row["macs"] for row in found[1:] if "/" not in row["module"])
    assert "encoder" in run("analyze", "cost", "vit:Ti/16", f"--out={tmp_path}/modules.png")
    schemes = ("--schemes=joint_space_time,divided_space_time", "--sides=32,64", "--frames=2,4")
    found = rows("cost", "timesformer:Ti/16", *schemes, f"--out={tmp_path}/cost.svg")
    assert len(found) == 8
    assert rows("cost", "transformer:base", "--tokens=8")[0]["macs"] > 0


def test_mistakes_are_named_in_one_line(workdir, tmp_path, capsys):
    figure = f"--out={tmp_path}/figure.png"
    assert "layer must be 'final', 0 to 1" in refusal(capsys, "embed", workdir, "--layer=7", figure)
    assert "has no positions in time" in refusal(capsys, "positions", workdir, "--what=time", figure)
    assert "must end in one of" in refusal(capsys, "rank", workdir, f"--out={tmp_path}/figure.txt")
    np.savez(tmp_path / "a.npz", features=np.ones((5, 2)), id=np.arange(5), classes=np.array([], str))
    np.savez(tmp_path / "b.npz", features=np.ones((4, 2)), id=np.arange(4), classes=np.array([], str))
    assert "hold features of other examples" in refusal(capsys, "embed", tmp_path / "a.npz", tmp_path / "b.npz", figure)
    assert "has no labels, which --knn" in refusal(capsys, "embed", tmp_path / "a.npz", "--knn=2", figure)
    assert "TimeSformer, the family" in refusal(capsys, "cost", "vit:Ti/16", "--sides=32", "--schemes=axial", figure)
    assert "draw a figure: name its file" in refusal(capsys, "cost", "vit:Ti/16", "--sides=32")
    assert "ViT has no num_frames" in refusal(capsys, "cost", "vit:Ti/16", "--frames=8", figure)
