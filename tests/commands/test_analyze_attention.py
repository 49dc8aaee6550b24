"""`analyze attention` and `analyze distance`: on images, clips and sentences, and what they refuse."""

import contextlib
import csv
import io
import json

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot  # noqa: F401  here, before HOME is another and its fonts would be searched for again
from PIL import Image
from saved import save_run

from vit_jax import build_model, plots
from vit_jax.__main__ import main
from vit_jax.analysis import attention_distance, attention_map, received_attention, translation_attention
from vit_jax.analysis.attention.pictures import as_pictures
from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.text.vocabulary import Vocabulary
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.load import load_run
from vit_jax.plots import attention as figures

pytestmark = pytest.mark.usefixtures("own_home")
CHAIN = "normalize(mean=0.5, std=0.25)"
SIZES = {"hidden_dim": 8, "mlp_dim": 8, "num_layers": 2, "num_heads": 2}
SENTENCE = "open the file"


def analyze(*arguments, status=0):
    """Runs a command in this process; returns what it printed, on stderr if it had to fail."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["analyze", *map(str, arguments)]) == status, err.getvalue()
    return (err if status else out).getvalue()


def saved(workdir, name, encoder, labels, randomised, **fields):
    config = default_config()
    config.model.name = name
    config.model.update({**SIZES, **fields})
    data = {} if isinstance(encoder, Vocabulary) else {"num_classes": len(labels)}
    model = build_model(name, **SIZES, **fields, **encoder.model_fields, **data)
    inputs = (
        [jnp.zeros((1, 4), jnp.int32)] * 2 if isinstance(encoder, Vocabulary) else [jnp.zeros((1, *model.input_shape))]
    )
    if isinstance(encoder, Vocabulary):
        config.update({"data": {"name": "text", "buckets": (12, 24)}, "task": {"name": "translation", "beam_size": 1}})
        config.task.extra_length = 3
    else:
        config.data.name = "digits"
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))["params"]
    return save_run(workdir, jax.tree.map(np.asarray, randomised(shapes, scale=0.5)), config, labels, encoder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, randomised):
    folder = tmp_path_factory.mktemp("runs")
    image, clip = Preprocessing((8, 8), 1, CHAIN), ClipPreprocessing(3, (8, 8), 1, "first", CHAIN)
    digits = tuple(map(str, range(10)))
    words = {"inner_hidden_dim": 4, "inner_mlp_dim": 4, "inner_num_heads": 2, "num_words": 4}
    return {
        "vit": saved(folder / "vit", "vit:Ti/4", image, digits, randomised),
        "tnt": saved(folder / "tnt", "tnt:Ti/4", image, digits, randomised, **words),
        "clips": saved(folder / "clips", "timesformer:Ti/4", clip, ("left", "right"), randomised),
        "text": saved(
            folder / "text", "transformer:base", Vocabulary.train([SENTENCE, "close it"], 280), (), randomised
        ),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for name in ("a.png", "b.png", "clip/0.png", "clip/1.png", "clip/2.png", "short/0.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / name)
    return folder


def rows_of(run, *paths):
    return jnp.stack(
        [run.encoder.rows(stored, None)[0] for _, stored in run.modality.read_inputs(paths, [], run.config)]
    )


def test_images_and_their_maps(runs, files, tmp_path):
    run = load_run(runs["vit"])
    paths = [str(files / "a.png"), str(files / "b.png")]
    printed = analyze("attention", runs["vit"], *paths, f"--out={tmp_path}/a.pdf", "--json")
    expected = attention_map(run.model, run.params, rows_of(run, *paths))
    for line, path, values in zip(printed.splitlines(), paths, expected, strict=True):
        found = json.loads(line)
        assert found["input"] == path
        np.testing.assert_allclose(found["attention"], values, atol=1e-6)
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")

    options = ["--method=gradient", "--class=7", "--layer=0", f"--csv={tmp_path}/a.csv", f"--out={tmp_path}/a.svg"]
    analyze("attention", runs["vit"], paths[1], *options)
    expected = attention_map(
        run.model, run.params, rows_of(run, paths[1]), method="gradient", layer=0, classes=np.array([7])
    )
    header, *rows = csv.reader((tmp_path / "a.csv").open())
    assert header == ["input", "row", "column", "attention"]
    assert [row[:3] for row in rows] == [[paths[1], str(i), str(j)] for i in range(2) for j in range(2)]
    np.testing.assert_allclose([float(row[3]) for row in rows], expected.ravel(), rtol=1e-4)


@pytest.mark.slow
def test_words_of_an_image(runs, files, tmp_path):
    run = load_run(runs["tnt"])
    printed = analyze("attention", runs["tnt"], files / "a.png", "--kind=inner", f"--out={tmp_path}/a.png", "--json")
    expected = received_attention(run.model, run.params, rows_of(run, str(files / "a.png")), "inner")
    np.testing.assert_allclose(json.loads(printed)["attention"], expected[0], atol=1e-6)
    assert Image.open(tmp_path / "a.png").width == pytest.approx(300 * plots.COLUMN, abs=1)


def test_a_clip_as_a_strip(runs, files, tmp_path):
    run, clip = load_run(runs["clips"]), files / "clip"
    analyze("attention", runs["clips"], clip, f"--out={tmp_path}/a.png", f"--csv={tmp_path}/a.csv")
    expected = attention_map(run.model, run.params, rows_of(run, str(clip)))
    header, *rows = csv.reader((tmp_path / "a.csv").open())
    assert header == ["input", "frame", "row", "column", "attention"]
    np.testing.assert_allclose([float(row[4]) for row in rows], expected.ravel(), rtol=1e-4)
    assert rows[-1][1:4] == ["2", "1", "1"]


@pytest.mark.slow
def test_a_clip_as_films(runs, files, tmp_path):
    for name in ("a.gif", "a.mp4"):
        analyze("attention", runs["clips"], files / "clip", "--kind=temporal", "--head=1", f"--out={tmp_path}/{name}")
    assert Image.open(tmp_path / "a.gif").n_frames == 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_a_sentence_and_its_translation(runs, tmp_path):
    run = load_run(runs["text"])
    printed = analyze("attention", runs["text"], "--text", SENTENCE, f"--out={tmp_path}/a.pdf", "--json")
    lines = [json.loads(line) for line in printed.splitlines()]
    (answer,) = run.predict([SENTENCE])
    expected, tokens = translation_attention(run, SENTENCE, answer["translation"])
    assert [line["kind"] for line in lines] == ["encoder", "decoder", "cross"]
    for line in lines:
        assert line["translation"] == answer["translation"]
        np.testing.assert_allclose(line["attention"], expected[line["kind"]], atol=1e-6)
    assert "".join(tokens["source"]).endswith("</s>")
    assert tokens["target"][0] == "<s>"
    arguments = ["--kind=cross", "--method=rollout", f"--csv={tmp_path}/a.csv", f"--out={tmp_path}/a.svg"]
    analyze("attention", runs["text"], "--text", SENTENCE, *arguments)
    header, *rows = csv.reader((tmp_path / "a.csv").open())
    assert header == ["input", "translation", "kind", "query", "key", "attention"]
    assert len(rows) == expected["cross"].size


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit", ["a.png", "--layer=2"], "--layer=2: the model has layers 0 to 1, or -2 to -1"),
        ("vit", ["a.png", "--method=weights", "--head=2"], "--head=2: the model has heads 0 to 1"),
        ("vit", ["a.png", "--head=1"], "--head=1 applies to method=weights; rollout averages the heads"),
        ("vit", ["a.png", "--class=1"], "--class applies to method=gradient; rollout does not depend on it"),
        ("vit", ["a.png", "--method=gradient", "--class=one"], "--class=one: no such class; known: 0, 1, 2, 3, 4"),
        ("vit", ["a.png", "--kind=temporal"], "--kind=temporal: the layer has attention"),
        ("vit", ["a.png", "--kind=attention", "--method=rollout"], "--kind=attention applies to --method=weights, "),
        ("vit", ["a.png", "--out=a.gif"], "--out=a.gif: a film needs a clip; this run is on images"),
        ("vit", ["a.png", "--out=a.jpg"], "--out=a.jpg: the name must end in one of .png, .pdf, .svg, .gif, .mp4"),
        ("vit", ["a.png", "--out=none/a.png"], "--out=none/a.png: there is no folder none"),
        ("vit", ["--text=hello"], "--text does not apply to a checkpoint that takes images"),
        ("vit", ["none.png"], "none.png: no such file or folder"),
        ("clips", ["short"], "short: 1 frame, but the model takes 3; use a longer clip"),
        ("clips", ["clip", "short"], "one figure shows at most 1 clip; name fewer"),
        (
            "text",
            ["--text=hello", "--method=gradient"],
            "--method=gradient does not apply to sentences, which have no ",
        ),
        ("text", ["--text=hello", "--class=a"], "--class=a: a run on sentences has no classes"),
        ("text", ["--text=hello", "--kind=spatial"], "--kind=spatial: the model has encoder, decoder, cross"),
    ],
)
def test_mistakes_are_named_in_one_line(runs, files, monkeypatch, name, arguments, message):
    workdir = runs[name].absolute()
    monkeypatch.chdir(files)
    arguments = arguments if any(word.startswith("--out") for word in arguments) else [*arguments, "--out=a.pdf"]
    error = analyze("attention", workdir, *arguments, status=2)
    assert error.startswith(f"vit_jax: {message}")
    assert error.count("\n") == 1


def test_distances_of_a_split(runs, tmp_path, monkeypatch):
    run = load_run(runs["vit"])
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(9)]

    class Images:
        name, kind, split, labels, skipped = "images", "image", "test", run.labels, ()

        def __len__(self):
            return len(images)

        def __getitems__(self, indices):
            return [{"image": images[i], "label": 0, "id": i} for i in indices]

    monkeypatch.setattr("vit_jax.run.open_split", lambda config, split, **other: Images())
    out = [f"--out={tmp_path}/d.svg", "--examples=5", "--split=test"]
    found = json.loads(analyze("distance", runs["vit"], *out, "--json"))
    chosen = jnp.stack([run.encoder(images[i], None) for i in (0, 2, 4, 6, 8)])
    expected = attention_distance(run.model, run.params, chosen)["attention/pixels"].mean(0)
    assert found.pop("examples") == 5
    assert list(found) == ["attention/pixels"]
    np.testing.assert_allclose(found["attention/pixels"], expected, rtol=1e-5)
    analyze("distance", runs["vit"], *out, f"--csv={tmp_path}/d.csv")
    header, *rows = csv.reader((tmp_path / "d.csv").open())
    assert header == ["attention", "unit", "layer", "head", "distance"]
    assert rows[1][:4] == ["attention", "pixels", "0", "1"]
    np.testing.assert_allclose([float(row[4]) for row in rows], expected.ravel(), rtol=1e-4)


def test_distances_are_of_images_and_clips(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("vit_jax.run.Run.open_split", lambda *_: None)
    error = analyze("distance", runs["text"], f"--out={tmp_path}/d.svg", status=2)
    assert error == "vit_jax: attention distance is of images and clips; this run is on sentences\n"


def test_pictures_are_what_the_model_sees():
    encoder = Preprocessing((2, 3), 3, "resize|normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8))
    np.testing.assert_allclose(as_pictures(encoder, encoder(image, None)), np.asarray(image) / 255, atol=1e-6)


def test_a_map_colours_the_patches_that_it_is_of():
    picture, values = np.zeros((4, 6, 1)), np.array([[0.0, 0.0, 1.0], [0.5, 0.0, 0.0]])
    blended = figures.blend(picture, values, 1.0)
    is_coloured = np.ptp(blended, axis=-1) > 0.01
    assert is_coloured.tolist() == np.repeat(np.repeat(values > 0, 2, 0), 2, 1).tolist()
    assert np.ptp(blended[0, 5]) > np.ptp(blended[3, 0])
