"""The common corruptions: formulas, determinism, and their evaluation on a run."""

import csv
import json
import math
import pathlib

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from saved import save_run

import vit_jax
from vit_jax.__main__ import main
from vit_jax.analysis.robustness import common_corruptions, corruptions
from vit_jax.analysis.robustness.common_corruptions import CIFAR_C, CORRUPTIONS, IMAGENET_C, corrupt
from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.experiment import make_model
from vit_jax.plots.robustness import plot_confusion

pytestmark = pytest.mark.usefixtures("own_home")
WITHOUT_FROST = tuple(name for name in CORRUPTIONS if name != "frost")
LABELS = tuple("0123456789")


@pytest.fixture(autouse=True)
def frost(monkeypatch):
    """Five photographs of noise stand in for those of frost, which a package has."""
    common_corruptions.frost_photographs.cache_clear()
    noise = np.random.default_rng(0).uniform(size=(5, 300, 320, 3)).astype(np.float32)
    monkeypatch.setattr(common_corruptions, "frost_photographs", lambda scale, size: tuple(noise))
    monkeypatch.setattr(corruptions, "frost_photographs", lambda scale, size: tuple(noise))


def picture(height, width, channels=3, seed=0):
    """A smooth picture with an edge."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (3 + i)) + np.cos(columns / (2 + i)) + (columns > width / 2) for i in range(channels)]
    levels = np.stack(waves, axis=-1) * 50 + 90 + np.random.default_rng(seed).normal(size=(height, width, channels)) * 9
    levels = levels.clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels if channels == 3 else levels[..., 0])


def levels(image):
    return np.asarray(image, np.float64)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (90, 120)])
def test_every_corruption_takes_images_of_any_size(name, height, width):
    for channels in (1, 3):
        image = picture(height, width, channels)
        for severity in (1, 5):
            found = corrupt(image, name, severity, np.random.default_rng(1))
            assert (found.size, found.mode) == (image.size, image.mode)
            again = corrupt(image, name, severity, np.random.default_rng(1))
            assert found.tobytes() == again.tobytes()
            if min(height, width) > 8:
                assert found.tobytes() != image.tobytes()


@pytest.mark.parametrize("name", [name for name in WITHOUT_FROST if name != "elastic_transform"])
def test_severities_grow(name):
    """Averaged over images, a higher severity changes more; elastic transforms and frost are not ordered so."""
    distances = []
    for severity in (1, 3, 5):
        images = [picture(96, 96, seed=seed) for seed in range(3)]
        changed = [corrupt(image, name, severity, np.random.default_rng(0)) for image in images]
        distances.append(
            np.mean([(np.abs(levels(a) - levels(b))).mean() for a, b in zip(images, changed, strict=True)])
        )
    assert distances[0] < distances[1] < distances[2]


def test_constants_are_those_of_the_nearer_size():
    for side, expected in ((8, CIFAR_C), (84, CIFAR_C), (85, IMAGENET_C), (384, IMAGENET_C)):
        assert common_corruptions.constants_for(side, 400) is expected
    assert math.sqrt(32 * 224) == pytest.approx(84.66, abs=0.01)


def test_noise_has_the_amount_of_its_formula():
    grey = Image.new("RGB", (256, 256), (128, 128, 128))
    x = 128 / 255
    noise = (levels(corrupt(grey, "gaussian_noise", 1, np.random.default_rng(0))) + 0.5) / 255 - x
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    shot = (levels(corrupt(grey, "shot_noise", 1, np.random.default_rng(0))) + 0.5) / 255 - x
    assert shot.std() == pytest.approx(math.sqrt(x / 60), rel=0.02)  # Poisson: the variance is the mean
    impulse = levels(corrupt(grey, "impulse_noise", 3, np.random.default_rng(0)))
    assert np.mean(impulse != 128) == pytest.approx(0.09, rel=0.05)
    assert set(np.unique(impulse)) == {0, 128, 255}


def test_brightness_contrast_and_fog_are_their_formulas():
    import colorsys

    image = picture(90, 90)
    x = levels(image) / 255
    bright = levels(corrupt(image, "brightness", 2, np.random.default_rng(0)))
    for row, column in ((0, 0), (5, 60), (70, 33)):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[row, column])
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1)))
        np.testing.assert_allclose(bright[row, column], 255 * expected, atol=1)
    mean = x.mean(axis=(0, 1))
    contrast = levels(corrupt(image, "contrast", 1, np.random.default_rng(0)))
    np.testing.assert_allclose(contrast, 255 * np.clip((x - mean) * 0.4 + mean, 0, 1), atol=1)
    fog = levels(corrupt(image, "fog", 1, np.random.default_rng(0))) / 255
    plasma = (fog * (x.max() + 1.5) / x.max() - x) / 1.5
    assert np.ptp(plasma, axis=-1).max() < 0.03  # the same for all channels
    assert plasma.min() > -0.02
    assert plasma.max() < 1.02


def test_blurs_are_means_with_weights_that_sum_to_one():
    flat = Image.new("L", (100, 100), 77)
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"):
        assert np.abs(levels(corrupt(flat, name, 4, np.random.default_rng(0))) - 77).max() <= 1, name
    point = np.zeros((101, 101), np.uint8)
    point[50, 50] = 255
    disk = levels(corrupt(Image.fromarray(point), "defocus_blur", 1, np.random.default_rng(0)))
    rows, columns = np.nonzero(disk)
    assert np.hypot(rows - 50, columns - 50).max() == 3  # the radius, without the smoothing of its edge by 0.1
    assert len(rows) == sum(a * a + b * b <= 9 for a in range(-3, 4) for b in range(-3, 4))


def test_glass_copies_neighbours_in_order(monkeypatch):
    """Against the authors' loop, whose assignment copies; blurring is switched off."""
    monkeypatch.setattr(common_corruptions, "_gaussian", lambda x, sigma: x)
    image, (_, reach, repeats) = picture(90, 95), IMAGENET_C["glass_blur"][2]
    draws = np.random.default_rng(3)
    x = np.asarray(image).copy()
    for _ in range(repeats):
        for row in range(90 - reach, reach, -1):
            for column in range(95 - reach, reach, -1):
                right, down = np.floor(draws.uniform(-reach, reach, size=2)).astype(int)
                x[row, column] = x[row + down, column + right]
    np.testing.assert_array_equal(corrupt(image, "glass_blur", 3, np.random.default_rng(3)), x)


