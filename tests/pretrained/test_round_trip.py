"""Saving in a format and loading again is exact, and what a format cannot express is refused by name."""

import functools

import jax
import numpy as np
import pytest

from vit_jax import from_pretrained, save_pretrained
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.vit import ViT
from vit_jax.pretrained import preprocessing
from vit_jax.pretrained.names import NOT_THE_FUNCTION

FILES, FOLDERS = ("npz", "big_vision"), ("timm", "huggingface")
LABELS = ("tench", "goldfish", "great white shark", "tiger shark", "hammerhead")
EXACT = {"gelu": "exact"}
EXPRESSIBLE = [
    ("npz", {}),
    ("npz", {"pool": "gap", "representation_dim": 6, "in_channels": 1}),
    ("npz", {"pos_embed": "none", "num_classes": None}),
    ("npz", {"qkv_bias": False, "patch_size": (4, 3), "in_channels": 2}),
    ("big_vision", {"pool": "map", "representation_dim": 8}),
    ("big_vision", {"pool": "gap", "pos_embed": "sincos2d"}),
    ("timm", EXACT),
    ("timm", {"qkv_bias": False, "layer_scale_init": 1e-3, "mlp_dim": 11, "patch_size": (4, 3)}),
    ("timm", {"pool": "map", **EXACT}),
    ("timm", {"pool": "gap", "num_classes": None, **EXACT}),
    ("timm", {"pos_embed": "none", **EXACT}),
    ("timm", {"pool": "gap", "unpooled_class_token": True, "final_norm": "after_pool"}),
    ("timm", {"distillation_token": True, **EXACT}),
    ("timm", {"num_registers": 2, "prefix_pos_embed": False, "final_norm": "none"}),
    ("timm", {"pool": "map", "num_registers": 2, "unpooled_class_token": True}),
    ("timm", {"stem_norm": True, "patch_bias": False, "norm_epsilon": 1e-5, "gelu": "quick"}),
    ("huggingface", {"norm_epsilon": 1e-12, **EXACT}),
    ("huggingface", {"qkv_bias": False, "patch_size": (4, 3), "in_channels": 1}),
    ("huggingface", {"num_classes": None, "representation_dim": 6, **EXACT}),
    ("huggingface", {"num_classes": None}),
    ("huggingface", {"pool": "gap", **EXACT}),
    ("huggingface", {"pool": "gap", "num_classes": None}),
]


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert {leaf.dtype for leaf in jax.tree.leaves(theirs)} == {leaf.dtype for leaf in jax.tree.leaves(ours)}


@pytest.mark.parametrize(("format", "fields"), EXPRESSIBLE, ids=str)
def test_the_same_model_and_the_same_bits(format, fields, tiny, tmp_path):
    model, params = tiny(**fields)
    save_pretrained(tmp_path / "out", model, params, format)
    unsaid = {"stored_image_size": (8, 12), "pool": model.pool} if format in FILES else {}
    loaded = from_pretrained(tmp_path / "out", **unsaid)
    equal(params, loaded.params)
    for field in ViT.__dataclass_fields__:
        if field not in NOT_THE_FUNCTION:
            assert getattr(loaded.model, field) == getattr(model, field), field
    assert len(loaded.report.loaded) == len(jax.tree.leaves(params))
    assert not loaded.report.resized + loaded.report.replaced + loaded.report.skipped


def test_big_vision_takes_a_class_token_without_a_position(tiny, tmp_path):
    model, params = tiny()
    with pytest.raises(UserError, match="format 'big_vision' has no place for cls_pos, which is not zero"):
        save_pretrained(tmp_path / "out", model, params, "big_vision")
    params = {**params, "cls_pos": np.zeros(8, np.float32)}
    save_pretrained(tmp_path / "out", model, params, "big_vision")
    equal(params, from_pretrained(tmp_path / "out", stored_image_size=(8, 12)).params)


CROPPED = {
    "timm": preprocessing.cropped((9, 13), "bicubic", (0.4, 0.5, 0.6), 0.25),
    "huggingface": preprocessing.cropped(13, "bicubic", (0.4, 0.5, 0.6), 0.25, crop="center_crop(rounding='down')"),
}


@pytest.mark.parametrize("format", FOLDERS)
def test_labels_and_preprocessing_go_with_a_folder(format, tiny, tmp_path):
    model, params = tiny(**EXACT)
    for i, chain in enumerate([
        CROPPED[format],
        preprocessing.squashed("bilinear", 0.5, 0.5),
    ]):  # fmt: skip
        ours = Preprocessing((8, 12), 3, chain)
        notes = save_pretrained(tmp_path / f"{i}", model, params, format, labels=LABELS, preprocessing=ours)
        loaded = from_pretrained(tmp_path / f"{i}")
        assert (loaded.labels, loaded.preprocessing, notes) == (LABELS, ours, ())


@pytest.mark.parametrize("format", FOLDERS)
def test_a_crop_that_a_format_rounds_otherwise_is_said(format, tiny, tmp_path):
    model, params = tiny(**EXACT)
    mine, theirs = {"timm": ("down", "even"), "huggingface": ("even", "down")}[format]
    ours = Preprocessing((8, 12), 3, CROPPED[format].replace(f"(rounding={theirs!r})", "").replace(
        "center_crop", f"center_crop(rounding={mine!r})"
    ))  # fmt: skip
    notes = save_pretrained(tmp_path / "x", model, params, format, preprocessing=ours)
    assert notes == (f"format {format!r} rounds an odd margin of center_crop {theirs!r}: some crops shift by a pixel",)
    assert from_pretrained(tmp_path / "x").preprocessing.transforms == CROPPED[format]


