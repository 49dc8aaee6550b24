"""timm and Hugging Face load the folders that we write, and give the same outputs; we load theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import from_pretrained, save_pretrained

pytestmark = pytest.mark.parity


def images(model, seed=0):
    return np.random.default_rng(seed).standard_normal((2, *model.input_shape)).astype(np.float32)


def logits_of(model, params):
    return np.asarray(
        jax.jit(lambda p, x: model.apply({"params": p}, x, train=False))(params, jnp.asarray(images(model)))
    )


def theirs_of(module, model, logits=lambda out: out):
    import torch

    with torch.no_grad():
        return logits(module.eval()(torch.from_numpy(images(model).transpose(0, 3, 1, 2)))).numpy()


@pytest.fixture(scope="module")
def timm():
    pytest.importorskip("torch")
    from tests.parity import peers

    peers.timm_model("test_vit")  # imports timm although torchvision is not there
    return pytest.importorskip("timm")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gelu": "tanh", "pool": "gap", "qkv_bias": False, "layer_scale_init": 0.1},
        {"pool": "map", "patch_size": (4, 3), "in_channels": 1},
        {"pos_embed": "none"},
        {"pool": "gap", "unpooled_class_token": True, "final_norm": "after_pool"},
        {"distillation_token": True},
        {"num_registers": 2, "prefix_pos_embed": False, "final_norm": "none"},
        {"pool": "map", "num_registers": 2, "unpooled_class_token": True},
        {"stem_norm": True, "patch_bias": False, "norm_epsilon": 1e-5, "gelu": "quick"},
    ],
    ids=str,
)
def test_timm_loads_what_we_write(fields, timm, tiny, tmp_path):
    model, params = tiny(**{"gelu": "exact", **fields})
    save_pretrained(tmp_path / "x", model, params, "timm")
    module = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True)
    np.testing.assert_allclose(theirs_of(module, model), logits_of(model, params), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_we_load_what_timm_writes(name, timm, tmp_path):
    import torch

    module = timm.create_model(name, depth=2, num_classes=5, img_size=(32, 48))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save({"model": module.state_dict()}, tmp_path / "x.pth")
    loaded = from_pretrained(tmp_path / "x.pth", num_heads=3, pool="cls", image_size=(32, 48))
    np.testing.assert_allclose(
        theirs_of(module, loaded.model), logits_of(loaded.model, loaded.params), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("fields", [{}, {"gelu": "tanh", "qkv_bias": False}, {"patch_size": (4, 3)}], ids=str)
def test_hugging_face_loads_what_we_write(fields, tiny, tmp_path):
    transformers = pytest.importorskip("transformers")
    model, params = tiny(**{"gelu": "exact", "norm_epsilon": 1e-12, **fields})
    labels = ("tench", "goldfish", "great white shark", "tiger shark", "hammerhead")
    save_pretrained(tmp_path / "x", model, params, "huggingface", labels=labels if fields else ())
    module, report = transformers.ViTForImageClassification.from_pretrained(tmp_path / "x", output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not fields or tuple(module.config.id2label[i] for i in range(5)) == labels
    theirs = theirs_of(module, model, lambda out: out.logits)
    np.testing.assert_allclose(theirs, logits_of(model, params), rtol=1e-4, atol=1e-5)
    module.save_pretrained(tmp_path / "y")
    back = from_pretrained(tmp_path / "y")
    assert back.labels == (labels if fields else ())
    jax.tree.map(np.testing.assert_array_equal, back.params, params)


@pytest.mark.parametrize("fields", [{}, {"gelu": "tanh", "qkv_bias": False, "norm_epsilon": 1e-6}], ids=str)
def test_hugging_face_loads_mean_pooling(fields, tiny, tmp_path):
    """I-JEPA is the class of transformers that has no class token and classifies the mean of the patches."""
    transformers = pytest.importorskip("transformers")
    model, params = tiny(**{"gelu": "exact", "norm_epsilon": 1e-12, "pool": "gap", **fields})
    labels = ("tench", "goldfish", "great white shark", "tiger shark", "hammerhead")
    save_pretrained(tmp_path / "x", model, params, "huggingface", labels=labels)
    auto = transformers.AutoModelForImageClassification
    module, report = auto.from_pretrained(tmp_path / "x", output_loading_info=True)
    assert type(module).__name__ == "IJepaForImageClassification"
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = theirs_of(module, model, lambda out: out.logits)
    np.testing.assert_allclose(theirs, logits_of(model, params), rtol=1e-4, atol=1e-5)
    module.save_pretrained(tmp_path / "y")
    back = from_pretrained(tmp_path / "y")
    assert back.labels == labels
    assert back.model.pool == "gap"
    jax.tree.map(np.testing.assert_array_equal, back.params, params)


def test_hugging_face_without_a_head(tiny, tmp_path):
    transformers = pytest.importorskip("transformers")
    model, params = tiny(gelu="exact", norm_epsilon=1e-12, num_classes=None, representation_dim=6)
    save_pretrained(tmp_path / "x", model, params, "huggingface")
    module, report = transformers.ViTModel.from_pretrained(tmp_path / "x", output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = theirs_of(module, model, lambda out: out.pooler_output)
    np.testing.assert_allclose(theirs, logits_of(model, params), rtol=1e-4, atol=1e-5)
