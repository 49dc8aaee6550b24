"""The values that folders and files of weights imply for keys that they do not have."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from vit_jax import build_model, from_pretrained, save_pretrained
from vit_jax.pretrained import image_processors, preprocessing
from vit_jax.pretrained.formats.timesformer import AUTHORS as TIMESFORMER_AUTHORS
from vit_jax.pretrained.formats.tnt import AUTHORS as TNT_AUTHORS
from vit_jax.pretrained.names import shapes_of, to_tensors

TINY = {"image_size": (8, 8), "num_layers": 1, "hidden_dim": 8, "mlp_dim": 12, "num_heads": 2, "num_classes": 3}
FAMILIES = {
    "vit": ("vit:Ti/4", {"gelu": "exact"}),
    "timesformer": ("timesformer:Ti/4", {"num_frames": 2}),
    "tnt": ("tnt:S/4", {"inner_hidden_dim": 6, "inner_mlp_dim": 24, "inner_num_heads": 3, "num_words": 4}),
}


def build(family, **fields):
    name, more = FAMILIES[family]
    model = build_model(name, **{**TINY, **more, **fields})
    rng = np.random.default_rng(0)
    shapes = unflatten_dict(shapes_of(model), sep="/")
    return model, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def without(folder, *keys):
    """Removes keys from a folder's config.json, as files of older versions lack them."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in keys:
        del config[key]
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("family", "epsilon"), [("vit", 1e-12), ("timesformer", 1e-6)])
def test_hugging_faces_epsilon_is_its_class_s_default(tmp_path, family, epsilon):
    model, params = build(family, norm_epsilon=1e-3)
    save_pretrained(tmp_path / "out", model, params, "huggingface")
    assert from_pretrained(tmp_path / "out").model.norm_epsilon == 1e-3
    assert from_pretrained(without(tmp_path / "out", "layer_norm_eps")).model.norm_epsilon == epsilon


@pytest.mark.parametrize("family", ["vit", "timesformer"])
def test_hugging_faces_activation_is_the_exact_gelu(tmp_path, family):
    model, params = build(family, gelu="tanh")
    save_pretrained(tmp_path / "out", model, params, "huggingface")
    assert from_pretrained(tmp_path / "out").model.gelu == "tanh"
    assert from_pretrained(without(tmp_path / "out", "hidden_act")).model.gelu == "exact"


@pytest.mark.parametrize(
    ("family", "format", "epsilon", "gelu"),
    [
        ("vit", "npz", 1e-6, "tanh"),
        ("vit", "big_vision", 1e-6, "tanh"),
        ("vit", "timm", 1e-6, "exact"),
        ("tnt", "timm", 1e-5, "exact"),
    ],
)
def test_what_a_format_implies_without_saying_it(tmp_path, family, format, epsilon, gelu):
    fields = {"norm_epsilon": epsilon, "gelu": gelu}
    model, params = build(family, **fields, **({"pool": "gap"} if format == "big_vision" else {}))
    save_pretrained(tmp_path / "out", model, params, format)
    size = {"stored_image_size": (8, 8)} if format in ("npz", "big_vision") else {}
    size |= {"pool": "gap"} if format == "big_vision" else {}
    loaded = from_pretrained(tmp_path / "out", **size).model
    assert (loaded.norm_epsilon, loaded.gelu) == (epsilon, gelu)


def read_back(tmp_path, format, family, **given):
    model, params = build(family)
    tensors = {**to_tensors(format, model, params)}
    prefix = "model." if family == "timesformer" else ""
    np.savez(tmp_path / "weights.npz", **{prefix + name: value for name, value in tensors.items()})
    return from_pretrained(tmp_path / "weights.npz", image_size=(8, 8), **given)


def test_the_authors_of_timesformer(tmp_path):
    loaded = read_back(tmp_path, TIMESFORMER_AUTHORS, "timesformer", num_heads=2)
    assert (loaded.model.norm_epsilon, loaded.model.gelu) == (1e-6, "exact")
    assert loaded.model.attention_type == "divided_space_time"
    assert not loaded.model.cls_in_temporal_attention
    expected = "resize(8, method='bilinear', antialias=False)|center_crop|normalize(mean=0.45, std=0.225)"
    assert loaded.preprocessing.transforms == expected


def test_the_authors_of_tnt(tmp_path):
    given = {"patch_size": (4, 4), "num_heads": 2, "inner_num_heads": 3}
    loaded = read_back(tmp_path, TNT_AUTHORS, "tnt", **given)
    assert (loaded.model.norm_epsilon, loaded.model.gelu) == (1e-5, "exact")
    assert loaded.preprocessing.transforms == "resize(8, method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)"


def test_googles_files_are_squashed_without_antialias(tmp_path):
    model, params = build("vit", gelu="tanh")
    save_pretrained(tmp_path / "out", model, params, "npz")
    chain = from_pretrained(tmp_path / "out", stored_image_size=(8, 8)).preprocessing.transforms
    assert chain == "resize(method='bilinear', antialias=False)|normalize(mean=0.5, std=0.5)"


MEANS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize(
    ("said", "chain"),
    [
        # ViTImageProcessor: bilinear, 224 pixels squashed, normalized
        ({**MEANS, "size": 224}, "resize(method='bilinear')|normalize(mean=0.5, std=0.5)"),
        (MEANS, "resize(method='bilinear')|normalize(mean=0.5, std=0.5)"),
        ({**MEANS, "resample": 3}, "resize(method='bicubic')|normalize(mean=0.5, std=0.5)"),
        ({"size": 224}, "resize(method='bilinear')|normalize(mean=0.5, std=0.5)"),
    ],
)
def test_a_preprocessor_of_hugging_face_that_lacks_keys(said, chain):
    assert image_processors.from_hugging_face({"preprocessor_config": said}, (224, 224)) == chain


@pytest.mark.parametrize(
    ("said", "size", "chain"),
    [
        # timm: bicubic, the middle 0.875
        ({}, 224, "resize(256, method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)"),
        ({"crop_pct": None}, 224, "resize(256, method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)"),
        ({"interpolation": "bilinear"}, 448, "resize(512, method='bilinear')|center_crop|normalize(mean=0.5, std=0.5)"),
        ({"crop_pct": 0.9}, 224, "resize(248, method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)"),
        (
            {"crop_mode": "squash"},
            224,
            "resize((256, 256), method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)",
        ),
    ],
)
def test_a_config_of_timm_that_lacks_keys(said, size, chain):
    config = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, **said}}
    assert preprocessing.from_timm(config, (size, size)) == chain
