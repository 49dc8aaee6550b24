"""Every key of Hugging Face's configs that changes the function: the same logits, or a refusal that names the key."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import from_pretrained
from vit_jax.errors import UserError

pytestmark = pytest.mark.parity

SIZES = {"image_size": 16, "patch_size": 4, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
MLP = {"intermediate_size": 20}
ACTIVATIONS = [
    *("gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh"),
    *("gelu_accurate", "quick_gelu", "relu", "silu", "tanh", "mish", "hardswish"),
]
VARIED = [
    *({"hidden_act": name} for name in ACTIVATIONS),
    *({"layer_norm_eps": value} for value in (1e-12, 1e-6, 1e-2)),
    *({"qkv_bias": value} for value in (True, False)),
    {"image_size": 24},
    {"patch_size": 8},
    {"num_channels": 1},
    {"num_attention_heads": 2},
    {"num_attention_heads": 6, "layer_norm_eps": 1e-3},
    {"num_hidden_layers": 1},
    {"hidden_size": 24},
    {"head_dim": 4},
    {"head_dim": 8},
    {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5},
    {"initializer_range": 0.5},
    {"problem_type": "multi_label_classification", "output_attentions": False},
    {"use_mean_pooling": True, "finetuned_by": "somebody"},
]
RECTANGLES = [{"image_size": [16, 24]}, {"patch_size": [4, 2]}, {"image_size": [8, 16], "patch_size": [2, 4]}]
IMAGES = [*VARIED, *RECTANGLES, {"intermediate_size": 31}, {"encoder_stride": 4}]
POOLERS = [{"pooler_act": name} for name in ("tanh", "relu", "gelu", "linear", "sigmoid")]
POOLERS += [{"pooler_output_size": 7}, {"pooler_output_size": 7, "pooler_act": "relu"}]
SCHEMES = ("divided_space_time", "joint_space_time", "space_only")
CLIPS = [*VARIED, {"num_frames": 2}, {"drop_path_rate": 1}, *({"attention_type": scheme} for scheme in SCHEMES)]
DINO = [*VARIED, *RECTANGLES, {"mlp_ratio": 2}, {"mlp_ratio": 3}, {"use_swiglu_ffn": True}, {"layerscale_value": 0.1}]
FAMILIES = {
    "ViTForImageClassification": ("ViTConfig", {**MLP, "num_labels": 5}, IMAGES),
    "ViTModel": ("ViTConfig", MLP, [*POOLERS, {"hidden_act": "quick_gelu"}, {"qkv_bias": False}]),
    "DeiTForImageClassification": ("DeiTConfig", {**MLP, "num_labels": 5}, IMAGES),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", {**MLP, "num_labels": 5}, IMAGES),
    "DeiTModel": ("DeiTConfig", MLP, POOLERS),
    "ViTMAEModel": ("ViTMAEConfig", {**MLP, "mask_ratio": 0.0}, [*IMAGES, {"norm_pix_loss": True}]),
    "ViTMSNForImageClassification": ("ViTMSNConfig", {**MLP, "num_labels": 5}, [{}, {"layer_norm_eps": 1e-2}]),
    "Dinov2Model": ("Dinov2Config", {}, DINO),
    "Dinov2ForImageClassification": ("Dinov2Config", {"num_labels": 5}, [{}]),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {}, [{"num_register_tokens": n} for n in (1, 2, 4)]),
    "TimesformerForVideoClassification": ("TimesformerConfig", {**MLP, "num_labels": 5, "num_frames": 3}, CLIPS),
}
REFUSED = {
    *(f"hidden_act={name}" for name in ("gelu_10", "relu", "silu", "tanh", "mish", "hardswish")),
    *(f"pooler_act={name}" for name in ("relu", "gelu", "linear", "sigmoid")),
    *("head_dim=8", "pooler_output_size=7,pooler_act=relu", "use_swiglu_ffn=True"),
}


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def written(transformers, folder, name, config_name, fields):
    """Saves a model with random parameters and buffers of a size that shows every difference; returns it."""
    import torch

    torch.manual_seed(0)
    module = getattr(transformers, name)(getattr(transformers, config_name)(**fields)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))
    module.save_pretrained(folder)
    return module


def theirs(module, inputs):
    import torch

    with torch.no_grad():
        out = module(torch.from_numpy(inputs))
    for key in ("logits", "pooler_output"):
        if getattr(out, key, None) is not None:
            return getattr(out, key).numpy()
    return out.last_hidden_state[:, 0].numpy()


def described(changed):
    return ",".join(f"{key}={value}" for key, value in changed.items())


CASES = [(name, changed) for name, (_, _, varied) in FAMILIES.items() for changed in varied]


@pytest.mark.parametrize(("name", "changed"), CASES, ids=str)
def test_the_same_logits_or_a_refusal(name, changed, transformers, tmp_path):
    config_name, base, _ = FAMILIES[name]
    try:
        module = written(transformers, tmp_path / "x", name, config_name, {**SIZES, **base, **changed})
    except Exception as error:
        pytest.skip(f"transformers has no such model: {type(error).__name__}")
    if described(changed) in REFUSED or name == "Dinov2ForImageClassification":
        key = "head classifier" if "ForImage" in name and not changed else next(iter(changed))
        key = "pooler_act" if "pooler_act" in changed else key
        with pytest.raises(UserError, match=key):
            from_pretrained(tmp_path / "x")
        return
    loaded = from_pretrained(tmp_path / "x")
    model = loaded.model
    inputs = np.random.default_rng(0).standard_normal((2, *model.input_shape)).astype(np.float32)
    space_only = getattr(model, "attention_type", "") == "space_only"
    capture = ("frame_logits",) if space_only else ()
    # without jit: models of the same sizes share the compiled operations
    ours: Any = model.apply({"params": loaded.params}, jnp.asarray(inputs), train=False, capture=capture)
    ours = np.asarray(ours[1]["frame_logits"]).reshape(-1, 5) if space_only else np.asarray(ours)
    channels_first = np.moveaxis(inputs, -1, -3)
    try:
        expected = theirs(module, np.ascontiguousarray(channels_first))
    except RuntimeError as error:  # DINOv2's positions are always resampled from a square if the image is none
        pytest.skip(f"transformers cannot compute this model: {error}")
    assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < 1e-4
    unknown = [note for note in loaded.report.notes if "use_mean_pooling" in note]
    assert bool(unknown) == ("use_mean_pooling" in changed)


SAID = [
    ("num_hidden_layers", 3), ("intermediate_size", 24), ("hidden_size", 16), ("num_channels", 1), ("patch_size", 8),
    ("qkv_bias", False), ("pruned_heads", {"0": [1]}), ("auto_map", {"AutoModel": "x.Y"}), ("head_dim", 5),
    ("quantization_config", {"bits": 8}), ("num_attention_heads", 5), ("layer_norm_eps", 0), ("image_size", "16"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), SAID, ids=str)
def test_a_config_that_contradicts_its_tensors_is_refused_by_key(key, value, transformers, tmp_path):
    fields = {**SIZES, **MLP, "num_labels": 5}
    written(transformers, tmp_path / "x", "ViTForImageClassification", "ViTConfig", fields)
    path = tmp_path / "x" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=key):
        from_pretrained(tmp_path / "x")
