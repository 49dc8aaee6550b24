"""ONNX files: onnxruntime computes what the model computes, for every family that converts."""

import json
import subprocess
import textwrap
import venv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from test_export import MODELS, SIZES, workdir  # noqa: F401  the fixture

import vit_jax
from vit_jax.__main__ import main
from vit_jax.errors import UserError
from vit_jax.export.stablehlo import serve
from vit_jax.tasks.classification import Classification

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("own_home")]
pytest.importorskip("jax2onnx")
MORE = {
    "vit-relative": ("vit:Ti/8", {**SIZES, "pos_embed": "relative", "pool": "gap"}),
    "vit-registers": ("vit:Ti/8", {**SIZES, "num_registers": 2, "layer_scale_init": 0.1, "gelu": "quick"}),
}
CASES = {**MODELS, **MORE}
SYMBOLIC = ("vit", "vit-map", "vit-relative", "vit-registers")  # the others take one example at a time


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_computes_the_same(name, randomised):
    import onnxruntime

    from vit_jax.export.onnx import to_onnx

    base, fields = CASES[name]
    model = vit_jax.build_model(base, **fields)
    inputs = np.random.default_rng(1).standard_normal((3, *model.input_shape), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(inputs), train=False))
    params = randomised(shapes["params"], 0.1)
    content, is_symbolic = to_onnx(serve(model, params, Classification(3), None))
    assert is_symbolic == (name in SYMBOLIC)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = model.apply({"params": params}, jnp.asarray(inputs), train=False)
    for part in (slice(0, 3), slice(1, 2)) if is_symbolic else (slice(0, 1), slice(1, 2)):
        (found,) = session.run(None, {"image": inputs[part]})
        np.testing.assert_allclose(found, expected[part], rtol=0, atol=1e-4)


def test_a_translation_is_refused_by_name():
    from vit_jax.export.onnx import to_onnx
    from vit_jax.export.stablehlo import Served

    several = Served(
        lambda weights, x: {"translation": x, "score": x}, {}, "source", (4,), np.dtype("int32"), False, ""
    )
    with pytest.raises(UserError, match=r"^ONNX files hold classifiers; the search of a translation does not convert"):
        to_onnx(several)


PREDICT = """
    import sys, numpy as np, onnxruntime
    assert not any(name.startswith(("vit_jax", "jax", "PIL")) for name in sys.modules)
    session = onnxruntime.InferenceSession(sys.argv[1])
    (logits,) = session.run(None, {"image": np.load(sys.argv[2])})
    np.save(sys.argv[3], logits)
"""


def test_a_file_needs_only_onnxruntime(workdir, tmp_path):  # noqa: F811
    """In a fresh environment with onnxruntime and nothing else."""
    out, levels = tmp_path / "out", np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), np.uint8)
    assert main(["export", str(workdir), str(out), "--format=onnx"]) == 0
    assert json.loads((out / "preprocessing.json").read_text())["input"]["shape"] == ["batch", 16, 24, 3]
    assert "onnxruntime.InferenceSession" in (out / "README.md").read_text()
    np.save(tmp_path / "levels.npy", levels)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "onnxruntime"], check=True)
    arguments = [out / "model.onnx", tmp_path / "levels.npy", tmp_path / "logits.npy"]
    subprocess.run([python, "-I", "-c", textwrap.dedent(PREDICT), *arguments], check=True, cwd=tmp_path)
    run = vit_jax.load_run(workdir)
    normalized = ((levels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]).astype(np.float32)
    expected = run.model.apply({"params": run.params}, jnp.asarray(normalized), train=False)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=0, atol=1e-4)
    assert "exists already" in refused("export", workdir, out, "--format=onnx")
