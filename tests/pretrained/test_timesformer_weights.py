"""TimeSformer in the formats of Hugging Face and the authors: exact round trips and refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import from_pretrained, load_pretrained, save_pretrained
from vit_jax.errors import UserError
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.vit import ViT
from vit_jax.pretrained.formats.timesformer import AUTHORS, HUGGING_FACE
from vit_jax.pretrained.names import to_tensors

SQUARE = {"image_size": (8, 8), "num_frames": 3}
UNSAID = {"image_size": (8, 12), "num_frames": 3, "num_heads": 2}
SCHEMES = ("space_only", "joint_space_time", "divided_space_time")


@pytest.fixture
def timesformer(tiny):
    """Makes a TimeSformer for three frames of 8x12 pixels in patches of 4, and its parameters."""
    return lambda **fields: tiny("timesformer:Ti/4", **{"num_frames": 3, **fields})


@pytest.fixture
def authors_file(tmp_path):
    """Writes a file of the authors' names; theirs are torch's, but content tells the format."""

    def write(model, params):
        tensors = {f"model.{name}": value for name, value in to_tensors(AUTHORS, model, params).items()}
        np.savez(tmp_path / "weights.npz", **tensors)  # pyright: ignore[reportArgumentType]
        return tmp_path / "weights.npz"

    return write


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    "fields",
    [
        *({"attention_type": scheme} for scheme in SCHEMES),
        {"num_classes": None, "qkv_bias": False},
        {"gelu": "tanh", "norm_epsilon": 1e-5, "in_channels": 1},
    ],
    ids=str,
)
def test_hugging_face_folders(fields, timesformer, tmp_path):
    model, params = timesformer(**SQUARE, **fields)
    save_pretrained(tmp_path / "out", model, params, "huggingface")
    loaded = from_pretrained(tmp_path / "out")
    equal(params, loaded.params)
    assert loaded.model == model
    assert len(loaded.report.loaded) == len(jax.tree.leaves(params))
    assert not loaded.report.resized + loaded.report.replaced + loaded.report.skipped


@pytest.mark.parametrize(
    "fields", [*({"attention_type": scheme} for scheme in SCHEMES), {"num_classes": None, "qkv_bias": False}], ids=str
)
def test_the_authors_names(fields, timesformer, authors_file):
    model, params = timesformer(**fields)
    path = authors_file(model, params)
    loaded = from_pretrained(path, **UNSAID)
    equal(params, loaded.params)
    assert loaded.model == model
    assert not loaded.report.skipped
    again, _ = load_pretrained(path, model, jax.tree.map(np.zeros_like, params))
    equal(params, again)


def test_the_tensors_are_as_torch_has_them(timesformer):
    model, params = timesformer()
    theirs, hugging_face = (to_tensors(format, model, params) for format in (AUTHORS, HUGGING_FACE))
    block = params["encoder"]["block_1"]
    heads = [block["temporal_attention"][part]["kernel"].reshape(8, 8) for part in ("query", "key", "value")]
    np.testing.assert_array_equal(theirs["blocks.1.temporal_attn.qkv.weight"], np.concatenate(heads, axis=1).T)
    np.testing.assert_array_equal(theirs["blocks.1.temporal_fc.weight"], block["temporal_out"]["kernel"].T)
    np.testing.assert_array_equal(theirs["time_embed"][0, 2], params["time_embed"][2])
    np.testing.assert_array_equal(theirs["pos_embed"][0, 0], params["cls_pos"])
    np.testing.assert_array_equal(theirs["pos_embed"][0, 1 + 5], params["pos_embed"][1, 2])
    assert theirs["patch_embed.proj.weight"].shape == (8, 3, 4, 4)
    layer = "timesformer.encoder.layer.1"
    for name, other in [
        (f"{layer}.attention.attention.qkv.bias", "blocks.1.attn.qkv.bias"),
        (f"{layer}.temporal_attention.output.dense.weight", "blocks.1.temporal_attn.proj.weight"),
        (f"{layer}.temporal_layernorm.weight", "blocks.1.temporal_norm1.weight"),
        (f"{layer}.layernorm_after.bias", "blocks.1.norm2.bias"),
        (f"{layer}.output.dense.weight", "blocks.1.mlp.fc2.weight"),
        ("timesformer.embeddings.time_embeddings", "time_embed"),
        ("classifier.bias", "head.bias"),
    ]:
        np.testing.assert_array_equal(hugging_face[name], theirs[other])
    assert len(hugging_face) == len(theirs)


def test_other_frames_and_sizes_take_the_nearest_positions(timesformer, authors_file):
    model, params = timesformer()
    wanted = {"num_heads": 2, "image_size": (16, 12), "stored_image_size": (8, 12), "num_frames": 6}
    loaded = from_pretrained(authors_file(model, params), **wanted)
    assert sorted(loaded.report.resized) == ["pos_embed", "time_embed"]
    np.testing.assert_array_equal(loaded.params["pos_embed"], params["pos_embed"].repeat(2, axis=0))
    np.testing.assert_array_equal(loaded.params["time_embed"], params["time_embed"].repeat(2, axis=0))


def test_the_preprocessing_is_that_of_the_published_evaluation(timesformer, authors_file, tmp_path):
    expected = (
        "resize((8, 12), method='bilinear', antialias=False, cover=True)|center_crop|normalize(mean=0.45, std=0.225)"
    )
    loaded = from_pretrained(authors_file(*timesformer()), **UNSAID)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.transforms == expected
    model, params = timesformer(**SQUARE)
    save_pretrained(tmp_path / "out", model, params, "huggingface")
    said = {"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3}
    (tmp_path / "out" / "preprocessor_config.json").write_text(json.dumps({**said, "image_std": [0.25] * 3}))
    loaded = from_pretrained(tmp_path / "out")
    assert loaded.preprocessing is not None
    expected = "resize(9, method='bilinear')|center_crop(rounding='down')|normalize(mean=0.5, std=0.25)"
    assert loaded.preprocessing.transforms == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_type": "axial"}, r"'huggingface' has no place for encoder/block_0/width_attention/.* more"),
        ({"attention_type": "sparse_local_global"}, r"no place for encoder/block_0/local_attention/"),
        ({"divided_order": "parallel"}, r"cannot hold divided_order='parallel': it would be read back as 'time_first'"),
        ({"cls_in_temporal_attention": True}, r"cannot hold cls_in_temporal_attention=True"),
        ({"pos_embed": "space"}, r"cannot hold pos_embed='space': it would be read back as 'space_time'"),
        ({"pos_embed": "none"}, r"cannot hold pos_embed='none'"),
        ({"image_size": (8, 12)}, r"cannot hold image_size=\(8, 12\): it supports only squares"),
        ({"patch_size": (4, 2)}, r"cannot hold patch_size=\(4, 2\)"),
    ],
    ids=str,
)
def test_what_hugging_face_cannot_express_is_refused(fields, message, timesformer, tmp_path):
    model, params = timesformer(**{**SQUARE, **fields})
    with pytest.raises(UserError, match=message):
        save_pretrained(tmp_path / "out", model, params, "huggingface")
    assert not list(tmp_path.iterdir())


def test_what_no_tensor_tells_has_to_be_given(timesformer, authors_file):
    path = authors_file(*timesformer())
    with pytest.raises(UserError, match=r"does not say num_heads. Give num_heads=.*name='timesformer:B/16'"):
        from_pretrained(path, **{field: value for field, value in UNSAID.items() if field != "num_heads"})


def test_without_time_the_tensors_are_a_vit_s_unless_the_caller_wants_a_video_model(timesformer, authors_file):
    path = authors_file(*timesformer(attention_type="space_only"))
    assert isinstance(from_pretrained(path, num_heads=2, pool="cls", image_size=(8, 12)).model, ViT)
    named = from_pretrained(path, "timesformer:Ti/4", **UNSAID, hidden_dim=8, mlp_dim=12, num_layers=2).model
    assert named.attention_type == "space_only"


def test_a_config_that_contradicts_its_tensors(timesformer, tmp_path):
    model, params = timesformer(**SQUARE)
    save_pretrained(tmp_path / "out", model, params, "huggingface")
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_type": "space_only"}))
    with pytest.raises(UserError, match=r"attention_type is 'space_only', but .* 'divided_space_time'"):
        from_pretrained(path.parent)


@pytest.mark.parity
@pytest.mark.parametrize("attention_type", SCHEMES)
@pytest.mark.parametrize("num_classes", [5, None])
def test_hugging_face_loads_what_we_write(attention_type, num_classes, timesformer, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, params = timesformer(**SQUARE, attention_type=attention_type, num_classes=num_classes)
    assert isinstance(model, TimeSformer)
    save_pretrained(tmp_path / "x", model, params, "huggingface")
    peer = transformers.TimesformerForVideoClassification if num_classes else transformers.TimesformerModel
    module, report = peer.from_pretrained(tmp_path / "x", output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    videos = np.random.default_rng(0).standard_normal((2, *model.input_shape)).astype(np.float32)
    with torch.no_grad():
        out = module.eval()(torch.from_numpy(videos.transpose(0, 1, 4, 2, 3)))
    theirs = (out.logits if num_classes else out.last_hidden_state[:, 0]).numpy()
    ours, captured = model.apply({"params": params}, jnp.asarray(videos), train=False, capture=("frame_logits",))
    if attention_type == "space_only":  # transformers leaves the frames apart
        ours = np.asarray(captured["frame_logits"]).reshape(6, -1)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    module.save_pretrained(tmp_path / "y")
    equal(params, from_pretrained(tmp_path / "y").params)
