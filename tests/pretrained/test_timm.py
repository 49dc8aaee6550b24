"""What timm's folders and state dicts say, or leave open: obeyed, asked for, or refused by name."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from vit_jax import from_pretrained, save_pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained.formats import find_format
from vit_jax.pretrained.names import to_tensors

SIZE = {"stored_image_size": (8, 12)}


@pytest.fixture
def folder(tiny, tmp_path):
    """Makes a folder of timm that holds a tiny model, and whose config.json has been changed."""

    def make(fields=None, args=None, **changed):
        model, params = tiny(**{"gelu": "exact", **(fields or {})})
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        save_pretrained(path, model, params, "timm")
        config = json.loads((path / "config.json").read_text())
        config["model_args"] = {"img_size": [8, 12], "num_heads": 2, **(args or {})}
        (path / "config.json").write_text(json.dumps({**config, **changed}))
        return path

    return make


@pytest.fixture
def bare(tiny, tmp_path):
    """Makes a bare state dict of timm."""

    def make(tensors=None, **fields):
        model, params = tiny(**{"gelu": "exact", **fields})
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        path.write_bytes(
            safetensors.numpy.save(to_tensors(find_format("timm", model), model, params) | (tensors or {}))
        )
        return path

    return make


GAP = {"pool": "gap"}
CLIP = {"stem_norm": True, "patch_bias": False, "norm_epsilon": 1e-5}


@pytest.mark.parametrize(
    ("fields", "architecture", "args", "expected"),
    [
        ({}, "vit_base_patch16_224", {"act_layer": "quick_gelu"}, {"gelu": "quick"}),
        ({}, "vit_base_patch16_224", {"act_layer": "GELU_tanh"}, {"gelu": "tanh"}),
        ({}, "vit_base_patch16_224", {"act_layer": ""}, {"gelu": "exact"}),
        ({}, "vit_base_patch16_224", {"act_layer": None, "drop_rate": 0.1}, {"gelu": "exact"}),
        (CLIP, "vit_base_patch16_clip_quickgelu_224", {}, {"gelu": "quick", "norm_epsilon": 1e-5}),
        (CLIP, "vit_base_patch16_clip_224", {"norm_layer": "layernorm"}, {"gelu": "exact", "norm_epsilon": 1e-6}),
        (GAP, "vit_so400m_patch16_siglip_gap_256", {}, {"gelu": "tanh", "pool": "gap"}),
        ({"pool": "map"}, "vit_base_patch32_siglip_256", {}, {"gelu": "tanh", "pool": "map"}),
        ({"pool": "map"}, "vit_base_patch16_siglip_256", {}, {"gelu": "exact"}),
        ({"pool": "map"}, "vit_large_patch16_siglip_512", {}, {"gelu": "tanh"}),
        ({"pool": "map"}, "vit_large_patch16_siglip_384", {}, {"gelu": "exact"}),
        (
            {"pool": "gap", "unpooled_class_token": True, "final_norm": "after_pool"},
            "eva_large_patch14_196",
            {},
            {"pool": "gap", "unpooled_class_token": True, "final_norm": "after_pool"},
        ),
        (
            {"pool": "gap", "unpooled_class_token": True},
            "vit_base_patch16_224",
            {"global_pool": "avg", "fc_norm": False},
            {"pool": "gap", "unpooled_class_token": True, "final_norm": "before_pool"},
        ),
        ({"prefix_pos_embed": False}, "deit3_base_patch16_224", {}, {"prefix_pos_embed": False}),
        ({"num_registers": 4}, "vit_base_patch14_reg4_dinov2", {}, {"prefix_pos_embed": True, "num_registers": 4}),
    ],
)
def test_what_a_folder_says(fields, architecture, args, expected, folder):
    model = from_pretrained(folder(fields, args, architecture=architecture)).model
    assert {field: getattr(model, field) for field in expected} == expected


@pytest.mark.parametrize(
    ("args", "changed", "message"),
    [
        ({"act_layer": "relu"}, {}, "act_layer 'relu' is not supported, only 'gelu' or 'gelu_tanh' or 'quick_gelu'"),
        ({"global_pool": "max"}, {}, "global_pool 'max' is not supported, only 'token' or 'avg' or 'map'"),
        ({"global_pool": ""}, {}, "global_pool '' is not supported"),
        ({"global_pool": "map"}, {}, "pool is 'map', but the file has no tensor attn_pool.latent"),
        ({"act_layer": ["gelu"]}, {}, r'model_args.act_layer must be text, got \["gelu"\]'),
        ({"num_heads": 0}, {}, "num_heads must be a whole number from 1 to 1,024, got 0"),
        ({"img_size": "large"}, {}, ""),
        ({}, {"model_args": [1]}, r"model_args must be an object, got \[1\]"),
        ({"norm_layer": "rmsnorm"}, {}, "norm_layer 'rmsnorm' is not supported"),
        ({"pool_include_prefix": True}, {}, "model_args.pool_include_prefix=True is not supported"),
        ({"attn_layer": "diff"}, {}, "model_args.attn_layer='diff' is not supported"),
        ({"block_fn": "ResPostBlock"}, {}, "model_args.block_fn='ResPostBlock' is not supported"),
        ({"dynamic_img_pad": True}, {}, "model_args.dynamic_img_pad=True is not supported"),
        ({"window_size": 7}, {}, "config.json: model_args.window_size is unknown"),
        ({}, {"global_pool": "avg"}, "global_pool is 'avg', but timm builds 'vit_base_patch16_224' with these model_a"),
        ({}, {"pretrained_cfg": {"input_size": [3, 8, 12], "global_pool": "max"}}, "global_pool 'max' is not support"),
        ({}, {"architecture": "vit_base_patch16_rpn_224"}, "timm's 'vit_base_patch16_rpn_224' is not supported"),
        ({}, {"architecture": "vit_base_patch16_rope_224"}, "timm's 'vit_base_patch16_rope_224' is not supported"),
    ],
)
def test_what_is_refused_by_name(args, changed, message, folder):
    with pytest.raises(UserError, match=rf"/0(/config.json)?: .*{message}"):
        from_pretrained(folder({}, args, **changed))


@pytest.mark.parametrize("architecture", ["swin_tiny_patch4_window7_224", "naflexvit_base_patch16_gap"])
def test_another_family_is_called_by_its_name(architecture, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save({"embeds.proj.weight": np.zeros(3)}))
    with pytest.raises(UserError, match=f"timm's '{architecture}' is not supported: its tensors are not"):
        from_pretrained(tmp_path)


def test_the_number_of_heads_is_the_callers_then_the_files_then_the_architectures(tiny, tmp_path):
    model, params = tiny(gelu="exact", hidden_dim=48, num_heads=16)
    save_pretrained(tmp_path / "x", model, params, "timm")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    for architecture, args, given, expected in [
        ("vit_base_patch16_224", {}, {}, 12),
        ("vit_base_patch16_gap_224", {"global_pool": "token"}, {}, 16),
        ("vit_tiny_patch16_224", {}, {}, 3),
        ("vit_tiny_patch16_224", {"num_heads": 8}, {}, 8),
        ("vit_tiny_patch16_224", {}, {"num_heads": 4}, 4),
    ]:
        changed = {**config, "architecture": architecture, "model_args": {"img_size": [8, 12], **args}}
        (tmp_path / "x" / "config.json").write_text(json.dumps(changed))
        assert from_pretrained(tmp_path / "x", **given).model.num_heads == expected


SIZES = {"hidden_dim": 8, "mlp_dim": 12, "num_layers": 2, "num_heads": 2}


@pytest.mark.parametrize("given", [{"num_heads": 2}, {"name": "vit:Ti/4", **SIZES}])
def test_a_bare_state_dict_is_asked_how_it_pools(given, bare):
    path = bare(pool="gap", unpooled_class_token=True, final_norm="after_pool")
    with pytest.raises(UserError, match=r"the file does not say pool\. Give pool=\.\.\.$"):
        from_pretrained(path, **given, **SIZE)
    model = from_pretrained(path, **given, pool="gap", **SIZE).model
    assert (model.pool, model.unpooled_class_token, model.final_norm) == ("gap", True, "after_pool")
    with pytest.raises(UserError, match=r"pool is 'map', but the file has no tensor attn_pool\.latent"):
        from_pretrained(path, **given, pool="map", **SIZE)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, {"pool": "cls"}),
        ({"distillation_token": True}, {}),
        ({"pool": "gap"}, {"pool": "gap", "gelu": "tanh"}),
        ({"pool": "map"}, {"gelu": "tanh"}),
        (CLIP, {"pool": "cls", "gelu": "quick", "norm_epsilon": 1e-5}),
    ],
)
def test_what_a_bare_state_dict_is_asked(fields, asked, bare):
    path = bare(**fields)
    for field in asked:
        others = {name: value for name, value in asked.items() if name != field}
        with pytest.raises(UserError, match=f"the file does not say {field}. Give {field}="):
            from_pretrained(path, num_heads=2, **others, **SIZE)
    model = from_pretrained(path, num_heads=2, **asked, **SIZE).model
    assert {field: getattr(model, field) for field in asked} == asked


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.0.attn.q_norm.weight": np.zeros(4)}, "the weights have norms of queries and keys"),
        ({"blocks.0.mlp.fc1_g.weight": np.zeros((12, 8))}, "the weights have a gated MLP, which ViT does not support"),
        ({"blocks.0.mlp.fc2.weight": np.zeros((8, 6))}, "the weights have a gated MLP"),
        ({"blocks.0.attn.relative_position_bias_table": np.zeros((9, 2))}, "have relative positions"),
        ({"blocks.0.gamma_1": np.zeros(8), "blocks.0.attn.q_bias": np.zeros(8)}, "own and BEiT's layer scale"),
        ({"patch_embed.norm.weight": np.zeros(8)}, "have a norm in the patch embedding"),
    ],
)
def test_parts_that_no_vit_here_has_are_named(tensors, message, bare):
    with pytest.raises(UserError, match=message):
        from_pretrained(bare(tensors), num_heads=2, pool="cls", **SIZE)


def test_the_number_of_positions_tells_which_tokens_have_one(bare):
    given = {"num_heads": 2, "pool": "cls"}
    with_position, without = bare(), bare(prefix_pos_embed=False, image_size=(4, 28))  # 7 positions each
    assert from_pretrained(with_position, **given, **SIZE).model.prefix_pos_embed
    assert not from_pretrained(without, **given, stored_image_size=(4, 28)).model.prefix_pos_embed
    with pytest.raises(UserError, match="the file stores 6 or 7 positions of patches but not their grid"):
        from_pretrained(without, **given)


def test_a_new_head_replaces_both_of_a_distilled_model(bare, tiny):
    path = bare(distillation_token=True)
    loaded = from_pretrained(path, num_heads=2, num_classes=3, **SIZE)
    assert {name for name in loaded.report.replaced if "distillation" in name} == {
        "distillation_head/bias",
        "distillation_head/kernel",
    }
    features = from_pretrained(path, num_heads=2, num_classes=None, **SIZE)
    assert not {"head", "distillation_head"} & features.params.keys()
    jax.tree.map(np.testing.assert_array_equal, loaded.params["encoder"], features.params["encoder"])
