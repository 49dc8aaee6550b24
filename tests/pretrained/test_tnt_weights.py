"""TnT in the formats of timm and the authors: exact round trips and refusals."""

import json

import jax
import numpy as np
import pytest

from vit_jax import from_pretrained, load_pretrained, save_pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained.formats.tnt import AUTHORS, TIMM
from vit_jax.pretrained.names import to_tensors

WORDS = {"inner_hidden_dim": 6, "inner_mlp_dim": 24, "inner_num_heads": 3, "num_words": 4}
UNSAID = {"image_size": (8, 12), "patch_size": (4, 4), "num_heads": 2, "inner_num_heads": 3}


@pytest.fixture
def tnt(tiny):
    """Makes a TNT for 8x12 pixels in patches of 4, four words each, and its parameters."""
    return lambda **fields: tiny("tnt:S/4", **{**WORDS, **fields})


@pytest.fixture
def authors_file(tmp_path):
    """Writes a file of the authors' names; theirs are torch's, but content tells the format."""

    def write(model, params):
        np.savez(tmp_path / "weights.npz", **to_tensors(AUTHORS, model, params))  # pyright: ignore[reportArgumentType]
        return tmp_path / "weights.npz"

    return write


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"qkv_bias": True, "num_classes": None},
        {"patch_size": (8, 4), "num_words": 2, "mlp_dim": 13, "in_channels": 1},
    ],
    ids=str,
)
def test_timm_folders(fields, tnt, tmp_path):
    model, params = tnt(**fields)
    save_pretrained(tmp_path / "out", model, params, "timm")
    loaded = from_pretrained(tmp_path / "out")
    equal(params, loaded.params)
    assert loaded.model == model
    assert len(loaded.report.loaded) == len(jax.tree.leaves(params))
    assert not loaded.report.resized + loaded.report.replaced + loaded.report.skipped


def test_timm_names_imply_heads(tnt, tmp_path):
    model, params = tnt(hidden_dim=384, inner_hidden_dim=8, inner_mlp_dim=32, inner_num_heads=4, num_heads=6)
    save_pretrained(tmp_path / "out", model, params, "timm")
    args = {"patch_size": 4, "first_stride": 2}
    config = {"architecture": "tnt_s_patch16_224", "model_args": args, "pretrained_cfg": {"input_size": [3, 8, 12]}}
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert from_pretrained(tmp_path / "out").model == model


@pytest.mark.parametrize(
    "fields", [{}, {"squeeze_excitation": True, "tnt_layers": (1,), "inner_mlp_dim": 7}, {"qkv_bias": True}], ids=str
)
def test_the_authors_names(fields, tnt, authors_file):
    model, params = tnt(**fields)
    path = authors_file(model, params)
    loaded = from_pretrained(path, **UNSAID)
    equal(params, loaded.params)
    assert loaded.model == model
    assert [(row.path, row.stored) for row in loaded.report.rows if row.status == "skipped"] == [
        ("outer_tokens", (1, 6, 8))  # frozen, and used by nothing
    ]
    again, _ = load_pretrained(path, model, jax.tree.map(np.zeros_like, params))
    equal(params, again)


def test_the_tensors_are_as_torch_has_them(tnt):
    model, params = tnt()
    timm, authors = to_tensors(TIMM, model, params), to_tensors(AUTHORS, model, params)
    query, key = (params["encoder"]["block_1"]["inner"]["attention"][part]["kernel"] for part in ("query", "key"))
    expected = np.concatenate([query.reshape(6, 6), key.reshape(6, 6)], axis=1).T
    np.testing.assert_array_equal(timm["blocks.1.attn_in.qk.weight"], expected)
    np.testing.assert_array_equal(authors["blocks.1.inner_attn.qk.weight"], expected)
    np.testing.assert_array_equal(timm["pixel_pos"][0, :, 1, 0], params["word_pos"][1, 0])
    np.testing.assert_array_equal(authors["inner_pos"][0, 2], params["word_pos"][1, 0])
    np.testing.assert_array_equal(timm["patch_pos"][0, 4], params["pos_embed"][1, 0])
    np.testing.assert_array_equal(authors["outer_pos"][0, 0], params["cls_pos"])
    assert timm["pixel_embed.proj.weight"].shape == authors["patch_embed.proj.weight"].shape == (6, 3, 7, 7)
    assert len(authors) == len(timm) + 1
    assert not authors["outer_tokens"].any()


def test_both_bring_the_preprocessing_of_their_evaluation(tnt, authors_file):
    model, params = tnt()
    path = authors_file(model, params)
    loaded = from_pretrained(path, **UNSAID)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.transforms == (
        "resize((8, 13), method='bicubic', cover=True)|center_crop|normalize(mean=0.5, std=0.5)"
    )
    resized = from_pretrained(path, **{**UNSAID, "image_size": (224, 224)}, stored_image_size=(8, 12))
    assert resized.report.resized == ["pos_embed"]
    assert resized.preprocessing is not None
    assert resized.preprocessing.transforms.startswith("resize(248, ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"squeeze_excitation": True}, r"'timm' has no place for encoder/block_0/outer/mlp_gate/in/bias, .* 7 more"),
        ({"tnt_layers": (1,)}, r"'timm' cannot hold tnt_layers=\(1,\): it would be read back as None"),
        ({"pos_embed": "none"}, r"'timm' cannot hold pos_embed='none': it would be read back as 'learned'"),
        ({"word_pos_embed": "none"}, r"'timm' cannot hold word_pos_embed='none'"),
        ({"inner_mlp_dim": 12}, r"'timm' cannot hold inner_mlp_dim=12: it would be read back as 24"),
        ({"gelu": "tanh"}, r"'timm' cannot hold gelu='tanh'"),
    ],
    ids=str,
)
def test_what_timm_cannot_express_is_refused(fields, message, tnt, tmp_path):
    model, params = tnt(**fields)
    with pytest.raises(UserError, match=message):
        save_pretrained(tmp_path / "out", model, params, "timm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unsaid", ["patch_size", "num_heads", "inner_num_heads"])
def test_what_no_tensor_tells_has_to_be_given(unsaid, tnt, authors_file):
    path = authors_file(*tnt())
    with pytest.raises(UserError, match=f"does not say {unsaid}. Give {unsaid}=.*name='tnt:S/16'"):
        from_pretrained(path, **{field: value for field, value in UNSAID.items() if field != unsaid})


def test_another_number_of_words_than_fits_the_patch(tnt, authors_file):
    with pytest.raises(UserError, match=r"no stride gives num_words=4 in patch_size=\(5, 1\)"):
        from_pretrained(authors_file(*tnt()), **{**UNSAID, "patch_size": (5, 1)})


def test_timms_legacy_model_is_another(tnt, tmp_path):
    tensors = {**to_tensors(TIMM, *tnt()), "blocks.0.proj.bias": np.zeros(8)}
    np.savez(tmp_path / "legacy.npz", **tensors)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="tnt_s_legacy_patch16_224 computes another function"):
        from_pretrained(tmp_path / "legacy.npz", **UNSAID)