def test_missing_photographs_are_named(monkeypatch):
    monkeypatch.undo()
    if common_corruptions.importlib.util.find_spec("imagecorruptions"):
        pytest.skip("the photographs are installed")
    with pytest.raises(vit_jax.errors.UserError, match=r"frost needs the photographs .*vit_jax\[corruptions\]"):
        corrupt(picture(90, 90), "frost", 1, np.random.default_rng(0))


# ---- on a run ----


@pytest.fixture(scope="module")
def workdir(own_home, randomised, tmp_path_factory):
    """A run on the digits with random parameters."""
    import jax
    import jax.numpy as jnp

    config = default_config()
    config.model.update(name="vit:Ti/4", hidden_dim=8, mlp_dim=16, num_layers=1, num_heads=2)
    config.data.update(name="digits", image_size=(8, 8), channels=1, eval_split="test[:40]")
    config.batch_size = 16
    encoder = Preprocessing((8, 8), 1, "resize|normalize(mean=0.5, std=0.5)")
    model = make_model(config, encoder, LABELS)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))["params"]
    return save_run(tmp_path_factory.mktemp("run") / "digits", randomised(params), config, LABELS, encoder)


@pytest.fixture(scope="module")
def run(workdir):
    return vit_jax.load_run(workdir)


def test_scores_do_not_depend_on_batches(run):
    source = run.open_split()
    names, severities = ("gaussian_noise", "frost"), (1, 5)
    found = [list(corruptions.evaluate_corruptions(run, source, names, severities, batch_size=n)) for n in (7, 40)]
    assert [(score.corruption, score.severity) for score in found[0]] == [
        ("none", 0), ("gaussian_noise", 1), ("gaussian_noise", 5), ("frost", 1), ("frost", 5),
    ]  # fmt: skip
    for first, second in zip(*found, strict=True):
        assert first.examples == second.examples == 40
        assert first.accuracy == second.accuracy
        assert first.nll == pytest.approx(second.nll, rel=1e-5)
    other = list(corruptions.evaluate_corruptions(run, source, names, severities, seed=1))
    assert other[0].nll == pytest.approx(found[1][0].nll)
    assert [score.nll for score in other[1:]] != [score.nll for score in found[1][1:]]
    assert found[1][0].accuracy == run.evaluate(source)["top1"]


def test_a_row_is_the_score_of_corrupted_images(run):
    """Against images that are corrupted here, each with the generator of its id, and `Run.predict`."""
    source = run.open_split()
    _, score = corruptions.evaluate_corruptions(run, source, ("contrast",), (5,), seed=4)
    images, labels = [], []
    for example in source.__getitems__(range(40)):
        rng = np.random.default_rng([4, CORRUPTIONS.index("contrast"), 5, example["id"]])
        images.append(corrupt(example["image"], "contrast", 5, rng))
        labels.append(str(example["label"]))
    answers = [answer["predictions"][0] for answer in run.predict(images)]
    correct = [answer["label"] == label for answer, label in zip(answers, labels, strict=True)]
    assert score.accuracy == np.mean(correct)


