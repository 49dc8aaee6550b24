"""Heads in bfloat16: classes whose logits would be equal after rounding are still distinguished."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import build_model
from vit_jax.models.transformer import Transformer

SIZES = {"num_layers": 1, "hidden_dim": 8, "mlp_dim": 8, "num_heads": 2}
VISION = {"image_size": (4, 6), "patch_size": (2, 2), "num_classes": 5, **SIZES}
WORDS = {"inner_hidden_dim": 4, "inner_mlp_dim": 4, "inner_num_heads": 2, "num_words": 4}
TEXT = {"vocab_size": 5, "max_length": 4, "dropout_rate": 0.0, **SIZES}
MODELS = {
    "vit": ("vit:Ti/16", VISION),
    "tnt": ("tnt:Ti/16", {**VISION, **WORDS}),
    "timesformer": ("timesformer:S/16", {**VISION, "num_frames": 2}),
    "transformer, one embedding": ("transformer:base", {**TEXT, "architecture": "decoder", "norm": "pre"}),
    "transformer, a head": ("transformer:base", {**TEXT, "architecture": "decoder", "share_embeddings": False}),
}


def make(name, dtype):
    family, fields = MODELS[name]
    model = build_model(family, dtype=dtype, **fields)
    if not isinstance(model, Transformer):
        inputs = jnp.asarray(np.random.default_rng(0).standard_normal((2, *model.input_shape)), dtype)
        return model, inputs
    return model, jnp.asarray([[1, 2, 0]])


def random_params(model, inputs, randomised):
    params = randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))["params"])
    return jax.tree.map_with_path(lambda path, leaf: leaf + (path[-1].key == "scale"), params)


def head_of(params):
    """The matrix of the head, its other parameters, and a function that puts both back."""
    if "head" in params:
        kernel, rest = params["head"]["kernel"], {k: v for k, v in params["head"].items() if k != "kernel"}
        return kernel, lambda new: {**params, "head": {"kernel": new, **jax.tree.map(jnp.zeros_like, rest)}}
    table = params["embed"]["embedding"]
    return table.T, lambda new: {**params, "embed": {"embedding": new.T}}


@functools.partial(jax.jit, static_argnames="model")
def features_and_logits(model, params, inputs):
    """What the head is given, and what it makes of it, in the last row of the last example."""
    name = "decoder/tokens/final" if isinstance(model, Transformer) else "pooled"
    logits, captured = model.apply({"params": params}, inputs, train=False, capture=[name])
    features = captured[name]
    return features.reshape(-1, features.shape[-1])[-1], logits.reshape(-1, logits.shape[-1])[-1]


@pytest.mark.parametrize("name", MODELS)
def test_logits_that_tie_in_bfloat16_do_not_in_float32(name, randomised):
    model, inputs = make(name, jnp.bfloat16)
    params = random_params(model, inputs, randomised)
    kernel, put = head_of(params)
    # The columns of classes 3 and 4 are exact in bfloat16. They differ in one small entry, which decides the order of
    # the logits. As token ids, 3 and 4 are not in the input, so that the features stay the same.
    features = np.float64(features_and_logits(model, params, inputs)[0])
    signs = np.sign(features)
    columns = np.stack([4 * signs, 4 * signs], axis=1)
    columns[0] = np.array([1, 1 + 2**-7]) * 2**-6 * signs[0]
    _, logits = features_and_logits(model, put(jnp.asarray(kernel).at[:, 3:].set(columns)), inputs)

    assert logits.dtype == jnp.float32
    assert logits[3].astype(jnp.bfloat16) == logits[4].astype(jnp.bfloat16)  # rounded, the lower class would win
    assert logits.argmax() == 4
    np.testing.assert_allclose(logits[3:], features @ columns, rtol=2**-8)  # XLA may leave the features unrounded
    np.testing.assert_allclose(logits[4] - logits[3], abs(features[0]) * 2**-13, rtol=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_at_least_float32(name):
    with jax.enable_x64(True):
        for dtype, expected in [(jnp.bfloat16, "float32"), (jnp.float16, "float32"), (jnp.float64, "float64")]:
            model, inputs = make(name, dtype)
            logits, _ = jax.eval_shape(lambda m=model, x=inputs: m.init_with_output(jax.random.key(0), x, train=False))
            assert logits.dtype == expected
