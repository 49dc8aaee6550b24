"""Export: the artefact computes what the run computes, at any batch size, and brings what a user needs to use it."""

import json
import pathlib
import subprocess
import sys
import textwrap
import venv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from refusals import refused
from saved import save_run

import vit_jax
from vit_jax.__main__ import main
from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.text.vocabulary import Vocabulary
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.experiment import make_model
from vit_jax.export.stablehlo import PLATFORMS, serve, to_stablehlo
from vit_jax.models.blocks.timesformer import ATTENTIONS
from vit_jax.tasks.classification import Classification
from vit_jax.workdir import files

pytest.importorskip("flatbuffers")
pytestmark = pytest.mark.usefixtures("own_home")
LABELS = ("cat", "dog", "naïve|owl")
CHAIN = "resize(20)|center_crop|normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))"
SIZES = {"hidden_dim": 16, "mlp_dim": 32, "num_layers": 2, "num_heads": 2, "image_size": (16, 24), "num_classes": 3}
MODELS = {
    "vit": ("vit:Ti/8", SIZES),
    "vit-map": ("vit:Ti/8", {**SIZES, "pool": "map", "scan_layers": True}),
    "tnt": ("tnt:S/16", {**SIZES, "patch_size": (8, 8), "inner_hidden_dim": 8, "inner_mlp_dim": 16}),
    **{name: ("timesformer:B/16", {**SIZES, "patch_size": (8, 8), "num_frames": 2, "attention_type": name})
       for name in ATTENTIONS},
}  # fmt: skip


def call(artefact, weights, inputs):
    return np.asarray(jax.export.deserialize(bytearray(artefact)).call(weights, inputs))


@pytest.fixture
def made(randomised):
    def make(name):
        base, fields = MODELS[name]
        model = vit_jax.build_model(base, **fields)
        inputs = np.random.default_rng(1).standard_normal((3, *model.input_shape), np.float32)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(inputs), train=False))
        return model, randomised(shapes["params"], 0.1), inputs

    return make


@pytest.fixture
def workdir(randomised, tmp_path):
    """A run on images of 16 x 24 pixels, with random parameters, whose scores are recorded."""
    config = default_config()
    config.model.update(name="vit:Ti/8", hidden_dim=16, mlp_dim=32, num_layers=1, num_heads=2)
    config.data.update(image_size=(16, 24), channels=3, name="folder", path="photos")
    encoder = Preprocessing((16, 24), 3, CHAIN)
    model = make_model(config, encoder, LABELS)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 24, 3)), train=False))["params"]
    path = save_run(tmp_path / "run", randomised(params, 0.1), config, LABELS, encoder)
    for step, top1 in ((2, 0.25), (3, 0.75)):
        row = {"step": step, "split": "val", "loss": 1.5, "top1": top1, "top5": 1.0, "examples": 1234, "skipped": 5}
        files.append(path / "metrics.jsonl", json.dumps(row))
    start = {"command": "python -m vit_jax train --config=x.py", "commit": "abc", "packages": {"jax": "1.2.3"}}
    files.append(path / "runs.jsonl", json.dumps({**start, "status": "finished", "seconds": 12.5}))
    return path


def images(count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 30, 45, 3), np.uint8)
    return [Image.fromarray(each) for each in pixels]


def export(*arguments):
    assert main(["export", *map(str, arguments)]) == 0


@pytest.mark.parametrize("name", MODELS)
def test_an_artefact_computes_what_the_model_computes(made, name):
    model, params, inputs = made(name)
    served = serve(model, params, Classification(3), None)
    artefact = to_stablehlo(served)
    for rows in (inputs, inputs[:1]):
        expected = model.apply({"params": params}, jnp.asarray(rows), train=False)
        np.testing.assert_allclose(call(artefact, served.weights, rows), expected, rtol=0, atol=1e-5)


def test_an_artefact_is_for_all_platforms_and_any_batch_size(made):
    model, params, _ = made("vit")
    exported = jax.export.deserialize(bytearray(to_stablehlo(serve(model, params, Classification(3), None))))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[-1]) == "float32[batch,16,24,3]"
    assert str(exported.out_avals[0]) in ("float32[batch,3]", "ShapedArray(float32[batch,3])")