def test_the_mean_corruption_error():
    def score(name, severity, accuracy):
        return corruptions.Score(name, severity, 10, accuracy, 0.0, 0.0)

    scores = [score("none", 0, 1.0), score("fog", 1, 0.8), score("fog", 2, 0.6), score("snow", 1, 0.5)]
    assert corruptions.mean_corruption_error(scores) == pytest.approx((0.3 + 0.5) / 2)
    baseline = {"fog": 0.6, "snow": 0.5}
    assert corruptions.mean_corruption_error(scores, baseline) == pytest.approx((0.3 / 0.6 + 0.5 / 0.5) / 2)


def analyze(*arguments):
    assert main(["analyze", *map(str, arguments)]) == 0


def test_the_commands_write_figures_and_numbers(workdir, run, tmp_path, capsys):
    table = tmp_path / "corruptions.csv"
    options = ("--corruptions=fog,snow", "--severities=2,4", f"--csv={table}")
    analyze("corruptions", workdir, f"--out={tmp_path / 'corruptions.png'}", *options)
    assert "mean corruption error" in capsys.readouterr().out
    rows = list(csv.DictReader(table.open()))
    assert [(row["corruption"], row["severity"]) for row in rows] == [
        ("none", "0"), ("fog", "2"), ("fog", "4"), ("snow", "2"), ("snow", "4"),
    ]  # fmt: skip
    assert {row["examples"] for row in rows} == {"40"}

    analyze("calibration", workdir, f"--out={tmp_path / 'calibration.pdf'}", "--json", "--fit_split=train[:50]")
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == 40
    assert found["nll"] == pytest.approx(run.evaluate("test[:40]")["loss"], rel=1e-5)
    assert found["accuracy"] == run.evaluate("test[:40]")["top1"]

    table = tmp_path / "predictions.csv"
    pictures = (f"--out={tmp_path / 'worst.png'}", f"--confusion={tmp_path / 'confusion.svg'}")
    analyze("mistakes", workdir, *pictures, f"--csv={table}", "--json", "--count=5")
    found = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(table.open()))
    assert found["examples"] == len(rows) == 40
    right = [row["label"] == row["predicted"] for row in rows]
    assert np.mean(right) == run.evaluate("test[:40]")["top1"]
    zeros = [row["predicted"] == "0" for row in rows if row["label"] == "0"]
    assert found["accuracy_by_class"]["0"] == np.mean(zeros)
    for name, start in (("corruptions.png", b"\x89PNG"), ("calibration.pdf", b"%PDF"), ("worst.png", b"\x89PNG")):
        assert (tmp_path / name).read_bytes().startswith(start)
    assert "<svg" in (tmp_path / "confusion.svg").read_text()


def test_confusion_of_many_classes_is_drawn_without_numbers(tmp_path):
    plot_confusion(tmp_path / "many.png", np.eye(60, dtype=int), [str(i) for i in range(60)])
    assert (tmp_path / "many.png").exists()


def test_bad_input_is_refused_in_one_line(workdir, tmp_path):
    out = f"--out={tmp_path / 'x.png'}"
    found = refused("analyze", "corruptions", workdir, out, "--corruptions=fogg")
    assert "unknown corruption 'fogg'; did you mean 'fog'?" in found
    assert "must be numbers from 1 to 5" in refused("analyze", "corruptions", workdir, out, "--severities=0,6")
    assert ".png" in refused("analyze", "calibration", workdir, "--out=x.jpg")
    assert "split" in refused("analyze", "mistakes", workdir, out, "--split=nothing")


def test_the_table_of_the_docs_is_that_of_the_results():
    root = pathlib.Path(__file__).parents[3]
    page = (root / "docs/robustness.md").read_text()
    cells = {name: [] for name in CORRUPTIONS}
    for data, examples in (("digits", 355), ("fashion", 500)):
        rows = list(csv.DictReader((root / f"experiments/results/analysis/{data}_corruptions.csv").open()))
        assert {row["examples"] for row in rows} == {str(examples)}
        scores = [
            corruptions.Score(row["corruption"], int(row["severity"]), examples, float(row["accuracy"]), 0.0, 0.0)
            for row in rows
        ]
        for name in CORRUPTIONS:
            cells[name] += [f"{100 * score.accuracy:.1f}" for score in scores if score.corruption == name]
            ece = sum(float(row["ece"]) for row in rows if row["corruption"] == name) / 5
            cells[name].append(f"{100 * ece:.1f}")
        assert f"the mean corruption error is {100 * corruptions.mean_corruption_error(scores):.1f} %" in page
    for name, values in cells.items():
        assert f"| {name} | {' | '.join(values)} |" in page
