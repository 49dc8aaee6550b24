"""Hugging Face's DeiT, ViTMAE and DINOv2, keys of config.json, and how positions of DINO's files are resampled."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vit_jax import from_pretrained, save_pretrained
from vit_jax.errors import UserError
from vit_jax.models.positions import resample
from vit_jax.pretrained.formats import find_format
from vit_jax.pretrained.formats.dino import DINOV2
from vit_jax.pretrained.names import to_params, to_tensors

HF = {"gelu": "exact", "norm_epsilon": 1e-12, "image_size": (16, 16)}
DINO = {"gelu": "exact", "layer_scale_init": 1.0, "num_classes": None, "image_size": (16, 16)}
SAID = {"num_attention_heads": 2, "image_size": 16}
AUTHORS = {  # names of the authors of DINOv2, by those of Hugging Face's ViT
    r"^embeddings\.(cls_token|mask_token|register_tokens)$": r"\1",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"^layernorm\.": "norm.",
    r"^encoder\.layer\.(\d+)\.layernorm_before\.": r"blocks.\1.norm1.",
    r"^encoder\.layer\.(\d+)\.layernorm_after\.": r"blocks.\1.norm2.",
    r"^encoder\.layer\.(\d+)\.intermediate\.dense\.": r"blocks.\1.mlp.fc1.",
    r"^encoder\.layer\.(\d+)\.output\.dense\.": r"blocks.\1.mlp.fc2.",
    r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.": r"blocks.\1.attn.proj.",
    r"^encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1$": r"blocks.\1.ls\2.gamma",
}
TRANSFORMERS = {  # names in a folder of transformers
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"intermediate\.dense": "mlp.fc1",
    r"(layer\.\d+)\.output\.dense": r"\1.mlp.fc2",
}


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def renamed(tensors, patterns):
    names = {}
    for name, value in tensors.items():
        for pattern, replacement in patterns.items():
            name = re.sub(pattern, replacement, name)
        names[name] = value
    return names


def authors_names(tensors):
    tensors = {**tensors}
    for i in range(2):
        for kind in ("weight", "bias"):
            parts = [
                tensors.pop(f"encoder.layer.{i}.attention.attention.{x}.{kind}") for x in ("query", "key", "value")
            ]
            tensors[f"blocks.{i}.attn.qkv.{kind}"] = np.concatenate(parts)
    return renamed(tensors, AUTHORS)


def folder(path, tensors, config):
    path.mkdir()
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(x) for name, x in tensors.items()}, path / "model.safetensors"
    )
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def dinov2(tiny):
    def make(num_registers=0):
        model, params = tiny(num_registers=num_registers, **DINO)
        if num_registers:
            params = {**params, "register_pos": np.zeros((num_registers, 8), np.float32)}
        return (
            model,
            params,
            {**to_tensors(DINOV2, model, params), "embeddings.mask_token": np.ones((1, 8), np.float32)},
        )

    return make


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"distillation_token": True}, "DeiTForImageClassificationWithTeacher"),
        ({"num_registers": 1}, "DeiTForImageClassification"),
        ({"num_registers": 1, "num_classes": None, "representation_dim": 6}, "DeiTModel"),
    ],
    ids=str,
)
def test_deit_is_read_as_it_is_written(fields, kind, tiny, tmp_path):
    model, params = tiny(**HF, **fields)
    save_pretrained(tmp_path / "x", model, params, "huggingface")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("deit", [kind])
    loaded = from_pretrained(tmp_path / "x")
    assert loaded.model == model
    equal(loaded.params, params)


def test_more_registers_are_no_vit_of_hugging_face(tiny, tmp_path):
    model, params = tiny(**HF, num_registers=2)
    with pytest.raises(UserError, match="format 'huggingface' cannot hold num_registers=2 for a ViT"):
        save_pretrained(tmp_path / "x", model, params, "huggingface")


def test_the_encoder_of_vitmae_is_read_without_its_decoder(tiny, tmp_path):
    model, params = tiny(**HF, num_classes=None)
    tensors = to_tensors(find_format("huggingface", model), model, params)
    tensors = {f"vit.{name}": value for name, value in tensors.items()}
    tensors |= {"decoder.mask_token": np.zeros((1, 1, 4), np.float32), "decoder.decoder_norm.weight": np.zeros(4)}
    loaded = from_pretrained(folder(tmp_path / "x", tensors, {**SAID, "model_type": "vit_mae", "mask_ratio": 0.75}))
    assert loaded.model == model
    equal(loaded.params, params)
    assert set(loaded.report.skipped) == {"decoder.decoder_norm.weight", "decoder.mask_token"}
    assert "the encoder sees all patches: mask_ratio belongs to pre-training" in loaded.report.notes


@pytest.mark.parametrize("num_registers", [0, 3])
def test_dinov2_of_transformers_and_of_its_authors(num_registers, dinov2, tmp_path):
    model, params, tensors = dinov2(num_registers)
    kind = "dinov2_with_registers" if num_registers else "dinov2"
    config = {**SAID, "model_type": kind, "mlp_ratio": 1.5, "num_register_tokens": num_registers}
    theirs = from_pretrained(folder(tmp_path / "hf", renamed(tensors, TRANSFORMERS), config))
    np.savez(tmp_path / "x.npz", **authors_names(tensors))
    authors = from_pretrained(tmp_path / "x.npz", num_heads=2, image_size=(16, 16))
    for loaded in (theirs, authors):
        assert loaded.report.format == "dinov2"
        assert loaded.model == model
        equal(loaded.params, params)
        assert loaded.report.skipped == ["embeddings.mask_token"]
    normalize = "normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    assert authors.preprocessing.transforms == f"resize(18, method='bicubic')|center_crop|{normalize}"


@pytest.mark.parametrize(
    ("changed", "config", "message"),
    [
        ({"encoder.layer.0.mlp.weights_in.weight": np.zeros((4, 8))}, {}, "use_swiglu_ffn: MLPs with a gate"),
        ({}, {"use_swiglu_ffn": True}, "use_swiglu_ffn is True, but MLPs with a gate are not supported"),
        ({"classifier.weight": np.zeros((3, 16))}, {}, "head classifier.weight joins the class token and the mean"),
        ({}, {"mlp_ratio": 4}, "mlp_ratio is 32, but the tensors belong to 12"),
    ],
    ids=str,
)
def test_what_of_dinov2_is_not_supported_is_refused_by_name(changed, config, message, dinov2, tmp_path):
    _, _, tensors = dinov2()
    said = {**SAID, "model_type": "dinov2", "mlp_ratio": 1.5, **config}
    with pytest.raises(UserError, match=message):
        from_pretrained(folder(tmp_path / "x", {**renamed(tensors, TRANSFORMERS), **changed}, said))


@pytest.mark.parametrize(
    ("source", "method", "how"),
    [
        ("dinov2 authors", "bicubic_dino", "without antialiasing, at DINO's scale of (new + 0.1) / old"),
        ("dinov2 authors 3", "bicubic", "bicubic interpolation with antialiasing"),
        ("dinov2", "bicubic_plain", "bicubic interpolation without antialiasing"),
        ("dinov2 3", "bicubic", "bicubic interpolation with antialiasing"),
        ("dino", "bicubic_dino", "at DINO's scale"),
        ("mae", "bicubic_plain", "bicubic interpolation without antialiasing"),
    ],
)
def test_positions_of_self_supervised_models_are_resampled_as_their_authors_do(
    source, method, how, dinov2, tiny, tmp_path
):
    given = {"num_heads": 2, "image_size": (24, 20), "stored_image_size": (16, 16)}
    if source.startswith("dinov2"):
        num_registers = 3 if source.endswith("3") else 0
        _, params, tensors = dinov2(num_registers)
    else:
        model, params = tiny(gelu="exact", num_classes=None, image_size=(16, 16))
        params = {**params, "cls_pos": params["cls_pos"] * (source == "dino")}
        tensors = to_tensors(find_format("timm", model), model, params)
        given |= {"pool": "cls"}
    if source.startswith("dinov2") and "authors" not in source:
        kind = "dinov2_with_registers" if num_registers else "dinov2"
        path, given = folder(tmp_path / "x", tensors, {**SAID, "model_type": kind}), {"image_size": (24, 20)}
    else:
        path = tmp_path / "x.npz"
        np.savez(path, **(authors_names(tensors) if source.startswith("dinov2") else tensors))
    loaded = from_pretrained(path, **given)
    np.testing.assert_array_equal(
        loaded.params["pos_embed"], resample(jnp.asarray(params["pos_embed"]), (6, 5), method)
    )
    assert how in loaded.report.notes[-1] or how in loaded.report.notes[-2]


def test_unknown_keys_are_named_and_known_ones_are_not(tiny, tmp_path):
    model, params = tiny(**HF)
    save_pretrained(tmp_path / "x", model, params, "huggingface")
    path = tmp_path / "x" / "config.json"
    extra = {"use_mean_pooling": True, "trained_by": "me", "torch_dtype": "float32", "nothing": None, "top_k": 50}
    path.write_text(json.dumps({**json.loads(path.read_text()), **extra}))
    note = "config.json: ignored keys that this model does not have: trained_by, use_mean_pooling"
    assert from_pretrained(path.parent).report.notes[0] == note


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "relu", "hidden_act is 'relu', but only gelu, .*quick_gelu are supported"),
        ("num_hidden_layers", 1, "num_hidden_layers is 1, but the tensors belong to 2"),
        ("qkv_bias", False, "qkv_bias is False, but the tensors belong to True"),
        ("patch_size", 8, r"patch_size is 8, but the tensors belong to \(4, 4\)"),
        ("pruned_heads", {"0": [1]}, "pruned_heads is .*, but blocks whose numbers of heads differ"),
        ("quantization_config", {"bits": 8}, "quantization_config is .*, but quantized weights"),
        ("auto_map", {"AutoModel": "x.Y"}, "auto_map is .*, but code in a folder is not run"),
        ("num_attention_heads", 3, "num_attention_heads is 3, but a divisor of hidden_size, 8"),
        ("head_dim", 3, "head_dim is 3, but 2 heads of together 8 channels"),
        ("layer_norm_eps", 0, "layer_norm_eps is 0, but a positive number"),
        ("image_size", "16", "image_size is '16', but a size in pixels"),
    ],
)
def test_a_key_that_our_models_cannot_follow_is_refused_by_name(key, value, message, tiny, tmp_path):
    save_pretrained(tmp_path / "x", *tiny(**HF), "huggingface")
    path = tmp_path / "x" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=rf"config\.json: {message}"):
        from_pretrained(path.parent)


def test_the_pooler_s_activation_is_tanh(tiny, tmp_path):
    model, params = tiny(**HF, num_classes=None, representation_dim=6)
    save_pretrained(tmp_path / "x", model, params, "huggingface")
    path = tmp_path / "x" / "config.json"
    for said, message in (
        ({"pooler_act": "relu"}, "pooler_act is 'relu', but only tanh"),
        ({"pooler_output_size": 7}, "7"),
    ):
        path.write_text(json.dumps({**json.loads(path.read_text()), "pooler_output_size": 6, **said}))
        with pytest.raises(UserError, match=message):
            from_pretrained(path.parent)


def test_the_names_that_transformers_5_gives_its_modules(tiny, tmp_path):
    model, params = tiny(norm_epsilon=1e-12, gelu="exact")
    format = find_format("huggingface", model)
    renamed = {}
    for name, value in to_tensors(format, model, params).items():
        name = name.replace("encoder.layer.", "layers.").replace("attention.output.dense", "attention.o_proj")
        name = re.sub(r"attention\.attention\.(\w)\w+", r"attention.\1_proj", name)
        name = name.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")
        renamed[name] = value
    assert "vit.layers.0.attention.q_proj.weight" in renamed
    jax.tree.map(np.testing.assert_array_equal, to_params(format, model, renamed), params)


def test_the_preprocessor_of_clips_is_read_before_that_of_images(tiny, tmp_path):
    model, params = tiny("timesformer:Ti/4", num_frames=2, image_size=(8, 8))
    save_pretrained(tmp_path / "x", model, params, "huggingface")
    clips = {"video_processor_type": "TimesformerVideoProcessor", "image_mean": [0.45] * 3, "image_std": [0.225] * 3}
    for name, fields in (("video_preprocessor_config", clips), ("preprocessor_config", {"do_pad": True})):
        (tmp_path / "x" / f"{name}.json").write_text(json.dumps(fields))
    expected = "resize(8, method='bilinear')|center_crop(rounding='down')|normalize(mean=0.45, std=0.225)"
    assert from_pretrained(tmp_path / "x").preprocessing.transforms == expected