@pytest.mark.parametrize("format", [*FILES, *FOLDERS])
def test_what_a_reader_will_not_find_is_said(format, tiny, tmp_path):
    model, params = tiny(pool="gap") if format in FILES else tiny(**EXACT)
    ours = Preprocessing((8, 12), 3, "resize(method='bilinear', antialias=False)|normalize(mean=0.4, std=0.5)")
    notes = save_pretrained(tmp_path / "out", model, params, format, labels=LABELS, preprocessing=ours)
    assert f"format {format!r} cannot express the preprocessing {ours.transforms!r}" in notes
    assert (f"format {format!r} has no place for the 5 labels" in notes) == (format in FILES)


REFUSED = [
    ("npz", {"gelu": "exact"}, "npz' cannot hold gelu='exact': it would be read back as 'tanh'"),
    ("npz", {"norm_epsilon": 1e-12}, "npz' cannot hold norm_epsilon=1e-12"),
    ("npz", {"pool": "map"}, "npz' has no place for pool/attention/key/bias, .* and 10 more"),
    ("npz", {"pos_embed": "learned2d"}, "npz' has no place for .*pos_embed_x, pos_embed_y"),
    ("npz", {"pos_embed": "sincos2d"}, "npz' cannot hold pos_embed='sincos2d': it would be read back as 'none'"),
    ("npz", {"pos_embed_at": "every_layer_shared"}, "npz' cannot hold pos_embed_at='every_layer_shared'"),
    ("npz", {"layer_scale_init": 1.0}, "npz' has no place for encoder/block_0/attention_scale/scale, .*"),
    ("big_vision", {"pos_embed": "none", "pool": "gap"}, "big_vision' cannot hold pos_embed='none'"),
    ("timm", {"representation_dim": 8}, "timm' has no place for representation/bias, representation/kernel"),
    ("timm", {"norm_epsilon": 1e-12}, "timm' cannot hold norm_epsilon=1e-12: it would be read back as 1e-06"),
    ("timm", {"patch_bias": False}, "timm' cannot hold patch_bias=False with stem_norm=False"),
    ("timm", {"stem_norm": True}, "timm' cannot hold patch_bias=True with stem_norm=True"),
    ("timm", {"distillation_token": True, "num_registers": 1}, "timm' cannot hold num_registers=1 with a distillation"),
    ("timm", {"distillation_token": True, "norm_epsilon": 1e-5}, "timm' cannot hold norm_epsilon=1e-05"),
    ("npz", {"num_registers": 1}, "npz' has no place for register_tokens"),
    ("npz", {"gelu": "quick"}, "npz' cannot hold gelu='quick'"),
    ("npz", {"final_norm": "after_pool"}, "npz' cannot hold final_norm='after_pool'"),
    ("npz", {"stem_norm": True}, "npz' has no place for stem_norm/bias, stem_norm/scale"),
    ("npz", {"patch_bias": False}, "npz' cannot hold patch_bias=False"),
    ("npz", {"prefix_pos_embed": False}, "npz' cannot hold prefix_pos_embed=False"),
    ("timm", {"pos_embed": "relative"}, "timm' has no place for .*"),
    ("huggingface", {"pool": "gap", "unpooled_class_token": True}, "huggingface' cannot hold pool='gap': it would be"),
    ("huggingface", {"pool": "gap", "pos_embed": "sincos2d"}, "huggingface' cannot hold pos_embed='sincos2d'"),
    ("huggingface", {"pool": "gap", "num_classes": None, "representation_dim": 6}, "huggingface' has no place for rep"),
    ("huggingface", {"pool": "map"}, "huggingface' has no place for pool/attention/key/bias, .* more"),
    ("huggingface", {"representation_dim": 8}, "huggingface' has no place for representation/bias"),
    ("huggingface", {"layer_scale_init": 1.0}, "huggingface' has no place for encoder/block_0/attention_scale/scale"),
    ("pth", {}, "ViT has no format 'pth'; it has .*npz"),
]


@pytest.mark.parametrize(("format", "fields", "message"), REFUSED, ids=str)
def test_what_a_format_cannot_express_is_refused_by_name(format, fields, message, tiny, tmp_path):
    model, params = tiny(**fields)
    with pytest.raises(UserError, match=message):
        save_pretrained(tmp_path / "out", model, params, format)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_half_written(tiny, tmp_path):
    model, params = tiny()
    save = functools.partial(save_pretrained, model=model, params=params, format="npz")
    (tmp_path / "there").touch()
    with pytest.raises(UserError, match="there exists already"):
        save(tmp_path / "there")
    with pytest.raises(UserError, match=r"cannot write .*there/out: "):
        save(tmp_path / "there" / "out")
    with pytest.raises(UserError, match="labels lists 2 names, but the model has 5 classes"):
        save(tmp_path / "out", labels=("a", "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("format", ["npz", "timm"])
def test_a_full_disk_leaves_nothing_behind(format, tiny, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    monkeypatch.setattr("safetensors.numpy.save", full)
    model, params = tiny()
    with pytest.raises(UserError, match=r"cannot write .*out: No space left on device"):
        save_pretrained(tmp_path / "out", model, params, format)
    assert not list(tmp_path.iterdir())


def test_bfloat16_parameters_keep_their_bits(tiny, tmp_path):
    import jax.numpy as jnp

    for format in ("npz", "timm"):
        model, params = tiny(param_dtype=jnp.bfloat16)
        save_pretrained(tmp_path / format, model, params, format)
        size = (8, 12)
        loaded = from_pretrained(tmp_path / format, stored_image_size=size, param_dtype=jnp.bfloat16)
        equal(params, loaded.params)
        widened = from_pretrained(tmp_path / format, stored_image_size=size).params
        equal(jax.tree.map(lambda x: x.astype(np.float32), params), widened)
