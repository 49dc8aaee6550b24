"""`evaluate` and `predict` on foreign weights: every format, names of classes, subsets, tables of predictions."""

import contextlib
import csv
import io
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from PIL import Image
from refusals import ended, refused

import vit_jax
from vit_jax import build_model, save_pretrained
from vit_jax.__main__ import main
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.pretrained.names import shapes_of

ABC, CHAIN = ("n00000001", "n00000002", "n00000003"), "resize|normalize(mean=0.5, std=0.25)"
SIZES = {"hidden_dim": 8, "mlp_dim": 16, "num_layers": 1, "num_heads": 2, "image_size": (8, 8), "num_classes": 3}
COUNT = 5  # images of each class
pytestmark = pytest.mark.usefixtures("own_home")


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([str(argument) for argument in arguments]) == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def made():
    model = build_model("vit:Ti/4", in_channels=3, **SIZES)
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: noise.normal(size=leaf.shape).astype(np.float32), unflatten_dict(shapes_of(model), sep="/")
    )
    return model, params


@pytest.fixture(scope="module")
def weights(made, tmp_path_factory):
    """The same weights in three formats."""
    folder, (model, params) = tmp_path_factory.mktemp("weights"), made
    encoder = Preprocessing((8, 8), 3, CHAIN)
    save_pretrained(folder / "b.npz", model, params, "npz")
    for format in ("timm", "huggingface"):
        save_pretrained(folder / format, model, params, format, labels=ABC, preprocessing=encoder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folders of noise: `all` has the three classes, `some` the third and the first."""
    root, noise = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
    for label in ABC:
        for number in range(COUNT):
            pixels = noise.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            for folder in ("all", "some") if label != ABC[1] else ("all",):
                (root / folder / label).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / folder / label / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def logits(made, images):
    """The logits of the images in `all`, in order, from the model alone."""
    model, params = made
    files = sorted((images / "all").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file), np.float32) / 255 for file in files])
    return np.asarray(model.apply({"params": params}, jnp.asarray((pixels - 0.5) / 0.25), train=False))


def evaluate(source, images, *arguments):
    where = ("--data=folder", f"--path={images}", "--split=train", "--json")
    out, err = run("evaluate", source, *where, *arguments)
    return json.loads(out), err


TRUTH = np.repeat(np.arange(3), COUNT)
NPZ = ("b.npz", "--stored_image_size=8,8", f"--preprocessing={CHAIN}")


@pytest.mark.parametrize("arguments", [("timm",), ("huggingface",), NPZ], ids=lambda each: each[0])
def test_every_format_is_scored(arguments, weights, images, logits):
    name, *options = arguments
    result, err = evaluate(weights / name, images / "all", *options)
    assert result["top1"] == pytest.approx(np.mean(logits.argmax(-1) == TRUTH))
    log_sum = np.log(np.exp(logits).sum(-1))
    assert result["loss"] == pytest.approx(np.mean(log_sum - logits[np.arange(len(TRUTH)), TRUTH]), rel=1e-4)
    assert (result["examples"], result["skipped"], result["step"]) == (3 * COUNT, 0, 0)
    assert ("the outputs have no names, and are taken to be the classes of folder" in err) == (name == "b.npz")


def test_a_set_with_some_of_the_classes_is_scored_among_them(weights, images, logits):
    result, _ = evaluate(weights / "timm", images / "some")
    kept = TRUTH != 1
    found = logits[kept][:, [0, 2]].argmax(-1)
    assert result["top1"] == pytest.approx(np.mean(found == TRUTH[kept] // 2))
    assert (result["classes"], result["outputs"], result["examples"]) == (2, 3, 2 * COUNT)
    line = refused(
        "evaluate", weights / NPZ[0], *NPZ[1:], "--data=folder", f"--path={images / 'some'}", "--split=train"
    )
    assert "the 3 outputs of the weights have no names, so that the 2 classes of folder train are not found" in line


def test_labels_come_from_a_file(weights, images, tmp_path, logits):
    (tmp_path / "labels.txt").write_text("\n".join(f"{name} word {name[-1]}" for name in reversed(ABC)))
    result, _ = evaluate(weights / "timm", images / "all", f"--labels={tmp_path / 'labels.txt'}")
    assert result["top1"] == pytest.approx(np.mean(2 - logits.argmax(-1) == TRUTH))
    (tmp_path / "two.txt").write_text("a\nb\n")
    line = refused("evaluate", weights / "timm", "--data=digits", f"--labels={tmp_path / 'two.txt'}")
    assert line.endswith("has 3 outputs, but 2 labels are given")


def test_predictions_and_their_breakdown(weights, images, logits, tmp_path):
    options = (f"--predictions={tmp_path / 'p.csv'}", "--per_class", "--batch_size=4")
    result, _ = evaluate(weights / "timm", images / "all", *options)
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [int(row["id"]) for row in rows] == list(range(3 * COUNT))
    assert [row["file"].partition("/")[0] for row in rows] == [ABC[i] for i in TRUTH]
    assert [row["label"] for row in rows] == [ABC[i] for i in TRUTH]
    np.testing.assert_allclose([json.loads(row["logits"]) for row in rows], logits, rtol=1e-3, atol=1e-4)
    assert [json.loads(row["classes"])[0] for row in rows] == [ABC[i] for i in logits.argmax(-1)]
    hits = (logits.argmax(-1) == TRUTH).reshape(3, COUNT).sum(-1)
    classes = result["per_class"]["classes"]
    assert [classes[name]["correct"] for name in ABC] == hits.tolist()
    assert sum(count for *_, count in result["per_class"]["confusion"]) == 3 * COUNT


def test_each_evaluation_is_a_row_of_a_csv(weights, images, tmp_path):
    path = tmp_path / "scores.csv"
    for folder in ("all", "some"):
        evaluate(weights / "timm", images / folder, f"--csv={path}")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["examples"], row["classes"], row["outputs"]) for row in rows] == [("15", "3", "3"), ("10", "2", "3")]
    assert all(row["command"].startswith("python -m vit_jax") and row["commit"] for row in rows)
    path.write_text("set,top1\n")
    where = ("--data=folder", f"--path={images / 'all'}", "--split=train")
    assert "is a CSV of another version" in refused("evaluate", weights / "timm", *where, f"--csv={path}")


def test_inputs_are_predicted_into_a_table(weights, images, logits, tmp_path):
    out, err = run("predict", weights / "timm", images / "all", f"--output={tmp_path / 'p.npz'}", "--top=2")
    assert (out, err) == ("", f"vit_jax: wrote {tmp_path / 'p.npz'}: 15 rows\n")
    with np.load(tmp_path / "p.npz") as table:
        np.testing.assert_allclose(table["logits"], logits, rtol=1e-4, atol=1e-4)
        assert table["classes"].shape == (15, 2)
        assert table["file"][0].endswith(f"all/{ABC[0]}/0.png")
        assert table["id"].tolist() == list(range(15))


def test_the_outputs_are_numbered_without_names(weights, images):
    out, _ = run("predict", weights / NPZ[0], *NPZ[1:], images / "all", "--json", "--top=3")
    guesses = json.loads(out.splitlines()[0])["predictions"]
    assert sorted(guess["label"] for guess in guesses) == ["0", "1", "2"]


def test_an_interrupted_evaluation_keeps_its_predictions(weights, images, tmp_path, monkeypatch):
    from vit_jax import records

    added = records._Csv.add

    def add(self, columns):
        added(self, columns)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(records._Csv, "add", add)
    where = ("--data=folder", f"--path={images / 'all'}", "--split=train", "--batch_size=4")
    status, lines = ended("evaluate", weights / "timm", *where, f"--predictions={tmp_path / 'p.csv'}")
    assert (status, lines) == (143, ["vit_jax: interrupted"])
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 5


def test_mistakes_in_one_line(weights, images, tmp_path):
    where = ("--data=folder", f"--path={images / 'all'}", "--split=train")
    for arguments, message in (
        ((weights / "timm", "--split=train"), "foreign weights have no data of their own. Give --data"),
        ((weights / "timm", "--data=digits"), "foreign weights have no split of their own. Give --split"),
        ((weights / "timm", *where, "--name=folder"), "--name=folder is not a model, such as vit:B/16"),
        ((weights / "timm", *where, "--best"), "best and average apply to the workdir of a run"),
        ((weights / "b.npz", *where), "Give stored_image_size=(height, width)"),
        ((weights / "timm", *where, "--predictions=x.txt"), "--predictions=x.txt has an unknown suffix '.txt'"),
    ):
        assert message in refused("evaluate", *arguments)


def test_weights_without_a_head_have_features_only(made, images, tmp_path):
    model, params = made
    model, params = model.clone(num_classes=None), {name: value for name, value in params.items() if name != "head"}
    save_pretrained(tmp_path / "x.npz", model, params, "npz")
    run = vit_jax.load_run(tmp_path / "x.npz", stored_image_size=(8, 8), preprocessing=CHAIN)
    source = run.open_split("train", name="folder", path=str(images / "all"))
    assert run.features(source)["features"].shape == (15, 8)
    with pytest.raises(UserError, match="the weights have no head"):
        next(run.predict([Image.new("RGB", (8, 8))]))
    with pytest.raises(UserError, match="label names do not match: the checkpoint has 0 classes"):
        run.evaluate(source)


def test_a_foreign_checkpoint_is_a_run(weights, images):
    run = vit_jax.load_run(weights / "timm")
    assert (run.labels, run.step, run.config.model.name) == (ABC, 0, "vit:B/16")
    (answer,) = run.predict([Image.open(images / "all" / ABC[0] / "0.png")])
    assert {guess["label"] for guess in answer["predictions"]} == set(ABC)
    found = run.features(run.open_split("train", name="folder", path=str(images / "all")))
    assert found["features"].shape == (15, 8)
