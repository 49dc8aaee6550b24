"""Loading weights: what a file does not state must be given, and every resized or skipped parameter is reported."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vit_jax import build_model, from_pretrained, load_pretrained, save_pretrained
from vit_jax.errors import UserError
from vit_jax.models.positions import resample
from vit_jax.pretrained.formats import find_format
from vit_jax.pretrained.names import to_params, to_tensors

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
STORED = {"stored_image_size": (8, 12)}


def bare(path, model, params, format="timm", **changed):
    """Writes tensors of a format without config; those in `changed` (`__` for the dot) are others, None for none."""
    tensors = to_tensors(find_format(format, model), model, params)
    for name, value in changed.items():
        name = name.replace("__", ".")
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    path.write_bytes(safetensors.numpy.save(tensors))
    return path


# ---- what has to be given ----


def test_heads_of_a_bare_file_are_given_by_number_or_by_name(tiny, tmp_path):
    model, params = tiny()
    path = bare(tmp_path / "x", model, params)
    with pytest.raises(
        UserError, match=r"x: the file does not say num_heads\. Give num_heads=\.\.\., or .* name='vit:B/16'"
    ):
        from_pretrained(path, **STORED)
    loaded = from_pretrained(path, num_heads=2, pool="cls", **STORED)
    assert loaded.model.num_heads == 2
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_a_name_gives_heads_and_size_and_must_agree(tmp_path):
    model = build_model("vit:Ti/16", num_classes=None)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *model.input_shape)), train=False))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes["params"])
    path = bare(tmp_path / "x", model, params)
    loaded = from_pretrained(path, "vit:Ti/16", pool="cls")
    assert (loaded.model.num_heads, loaded.model.image_size, loaded.model.gelu) == (3, (224, 224), "exact")
    with pytest.raises(UserError, match="the weights have hidden_dim=192, but vit:S/16 has 384"):
        from_pretrained(path, "vit:S/16")


@pytest.mark.parametrize(("format", "pool", "is_asked"), [
    ("npz", "cls", False), ("npz", "gap", True), ("big_vision", "map", False), ("big_vision", "gap", True),
])  # fmt: skip
def test_the_pooling_of_an_npz_without_a_class_token_is_asked_for(format, pool, is_asked, tiny, tmp_path):
    model, params = tiny(pool=pool)
    save_pretrained(tmp_path / "x", model, params, format)
    sizes = {"hidden_dim": 8, "mlp_dim": 12, "num_layers": 2, "num_heads": 2}
    if is_asked:
        for given in ({}, {"name": "vit:Ti/4", **sizes}):
            with pytest.raises(UserError, match=r"x: the file does not say pool\. Give pool=\.\.\.$"):
                from_pretrained(tmp_path / "x", **given, **STORED)
    assert from_pretrained(tmp_path / "x", **({"pool": pool} if is_asked else {}), **STORED).model == model


def test_the_grid_of_a_bare_file_is_never_guessed(tiny, tmp_path):
    model, params = tiny(image_size=(8, 32))  # 2 by 8 patches: 16, which is no 4 by 4
    save_pretrained(tmp_path / "x", model, params, "npz")
    with pytest.raises(UserError, match=r"stores 16 positions of patches but not their grid\. Give stored_image_size="):
        from_pretrained(tmp_path / "x")
    with pytest.raises(UserError, match=r"not their grid \(8x16 pixels are 8 patches\)"):
        from_pretrained(tmp_path / "x", image_size=(8, 16))
    for fields in ({"image_size": (8, 32)}, {"stored_image_size": (8, 32)}):
        loaded = from_pretrained(tmp_path / "x", **fields)
        np.testing.assert_array_equal(loaded.params["pos_embed"], params["pos_embed"])


def test_two_grids_that_fit_are_refused(tmp_path, tiny):
    fields = {"hidden_dim": 8, "mlp_dim": 12, "num_layers": 2, "num_heads": 2, "image_size": (112, 448)}
    model, params = tiny(image_size=(224, 224), patch_size=(56, 56))
    save_pretrained(tmp_path / "x", model, params, "npz")
    with pytest.raises(UserError, match=r"\(112x448 pixels are 16 patches; 224x224 pixels are 16 patches\)"):
        from_pretrained(tmp_path / "x", "vit:Ti/56", **fields)
    loaded = from_pretrained(tmp_path / "x", "vit:Ti/56", stored_image_size=(224, 224), **fields)
    assert loaded.params["pos_embed"].shape == (2, 8, 8)
    assert loaded.report.resized == ["pos_embed"]


# ---- what is resized, replaced, skipped ----


@pytest.mark.parametrize(
    ("format", "fields", "method"),
    [("npz", {}, "zoom"), ("timm", {}, "bicubic"), ("huggingface", {}, "bicubic_plain"),
     ("big_vision", {"pool": "gap"}, "zoom")],
)  # fmt: skip
def test_another_size_resamples_positions_as_the_authors_do(format, fields, method, tiny, tmp_path):
    model, params = tiny(**fields)
    save_pretrained(tmp_path / "x", model, params, format)
    given = {} if format in ("timm", "huggingface") else {**STORED, **fields}
    loaded = from_pretrained(tmp_path / "x", image_size=(20, 8), **given)
    np.testing.assert_array_equal(
        loaded.params["pos_embed"], resample(jnp.asarray(params["pos_embed"]), (5, 2), method)
    )
    assert loaded.report.resized == ["pos_embed"]
    assert "pos_embed resampled: 2x3 -> 5x2" in str(loaded.report)
    assert loaded.model.image_size == (20, 8)
    logits = jax.jit(lambda p: loaded.model.apply({"params": p}, jnp.zeros((1, 20, 8, 3)), train=False))(loaded.params)
    assert np.isfinite(logits).all()


def test_the_head_is_replaced_only_when_asked_for(tiny, tmp_path):
    model, params = tiny()
    save_pretrained(tmp_path / "x", model, params, "timm", labels="abcde")
    loaded = from_pretrained(tmp_path / "x", num_classes=3)
    assert set(loaded.report.replaced) == {"head/bias", "head/kernel"}
    assert loaded.params["head"]["kernel"].shape == (8, 3)
    assert not loaded.params["head"]["kernel"].any()
    assert loaded.labels == ()
    np.testing.assert_array_equal(loaded.params["norm"]["scale"], params["norm"]["scale"])
    features = from_pretrained(tmp_path / "x", num_classes=None)
    assert set(features.report.skipped) == {"head/bias", "head/kernel"}
    assert "head" not in features.params


def test_the_representation_layer_is_dropped_only_when_asked_for(tiny, tmp_path):
    model, params = tiny(representation_dim=6)
    save_pretrained(tmp_path / "x", model, params, "npz")
    assert from_pretrained(tmp_path / "x", **STORED).model.representation_dim == 6
    loaded = from_pretrained(tmp_path / "x", representation_dim=None, num_classes=2, **STORED)
    assert set(loaded.report.skipped) == {"representation/bias", "representation/kernel"}
    assert loaded.params["head"]["kernel"].shape == (8, 2)


def test_a_tree_of_yours_is_filled_and_keeps_its_own_head(tiny, tmp_path):
    model, params = tiny()
    save_pretrained(tmp_path / "x", model, params, "npz")
    mine, fresh = tiny(num_classes=3, image_size=(16, 12))
    filled, report = load_pretrained(tmp_path / "x", mine, fresh, **STORED)
    np.testing.assert_array_equal(filled["head"]["kernel"], fresh["head"]["kernel"])
    np.testing.assert_array_equal(filled["pos_embed"], resample(jnp.asarray(params["pos_embed"]), (4, 3), "zoom"))
    np.testing.assert_array_equal(filled["patch_embed"]["kernel"], params["patch_embed"]["kernel"])
    assert (set(report.replaced), report.resized) == ({"head/bias", "head/kernel"}, ["pos_embed"])
    with pytest.raises(UserError, match=r"x: the file stores 6 positions"):
        load_pretrained(tmp_path / "x", mine, fresh)


def test_a_model_that_computes_otherwise_is_told_apart(tiny, tmp_path):
    model, params = tiny()
    save_pretrained(tmp_path / "x", model, params, "npz")
    mine, fresh = tiny(gelu="exact")
    _, report = load_pretrained(tmp_path / "x", mine, fresh, **STORED)
    assert report.notes == ("gelu is 'exact', but the weights were trained with 'tanh'",)


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"head__bias": None}, "x: format 'timm' needs tensors that the file does not have: head.bias"),
        ({"blocks__1__mlp__fc1__weight": None}, "does not have: blocks.1.mlp.fc1.weight"),
        ({"blocks__0__mlp__fc1__weight": None}, "tensor blocks.0.mlp.fc1.weight is missing"),
        ({"mask_token": np.zeros((1, 1, 8))}, "has no place in the model for the file's tensors mask_token"),
        (
            {"dist_token": np.zeros((1, 1, 8)), "pos_embed": np.zeros((1, 8, 8))},
            "tensors that the file does not have: head_dist.bias, head_dist.weight",
        ),
        (
            {"fc_norm__weight": np.zeros(8), "fc_norm__bias": np.zeros(8)},
            "no place in the model for the file's tensors fc_norm.bias, fc_norm.w",
        ),
        (
            {"blocks__1__mlp__fc1__weight": np.zeros((13, 8))},
            r"encoder/block_1/mlp/in/kernel: the file's blocks.1.mlp.fc1.weight has shape \(13, 8\), "
            r"the model needs \(12, 8\)",
        ),
        ({"blocks__1__attn__qkv__bias": np.zeros(12)}, r"query/bias and .*: the file's .*qkv.bias has shape \(12,\)"),
        (
            {"patch_embed__proj__weight": np.zeros((8, 48))},
            r"tensor patch_embed.proj.weight has shape \(8, 48\), expected 4 axes",
        ),
        ({"cls_token": np.zeros((1, 2, 8))}, r"cls_token: the file's cls_token has shape \(1, 2, 8\)"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_named(changed, message, tiny, tmp_path):
    path = bare(tmp_path / "x", *tiny(), **changed)
    with pytest.raises(UserError, match=message):
        from_pretrained(path, num_heads=2, pool="cls", **STORED)


def test_another_model_than_the_one_stored(tiny, tmp_path):
    model, params = tiny()
    save_pretrained(tmp_path / "x", model, params, "timm")
    with pytest.raises(
        UserError, match=r"patch_embed/kernel has shape \(4, 4, 3, 8\) in the weights, but \(4, 4, 1, 8\) in"
    ):
        from_pretrained(tmp_path / "x", in_channels=1)
    with pytest.raises(
        UserError,
        match=r"no parameter encoder/block_2/attention/key/bias.*\. num_layers is 3, the checkpoint has 2$",
    ):
        from_pretrained(tmp_path / "x", num_layers=3)
    with pytest.raises(UserError, match=r"the weights have pos_embed, cls_pos|the weights have cls_pos, pos_embed"):
        from_pretrained(tmp_path / "x", pos_embed="none")
    with pytest.raises(UserError, match=r"no field 'num_class'; did you mean 'num_classes'"):
        from_pretrained(tmp_path / "x", num_class=3)
    with pytest.raises(UserError, match=r"num_heads=3 does not divide hidden_dim=8"):
        from_pretrained(tmp_path / "x", num_heads=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a weight file"),
        (b"GIF89a", "not a weight file"),
        (b"PK\x03\x04 and no more", "the archive is cut short"),
        (b"\x10\0\0\0\0\0\0\0{}", "damaged safetensors"),
        (b"\x80\x02", "the file is damaged or"),
    ],
)
def test_no_weights(content, message, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=rf"x(: | is ){message}"):
        from_pretrained(tmp_path / "x")


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="x: no such file or folder"):
        from_pretrained(tmp_path / "x")
    with pytest.raises(UserError, match=r"has no config\.json"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        from_pretrained(tmp_path)


def test_names_of_no_known_format(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(2), b=np.zeros(3))
    with pytest.raises(UserError, match=r"x.npz: the format is not one of .* \(.*timm.*\); the file holds a, b"):
        from_pretrained(tmp_path / "x.npz")


def test_objects_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(UserError, match=r"x\.npz: damaged .npz .*allow_pickle=False"):
        from_pretrained(tmp_path / "x.npz")


@pytest.mark.parametrize("format", ["npz", "timm"])
def test_files_cut_short(format, tiny, tmp_path):
    save_pretrained(tmp_path / "x", *tiny(), format)
    path = tmp_path / "x" if format == "npz" else tmp_path / "x" / "model.safetensors"
    data = path.read_bytes()
    for size in (5, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=path.name):
            from_pretrained(tmp_path / "x", **STORED)


# ---- other sources ----


@pytest.mark.parametrize("name", ["vit_checkpoint.pth", "vit_parallel.pth.tar"])
def test_a_torch_checkpoint(name):
    loaded = from_pretrained(FIXTURES / name, num_heads=2, pool="cls", image_size=(8, 12))
    mlp = loaded.params["encoder"]["block_0"]["mlp"]
    assert mlp["in"]["kernel"].dtype == np.float32  # that of the second is bfloat16 in the file
    numbers = np.arange(96) * 7 + 12 * 31  # the twelfth tensor after the first of fixtures/make.py
    np.testing.assert_array_equal(mlp["in"]["kernel"], (numbers % 128 - 64).reshape(12, 8).T)
    assert loaded.preprocessing is None
    assert loaded.report.notes == (
        "positions: assumed to lie on a 2x3 grid, which the file does not say",
        "preprocessing: the file does not say it. Give preprocessing=, a chain of transforms",
    )


def test_preprocessing_is_given_where_the_file_does_not_say_it():
    chain = "resize(9)|center_crop|normalize(mean=0.5, std=0.5)"
    loaded = from_pretrained(FIXTURES / "vit_checkpoint.pth", num_heads=2, pool="cls", preprocessing=chain, **STORED)
    assert loaded.preprocessing.transforms == chain
    assert loaded.report.notes == ()


def test_shards(tiny, tmp_path):
    model, params = tiny(norm_epsilon=1e-12, gelu="exact")
    save_pretrained(tmp_path / "x", model, params, "huggingface")
    whole = tmp_path / "x" / "model.safetensors"
    tensors = safetensors.numpy.load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    places = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == shard}
        safetensors.numpy.save_file(part, tmp_path / "x" / shard)
    index = tmp_path / "x" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    jax.tree.map(np.testing.assert_array_equal, from_pretrained(tmp_path / "x").params, params)
    index.write_text(json.dumps({"weight_map": {**places, "extra": "model-0.safetensors"}}))
    with pytest.raises(UserError, match="lists tensors that no shard has: extra"):
        from_pretrained(tmp_path / "x")
    index.write_text(json.dumps({"weight_map": {**places, "extra": "../model-0.safetensors"}}))
    with pytest.raises(UserError, match=r"names the shard '\.\./model-0.safetensors', which is not in the same folder"):
        from_pretrained(tmp_path / "x")


def test_old_layouts_of_big_vision(tiny, tmp_path):
    model, params = tiny(pool="map")
    format = find_format("big_vision", model)
    tensors = to_tensors(format, model, params)
    blocks = {name.split("_0/", 1)[1] for name in tensors if name.startswith("Transformer/encoderblock_0/")}
    old = {f"params/{name}".replace("MAPHead_0/", ""): x for name, x in tensors.items() if "encoderblock" not in name}
    old["params/Transformer/pos_embedding"] = old.pop("params/pos_embedding")
    for name in blocks:
        layers = [tensors[f"Transformer/encoderblock_{i}/{name}"] for i in range(2)]
        old[f"params/Transformer/encoderblock/{name}"] = np.stack(layers)
    np.savez(tmp_path / "x", **old)
    loaded = from_pretrained(tmp_path / "x.npz", **STORED)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_float16_is_widened(tiny, tmp_path):
    model, params = tiny()
    half = jax.tree.map(lambda x: x.astype(np.float16), params)
    loaded = from_pretrained(bare(tmp_path / "x", model, half), num_heads=2, pool="cls", **STORED)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x.astype(np.float32), y), half, loaded.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype(np.float32)}


def test_gradients_map_as_weights_do(tiny):
    model, params = tiny()
    for format in (find_format(name, model) for name in ("npz", "timm", "huggingface")):
        twice = {name: 2 * x for name, x in to_tensors(format, model, params).items()}
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(2 * x, y), params, to_params(format, model, twice))