def test_the_command_writes_all_that_a_user_needs(workdir, tmp_path):
    export(workdir, tmp_path / "out", "--license=apache-2.0")
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "labels.json", "model.stablehlo", "preprocessing.json", "weights.npz",
    ]  # fmt: skip
    assert tuple(json.loads((out / "labels.json").read_text())) == LABELS

    steps = json.loads((out / "preprocessing.json").read_text())
    assert steps["input"] == {"name": "image", "shape": ["batch", 16, 24, 3], "dtype": "uint8"}
    assert [step.partition("(")[0] for step in steps["before"]] == ["Resize", "CenterCrop"]
    assert [step.partition("(")[0] for step in steps["included"]] == ["Normalize"]
    assert steps["encoder"]["transforms"] == CHAIN

    # levels as Pillow resizes and crops them, without normalize; the probabilities are those of the run
    levels = [np.asarray(image.resize((30, 20), Image.Resampling.BICUBIC))[2:18, 3:27] for image in images(3)]
    logits = call((out / "model.stablehlo").read_bytes(), dict(np.load(out / "weights.npz")), np.stack(levels))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for row, answer in zip(probabilities, vit_jax.load_run(workdir).predict(images(3)), strict=True):
        for guess in answer["predictions"]:
            assert row[LABELS.index(guess["label"])] == pytest.approx(guess["probability"], abs=1e-5)


def test_the_card_states_what_is_known(workdir, tmp_path):
    export(workdir, tmp_path / "out", "--license=apache-2.0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: vit_jax\n")
    assert "| 3 | val | 1,234 | 5 | 1.5000 | 0.7500 | 1.0000 |" in card  # the scores of this step alone
    assert "0.2500" not in card
    for stated in ("--config=x.py", "abc", "jax 1.2.3", "12.5 s", "photos", CHAIN, "- 2: naïve|owl", "jax.export"):
        assert stated in card, stated
    count = sum(leaf.size for leaf in jax.tree.leaves(vit_jax.load_run(workdir).params))
    assert f"| parameters | {count:,} |" in card


def test_converted_weights_have_a_card_too(workdir, tmp_path):
    for format, card in (("timm", "timm/README.md"), ("npz", "x.md")):
        target = tmp_path / ("x.npz" if format == "npz" else format)
        assert main(["convert", str(workdir), str(target), f"--format={format}", "--license=mit"]) == 0
        text = (tmp_path / card).read_text()
        assert "license: mit" in text
        assert "| 3 | val | 1,234 |" in text
    assert main(["convert", str(tmp_path / "timm"), str(tmp_path / "again"), "--format=huggingface"]) == 0
    text = (tmp_path / "again" / "README.md").read_text()
    assert "license: unknown" in text  # nothing is claimed about weights of others
    assert "format `timm`" in text
    assert "## Metrics" not in text


def test_scores_of_another_model_are_not_repeated(workdir, tmp_path):
    arguments = ["--format=timm", "--image_size=32,48"]
    assert main(["convert", str(workdir), str(tmp_path / "timm"), *arguments]) == 0
    card = (tmp_path / "timm" / "README.md").read_text()
    assert "0.7500" not in card
    assert "resized or replaced since: pos_embed" in card


