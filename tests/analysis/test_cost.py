"""The cost of models: exact agreement with closed forms, and with the papers' tables to the last printed digit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import build_model
from vit_jax.analysis import cost, cost_by_size
from vit_jax.analysis.cost import count_macs


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def transformer_block(tokens, width, mlp_dim):
    """Four projections, queries times keys, weights times values, two layers of MLP."""
    return tokens * (4 * width**2 + 2 * tokens * width + 2 * width * mlp_dim)


# ---- products ----


def total(function, *shapes):
    return count_macs(function, *(shape(*sizes) for sizes in shapes)).total()


def test_products_of_any_form():
    assert total(jnp.matmul, (3, 4), (4, 5)) == 3 * 4 * 5
    assert total(jnp.dot, (7,), (7,)) == 7
    assert total(lambda x, y: jnp.einsum("bnhd,bmhd->bhnm", x, y), (2, 3, 4, 5), (2, 6, 4, 5)) == 2 * 4 * 3 * 6 * 5
    assert total(lambda x, y: jnp.einsum("bij,kji->bk", x, y), (2, 3, 4), (5, 4, 3)) == 2 * 5 * 12
    assert total(lambda x, y: x * y + jnp.exp(x), (3, 4), (3, 4)) == 0


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions_count_every_tap_of_their_group(groups):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    assert total(convolve, (2, 9, 7, 8), (3, 5, 8 // groups, 16)) == 2 * (5 * 4) * 16 * (3 * 5 * 8 // groups)
    assert total(jnp.convolve, (10,), (3,)) == 12 * 3


def test_a_product_counts_as_often_as_it_is_run():
    def layer(x, w):
        return jnp.tanh(x @ w), None

    def scanned(x, ws):
        return jax.lax.scan(jax.checkpoint(layer), x, ws)[0]

    def conditional(x, w):
        return jax.lax.cond(x.sum() > 0, lambda: (x @ w) @ w, lambda: x @ w)

    once = 2 * 3 * 3
    assert total(jax.jit(lambda x, w: layer(x, w)[0]), (2, 3), (3, 3)) == once
    assert total(scanned, (2, 3), (5, 3, 3)) == 5 * once
    assert total(lambda x, ws: jax.lax.map(lambda _: scanned(x, ws), jnp.arange(4.0)), (2, 3), (5, 3, 3)) == 20 * once
    assert total(lambda x, w: jax.lax.fori_loop(0, 6, lambda i, x: x @ w, x), (2, 3), (3, 3)) == 6 * once
    assert total(conditional, (2, 3), (3, 3)) == 2 * once  # of two branches the dearer
    assert total(jax.vmap(layer, (0, None)), (7, 2, 3), (3, 3)) == 7 * once

    @jax.custom_vjp
    def custom(x, w):
        return x @ w

    custom.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g, g))
    assert total(custom, (2, 3), (3, 3)) == once


def test_a_loop_of_unknown_length_is_refused():
    def loop(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ w, x)

    with pytest.raises(ValueError, match="cannot count the products in 'while' in the function"):
        total(loop, (2, 3), (3, 3))


def test_products_with_constants_move_data():
    def patches(x):
        return jax.lax.conv_general_dilated_patches(x, (2, 2), (2, 2), "VALID")

    assert total(patches, (1, 3, 8, 8)) == 0
    assert total(lambda x: jax.image.resize(x, (9, 9), "bicubic"), (5, 5)) == 0
    assert total(lambda x: jnp.asarray(np.eye(5)) @ x, (5, 5)) == 0

    def sums(x, w):  # what a scan carries is constant before its first step only
        return jax.lax.scan(lambda carry, _: (carry @ w + x, None), jnp.zeros((2, 3)), None, 4)

    assert total(sums, (2, 3), (3, 3)) == 4 * 2 * 3 * 3


# ---- closed forms ----


@pytest.mark.parametrize(
    ("variant", "width", "layers", "published"),
    [
        ("S/16", 384, 12, 4.6e9),  # DeiT-S and DeiT-B in Table 5 of TNT
        ("B/16", 768, 12, 17.6e9),
        ("L/16", 1024, 24, None),
        ("H/14", 1280, 32, None),
    ],
)
def test_vit(variant, width, layers, published):
    found = cost(build_model(f"vit:{variant}"))
    patch = int(variant[2:])
    patches = (224 // patch) ** 2
    blocks = layers * transformer_block(patches + 1, width, 4 * width)
    assert found.macs == patches * 3 * patch**2 * width + blocks + width * 1000
    assert found.by_module["encoder"] == blocks
    if published:
        assert round(found.macs / 1e9, 1) * 1e9 == published


def resnet(stages, size=224, width=64):
    """Root, then bottlenecks with the stride in their 3x3 convolution; each stage first projects its shortcut."""
    total, size, channels = (size // 2) ** 2 * 7 * 7 * 3 * width, size // 4, width
    for i, units in enumerate(stages):
        for j in range(units):
            before, size = size, size // 2 if i and not j else size
            total += before**2 * channels * width + size**2 * (9 * width**2 + width * 4 * width)
            total += 0 if j else size**2 * channels * 4 * width
            channels = 4 * width
        width *= 2
    return total


@pytest.mark.parametrize(
    ("variant", "stages", "grid", "patch_dim", "width"),
    [
        ("R+Ti/16", (), 7, 8 * 8 * 64, 192),
        ("R50+L/32", (3, 4, 6, 3), 7, 2048, 1024),
        ("R50+B/16", (3, 4, 9), 14, 1024, 768),
    ],
)
def test_hybrids(variant, stages, grid, patch_dim, width):
    found = cost(build_model(f"vit:{variant}", num_layers=2))
    assert found.by_module["resnet"] == resnet(stages)
    blocks = 2 * transformer_block(grid**2 + 1, width, 4 * width)
    assert found.macs == resnet(stages) + grid**2 * patch_dim * width + blocks + width * 1000


def test_positions():
    """Relative ones are a second key: every query times every offset, in each head."""
    stem, every, relative = (
        cost(build_model("vit:Ti/16", num_layers=2, **fields)).macs
        for fields in ({}, {"pos_embed_at": "every_layer"}, {"pos_embed": "relative"})
    )
    assert every == stem
    assert relative == stem + 2 * 197**2 * 192


TNT_S = {"words": 16, "inner": 24, "width": 384, "tnt_layers": 12, "squeeze": False}


@pytest.mark.parametrize(
    ("model", "sizes", "published"),
    [
        # Table 1
        (("tnt:Ti/16", {}), {"inner": 12, "width": 192}, 1.4),
        (("tnt:S/16", {}), {}, 5.2),
        # 14.05; 14.1 with one operation for each number that is normalised, which changes no other row
        (("tnt:B/16", {}), {"inner": 40, "width": 640}, 14.1),
        # Table 5: layers with an inner block
        (("tnt:S/16", {"tnt_layers": (0, 3, 7, 11)}), {"tnt_layers": 4}, 4.8),
        (("tnt:S/16", {"tnt_layers": (0, 5, 11)}), {"tnt_layers": 3}, 4.7),
        (("tnt:S/16", {"tnt_layers": (0, 5)}), {"tnt_layers": 2}, 4.7),
        (("tnt:S/16", {"tnt_layers": (0,)}), {"tnt_layers": 1}, 4.6),
        # Table 8: words, and their width
        (
            ("tnt:S/16", {"num_words": 64, "inner_hidden_dim": 6, "inner_mlp_dim": 24, "inner_num_heads": 2}),
            {"words": 64, "inner": 6},
            5.1,
        ),
        (("tnt:S/16", {"num_words": 4, "inner_hidden_dim": 96, "inner_mlp_dim": 384}), {"words": 4, "inner": 96}, 6.0),
        # Table 12
        (("tnt:S/16", {"squeeze_excitation": True}), {"squeeze": True}, 5.2),
    ],
)
def test_tnt(model, sizes, published):
    words, inner, width, tnt_layers, squeeze = (TNT_S | sizes).values()
    projection = 196 * words * inner * width
    embedding = 196 * words * 7 * 7 * 3 * inner + projection
    blocks = tnt_layers * (196 * transformer_block(words, inner, 4 * inner) + projection)
    blocks += 12 * (transformer_block(197, width, 4 * width) + squeeze * 2 * width * width // 4)
    macs = embedding + blocks + width * 1000
    assert cost(build_model(model[0], **model[1])).macs == macs

    norms = tnt_layers * (2 + 1) * 196 * words * inner + (tnt_layers * 196 + (12 * 2 + 1) * 197) * width
    assert round((macs + norms) / 1e9, 1) == published
    assert published == 14.1 or round(macs / 1e9, 1) == published


def sequences(number, tokens, width=768):
    """Multiply-accumulates of attention within a number of sequences of equal length."""
    return number * tokens * (4 * width**2 + 2 * tokens * width)


@pytest.mark.parametrize(
    ("preset", "frames", "patches", "published"), [("", 8, 196, 0.59), ("-HR", 16, 784, 5.11), ("-L", 96, 196, 7.14)]
)
def test_timesformer(preset, frames, patches, published):
    """Tables 2 and 5: TFLOPs of three views."""
    tokens = frames * patches
    temporal = sequences(patches, frames) + tokens * 768**2
    spatial = sequences(frames, patches + 1)
    blocks = 12 * (temporal + spatial + (tokens + 1) * 2 * 768 * 3072)
    macs = tokens * 768**2 + blocks + 768 * 400
    assert cost(build_model(f"timesformer:B/16{preset}")).macs == macs
    assert round(3 * macs / 1e12, 2) == published


@pytest.mark.parametrize(
    ("scheme", "attention", "class_tokens"),
    [
        ("space_only", sequences(8, 197), 8),
        ("joint_space_time", sequences(1, 1569), 1),
        # local has a window of 8 x 7 x 7 = 392 patches for each of 1568; global has 8 sequences of 4 x 7 x 7
        ("sparse_local_global", 1568 * (5 * 768**2 + 2 * 392 * 768) + sequences(8, 197), 1),
        ("axial", sequences(196, 8) + sequences(112, 14) + 2 * 1568 * 768**2 + sequences(112, 15), 1),
    ],
)
def test_other_schemes_of_attention(scheme, attention, class_tokens):
    found = cost(build_model("timesformer:B/16", attention_type=scheme))
    mlp = (1568 + class_tokens) * 2 * 768 * 3072
    assert found.macs == 1568 * 768**2 + 12 * (attention + mlp) + 768 * 400


@pytest.mark.parametrize(("variant", "width", "layers"), [("base", 512, 6), ("big", 1024, 6)])
def test_transformer(variant, width, layers):
    """Teacher-forced; keys and values of the cross attention are of the source."""
    source, target, vocab_size = 70, 60, 1000
    encoder = layers * transformer_block(source, width, 4 * width)
    cross = 2 * target * width**2 + 2 * source * width**2 + 2 * target * source * width
    decoder = layers * (transformer_block(target, width, 4 * width) + cross)
    logits = target * width * vocab_size
    model = build_model(f"transformer:{variant}", vocab_size=vocab_size)
    assert cost(model, (source,), (target,)).macs == encoder + decoder + logits
    for architecture, macs in (("encoder", encoder), ("decoder", decoder - layers * cross + logits)):
        alone = build_model(f"transformer:{variant}", vocab_size=vocab_size, architecture=architecture)
        assert cost(alone, (source if architecture == "encoder" else target,)).macs == macs


def test_other_pools_and_sizes():
    fields = {"image_size": (32, 50), "patch_size": (8, 12), "in_channels": 1, "num_classes": 7, "num_layers": 2}
    gap, mapped = (build_model("vit:Ti/4", pool=pool, **fields) for pool in ("gap", "map"))
    plain = 16 * 96 * 192 + 2 * transformer_block(16, 192, 768) + 192 * 7
    assert cost(gap).macs == plain
    attention = 2 * 192**2 + 16 * 2 * 192**2 + 2 * 16 * 192  # one query
    assert cost(mapped).macs == plain + attention + 2 * 192 * 768


@pytest.mark.parametrize("fields", [{"scan_layers": True, "remat": "full"}, {"attention_kernel": "cudnn"}])
def test_how_it_is_computed_is_not_what_it_costs(fields):
    model = build_model("vit:Ti/16", num_layers=2)
    assert cost(model.clone(**fields)) == cost(model)


def test_modules():
    found = cost(build_model("vit:Ti/16", num_layers=2))
    block = transformer_block(197, 192, 768)
    assert found.by_module[""] == found.macs
    assert found.by_module["encoder/block_1"] == found.by_module["encoder/block_0"] == block
    assert found.by_module["encoder/block_1/mlp/in"] == 197 * 192 * 768
    attention = {
        name: found.by_module[f"encoder/block_1/attention{name}"] for name in ("", "/query", "/key", "/value", "/out")
    }
    assert 2 * attention[""] - sum(attention.values()) == 2 * 197**2 * 192  # beyond its parts: the two products
    lines = str(found).splitlines()
    assert lines[0] == f"parameters {found.params:,}"
    assert [line.split() for line in lines if line.startswith("  block_*")] == [
        ["block_*", f"{2 * block:,}", f"{2 * block / found.macs:.1%}"]
    ]


def test_the_smallest_model_counts_its_parameters():
    class Tiny(nn.Module):
        input_shape = (3, 2)

        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(5)(nn.LayerNorm()(x))

    found = cost(Tiny())
    assert (found.params, found.macs) == (2 + 2 + 2 * 5 + 5, 3 * 2 * 5)
    assert cost(Tiny(), (7, 2)).macs == 7 * 2 * 5


def test_a_model_without_a_shape_of_its_own_needs_one():
    with pytest.raises(ValueError, match="Transformer has no input_shape"):
        cost(build_model("transformer:base"))


# ---- tables by module and by size ----


def test_the_table_has_every_module_once_and_all_layers_in_one_row():
    model = build_model("vit:Ti/16", image_size=(32, 32), num_layers=3, hidden_dim=12, mlp_dim=20, num_heads=2)
    found = cost(model)
    table = {row.module: row for row in found.table()}
    assert (table[""].params, table[""].macs) == (found.params, found.macs)
    assert table["encoder/block_*/mlp/in"] == ("encoder/block_*/mlp/in", 3 * (12 * 20 + 20), 3 * 5 * 12 * 20)
    assert table["encoder/block_*/mlp_norm"].params == 3 * 2 * 12
    assert table["encoder/block_*/mlp_norm"].macs == 0
    assert table["patch_embed"] == ("patch_embed", 16 * 16 * 3 * 12 + 12, 4 * 16 * 16 * 3 * 12)
    own = 5 * 12 + 12  # positions and class token belong to no submodule
    children = [row for name, row in table.items() if name and "/" not in name]
    assert sum(row.params for row in children) == found.params - own
    assert [row.module for row in found.table(depth=1)] == ["", *(row.module for row in children)]


def test_costs_at_other_sizes_are_those_of_models_built_for_them():
    sizes = {"num_layers": 1, "hidden_dim": 12, "mlp_dim": 20, "num_heads": 2, "num_classes": 5}
    model = build_model("timesformer:B/16", image_size=(32, 32), num_frames=2, **sizes)
    found = cost_by_size(model, sides=(48, 64), frames=(4,))
    assert {name: list(costs) for name, costs in found.items()} == {"side": [48, 64], "frames": [4]}
    expected = build_model("timesformer:B/16", image_size=(48, 48), num_frames=2, **sizes)
    assert found["side"][48].macs == cost(expected).macs
    expected = build_model("timesformer:B/16", image_size=(32, 32), num_frames=4, **sizes)
    assert found["frames"][4].macs == cost(expected).macs
    with pytest.raises(ValueError, match="ViT has no num_frames"):
        cost_by_size(build_model("vit:Ti/16"), frames=(2,))
    with pytest.raises(ValueError, match="no patch of patch_size"):
        cost_by_size(model, sides=(8,))
