"""Local attention computed window by window against the same attention with a mask."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.analysis import cost
from vit_jax.models import build_model
from vit_jax.models.blocks.timesformer import attention_mask
from vit_jax.models.blocks.windows import window_attention
from vit_jax.models.kernels import dot_product_attention

HEADS = 2


def arrays_of(grid, extra, batch=(2, 1), seed=0):
    rng = np.random.default_rng(seed)
    shape = (*batch, math.prod(grid) + extra, HEADS)
    return [jnp.asarray(rng.standard_normal((*shape, width)), jnp.float32) for width in (4, 4, 3, 3)]


@pytest.mark.parametrize("kernel", ["auto", "chunked"])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("grid", [(3, 5, 3), (2, 4, 2), (1, 4, 1), (2, 3, 8)], ids=str)
def test_values_and_gradients_are_those_of_masked_attention(grid, extra, kernel):
    *qkv, target = arrays_of(grid, extra)
    mask = attention_mask(grid, "local", bool(extra))

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(attention):
        out, pull_back = jax.vjp(attention, *qkv)
        return out, pull_back(target)

    ours = values_and_gradients(functools.partial(window_attention, grid=grid, kernel=kernel))
    masked = values_and_gradients(functools.partial(dot_product_attention, mask=mask, kernel="reference"))
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(masked), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [False, True])
def test_a_model_computes_the_same_with_its_weights_and_without(cls, randomised):
    sizes = {"num_frames": 3, "image_size": (10, 6), "patch_size": (2, 2), "hidden_dim": 8, "num_heads": 2}
    model = build_model(
        "timesformer:B/16", attention_type="sparse_local_global", cls_in_temporal_attention=cls, mlp_dim=12,
        num_layers=2, num_classes=5, drop_path_rate=0.0, **sizes,
    )  # fmt: skip
    videos = jnp.asarray(np.random.default_rng(0).standard_normal((2, *model.input_shape)), jnp.float32)
    params = randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), videos, train=False))["params"])

    @functools.partial(jax.jit, static_argnums=0)
    def logits(capture):
        out = model.apply({"params": params}, videos, train=False, capture=capture)
        return out[0] if capture else out

    masked = logits(("attention/0", "attention/1"))
    np.testing.assert_allclose(logits(()), masked, rtol=1e-5, atol=1e-5)


def test_only_the_pairs_within_windows_are_multiplied():
    """8 frames of 14 x 14 patches: a patch attends to 8 x 7 x 7, where joint attention has 8 x 14 x 14."""
    model = build_model("timesformer:B/16", attention_type="sparse_local_global", num_layers=1)
    tokens, width = 8 * 14 * 14, 768
    found = cost(model).by_module["encoder/block_0/local_attention"]
    assert found == 4 * tokens * width**2 + 2 * tokens * (8 * 7 * 7) * width