def test_foreign_weights_are_exported(workdir, tmp_path):
    assert main(["convert", str(workdir), str(tmp_path / "timm"), "--format=timm"]) == 0
    export(tmp_path / "timm", tmp_path / "out")
    described = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    run = vit_jax.load_run(workdir)
    levels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    normalized = ((levels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]).astype(np.float32)
    inputs = levels if described["input"]["dtype"] == "uint8" else normalized
    weights = dict(np.load(tmp_path / "out" / "weights.npz"))
    found = call((tmp_path / "out" / "model.stablehlo").read_bytes(), weights, inputs)
    expected = run.model.apply({"params": run.params}, jnp.asarray(normalized), train=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_clips_are_exported_with_their_frames(randomised, tmp_path):
    config = default_config()
    config.model.update(name="timesformer:B/16", hidden_dim=16, mlp_dim=32, num_layers=1, num_heads=2)
    config.model.patch_size = (8, 8)
    config.data.update(num_frames=2, name="video", path="clips", image_size=(16, 16))
    encoder = ClipPreprocessing(2, (16, 16), 3, "first", "resize(16)|center_crop|normalize(mean=0.45, std=0.225)")
    model = make_model(config, encoder, LABELS)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 2, 16, 16, 3)), train=False))
    params = randomised(params["params"], 0.1)
    export(save_run(tmp_path / "run", params, config, LABELS, encoder), tmp_path / "out")
    levels = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16, 3), np.uint8)
    weights = dict(np.load(tmp_path / "out" / "weights.npz"))
    found = call((tmp_path / "out" / "model.stablehlo").read_bytes(), weights, levels)
    normalized = ((levels / 255 - 0.45) / 0.225).astype(np.float32)
    np.testing.assert_allclose(
        found, model.apply({"params": params}, jnp.asarray(normalized), train=False), rtol=0, atol=1e-5
    )


def test_a_translation_is_exported_with_its_search(randomised, tmp_path):
    vocabulary = Vocabulary.train(["open the file", "close it"], 280)
    config = default_config()
    config.task.name = "translation"
    config.model.update(name="transformer:base", hidden_dim=8, mlp_dim=16, num_layers=1, num_heads=2)
    config.data.update(name="text", path="x", languages=("en", "it"), buckets=(12,))
    model = make_model(config, vocabulary, ())
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, tokens, train=False))["params"])
    workdir = save_run(tmp_path / "run", params, config, (), vocabulary)
    export(workdir, tmp_path / "out")
    run = vit_jax.load_run(workdir)
    source = np.zeros((2, 12), np.int32)
    for row, text in zip(source, ("open the file", "close it"), strict=True):
        ids = vocabulary.encode(text)
        row[: len(ids)] = ids
    expected = run.task.predict(model, params, {"source": jnp.asarray(source)})
    artefact = jax.export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    found = artefact.call(dict(np.load(tmp_path / "out" / "weights.npz")), source)
    np.testing.assert_array_equal(found["translation"], expected["translation"])
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5)


def test_bad_input_is_refused_in_one_line(workdir, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    assert "exists already" in refused("export", workdir, taken)
    out = tmp_path / "out"
    assert "did you mean 'onnx'" in refused("export", workdir, out, "--format=onxx")
    assert f"unknown platform 'gpu'; known: {', '.join(PLATFORMS)}" in refused(
        "export", workdir, out, "--platforms=gpu"
    )
    assert "--platforms applies to" in refused("export", workdir, out, "--platforms=cpu", "--format=onnx")
    assert "no such file" in refused("export", tmp_path / "nothing", out)
    assert "license must be an identifier" in refused("export", workdir, out, "--license=my own: terms")
    assert "--name applies to foreign weights" in refused("export", workdir, out, "--name=vit:B/16")
    assert not out.exists()


PREDICT = """
    import sys, pathlib, json
    import numpy as np, jax
    assert not any(name.startswith(("vit_jax", "flax", "PIL")) for name in sys.modules)
    out = pathlib.Path(sys.argv[1])
    model = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    logits = model.call(dict(np.load(out / "weights.npz")), np.load(sys.argv[2]))
    np.save(sys.argv[3], logits)
"""


@pytest.mark.slow
def test_an_artefact_needs_only_jax(workdir, tmp_path):
    """In a fresh environment with the same JAX, flatbuffers, and nothing else."""
    export(workdir, tmp_path / "out")
    levels = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), np.uint8)
    np.save(tmp_path / "levels.npy", levels)
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"jax=={jax.__version__}", "flatbuffers"]
    subprocess.run(install, check=True)
    arguments = [tmp_path / "out", tmp_path / "levels.npy", tmp_path / "logits.npy"]
    subprocess.run([python, "-I", "-c", textwrap.dedent(PREDICT), *arguments], check=True, cwd=tmp_path)
    run = vit_jax.load_run(workdir)
    normalized = ((levels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]).astype(np.float32)
    expected = run.model.apply({"params": run.params}, jnp.asarray(normalized), train=False)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=0, atol=1e-5)
    assert pathlib.Path(sys.executable) != python
