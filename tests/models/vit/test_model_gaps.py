"""Dropout is applied in the same places as in the authors' code."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import build_model

RATE = 0.3
TINY = {"image_size": (32, 32), "hidden_dim": 64, "mlp_dim": 64, "num_layers": 1, "num_heads": 1, "num_classes": 2}


def input_of_encoder(model):
    """Returns the tokens that reach the blocks in training: every parameter random, but positions in time zero."""
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(4, *model.input_shape)), jnp.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False)["params"])
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    if "time_embed" in params:
        params["time_embed"] *= 0

    @jax.jit
    def tokens(params, inputs):
        seen = []

        def watch(function, arguments, named, context):
            if context.module.name == "encoder" and context.method_name == "__call__":
                seen.append(arguments[0])
            return function(*arguments, **named)

        with nn.intercept_methods(watch):
            model.apply({"params": params}, inputs, train=True, rngs={"dropout": jax.random.key(0, impl="rbg")})
        (found,) = seen
        return found

    return np.asarray(tokens(params, inputs))


@pytest.mark.parametrize(
    ("fields", "zeros"),
    [
        ({"attention_type": "joint_space_time"}, 1 - (1 - RATE) ** 2),
        ({"attention_type": "joint_space_time", "pos_embed": "space"}, RATE),
        ({"attention_type": "space_only"}, RATE),
    ],
    ids=str,
)
def test_timesformer_drops_after_the_positions_in_space_and_again_after_those_in_time(fields, zeros):
    model = build_model("timesformer:Ti/8", num_frames=8, dropout_rate=RATE, drop_path_rate=0.0, **TINY, **fields)
    tokens = input_of_encoder(model)
    assert (tokens[:, 1:] == 0).mean() == pytest.approx(zeros, abs=0.02)
    assert (tokens[:, :1] == 0).mean() == pytest.approx(RATE, abs=0.1)


def test_vit_drops_all_tokens_after_the_positions():
    tokens, whole = (input_of_encoder(build_model("vit:Ti/8", dropout_rate=rate, **TINY)) for rate in (RATE, 0.0))
    assert (tokens == 0).mean() == pytest.approx(RATE, abs=0.03)
    kept = tokens != 0
    np.testing.assert_allclose(tokens[kept], whole[kept] / (1 - RATE), rtol=1e-4)
