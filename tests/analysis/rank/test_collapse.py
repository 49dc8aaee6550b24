"""Rank collapse: pure attention falls doubly exponentially and below the bound; with skip connections it does not."""

import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import build_model
from vit_jax.analysis.rank.branches import Parts, open_stack, run
from vit_jax.analysis.rank.collapse import (
    VARIANTS,
    composite_norm,
    decay,
    frobenius_norm,
    relative_residual,
    residual,
    residuals_by_depth,
)
from vit_jax.errors import UserError

IMAGES = {"image_size": (16, 16), "patch_size": (4, 4), "hidden_dim": 32, "mlp_dim": 64, "num_heads": 4}
TEXT = {"hidden_dim": 32, "mlp_dim": 64, "num_heads": 4, "num_layers": 5, "vocab_size": 50, "norm": "pre"}
MODELS = {
    "image": ("vit:Ti/4", {**IMAGES, "num_layers": 5, "num_classes": 5}),
    "clip": ("timesformer:B/4", {**IMAGES, "num_layers": 5, "num_frames": 3, "attention_type": "joint_space_time"}),
    "sentence": ("transformer:base", {**TEXT, "architecture": "encoder"}),
}


def initial(name, **more):
    """Returns a model with its own initial values, and inputs."""
    variant, fields = MODELS[name]
    model = build_model(variant, **{**fields, **more})
    rng = np.random.default_rng(0)
    if variant.startswith("transformer"):
        inputs = rng.integers(1, 50, (3, 20))
        inputs[0, 12:] = 0  # padding
        inputs = jnp.asarray(inputs)
    else:
        inputs = jnp.asarray(rng.standard_normal((3, *model.input_shape)), jnp.float32)
    init = jax.jit(lambda inputs: model.init(jax.random.key(0), inputs, train=False))
    return model, init(inputs)["params"], inputs


def test_norms_and_residual_are_those_of_their_definitions():
    x = np.random.default_rng(0).standard_normal((2, 5, 7))
    for matrix, composite, frobenius in zip(x, composite_norm(x), frobenius_norm(x), strict=True):
        ones, most = np.linalg.norm(matrix, 1), np.linalg.norm(matrix, np.inf)
        np.testing.assert_allclose(composite, np.sqrt(ones * most), rtol=1e-5)
        np.testing.assert_allclose(frobenius, np.linalg.norm(matrix), rtol=1e-5)
    np.testing.assert_allclose(residual(x), x - x.mean(1, keepdims=True), atol=1e-6)
    real = np.array([[True] * 5, [True] * 3 + [False] * 2])
    found = np.asarray(residual(x, real))
    np.testing.assert_allclose(found[1, :3], x[1, :3] - x[1, :3].mean(0), atol=1e-6)
    assert not found[1, 3:].any()
    ratio = np.linalg.norm(x[1, :3] - x[1, :3].mean(0)) / np.linalg.norm(x[1, :3])
    np.testing.assert_allclose(relative_residual(x, real, "frobenius")[1], ratio, rtol=1e-5)
    assert relative_residual(np.ones((4, 3))) == 0
    for norm in (composite_norm, frobenius_norm):  # their squares are smaller than any float64
        np.testing.assert_allclose(norm(1e-300 * x), 1e-300 * norm(x), rtol=1e-12)
        assert norm(np.zeros((1, 4, 3))) == [0]


@pytest.mark.parametrize("name", MODELS)
def test_pure_attention_collapses_and_skip_connections_prevent_it(name):
    model, params, inputs = initial(name)
    found = residuals_by_depth(model, params, inputs)
    by_parts = {(parts.skip, parts.mlp): values for parts, values in found.items()}
    assert list(found) == list(VARIANTS)
    assert all(values.shape == (3, 6) and (values >= 0).all() for values in found.values())
    pure = by_parts[False, False]
    assert (pure[:, 0] > 0.3).all()
    assert (np.diff(pure[:, :4]) < 0).all()
    assert (pure[:, 4] < 1e-6).all()
    assert (pure[:, 4] < np.maximum(pure[:, 3] ** 2, 1e-14)).all()  # faster than exponential, down to rounding errors
    assert (by_parts[False, True][:, 4] < 1e-6).all()  # neither MLPs nor layer norms stop it
    assert (by_parts[True, False] > 0.25).all()
    assert (by_parts[True, True] > 0.25).all()
    without_norms = residuals_by_depth(model, params, inputs, variants=[Parts(False, False, False)])
    (values,) = without_norms.values()
    assert (values[:, 4] < 1e-12).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_residual_falls_with_the_cube_and_below_the_bound(name):
    model, params, inputs = initial(name)
    found = decay(model, params, inputs)
    assert all(values.shape == (3, 6) for values in (found.residual, found.step_bound, found.bound, found.holds))
    below = found.holds[:, 1:] & np.isfinite(found.residual[:, 1:])
    assert below[:, 1:3].all()
    assert (found.residual[:, 1:] < found.step_bound[:, 1:])[below].all()
    started = np.isfinite(found.bound)
    assert started.any(axis=1).all()
    assert (found.residual <= found.bound + 1e-9)[started & np.isfinite(found.residual)].all()
    # log ||res|| is multiplied by 3 in every layer, up to a constant, once it is small
    for depth in found.residual:
        steps = np.diff(depth[np.isfinite(depth)])
        np.testing.assert_allclose(steps[-1] / steps[-2], 3, atol=0.1)


def test_the_decay_is_that_of_the_tokens_themselves():
    model, params, inputs = initial("image")
    found = decay(model, params, inputs)
    stack = open_stack(model, params, inputs)
    tokens = run(stack, Parts(False, False, False))
    for layer in range(3):  # further down, float64 cannot hold tokens that differ so little
        x = np.asarray(tokens[layer])
        size = [np.sqrt(np.linalg.norm(r, 1) * np.linalg.norm(r, np.inf)) for r in x - x.mean(1, keepdims=True)]
        np.testing.assert_allclose(found.residual[:, layer], np.log10(size), atol=1e-6)


def test_the_bound_is_that_of_theorem_2_3(randomised):
    """The recursion with one coefficient is the closed form, and the coefficient is 4 gamma beta H / sqrt(d)."""
    model, params, inputs = initial("image", num_layers=1)
    tokens = np.asarray(open_stack(model, params, inputs).tokens)
    attention = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"]["block_0"]["attention"])
    heads, width = attention["query"]["kernel"].shape[1:]
    w_qk = [attention["query"]["kernel"][:, h] @ attention["key"]["kernel"][:, h].T for h in range(heads)]
    w_vo = [attention["value"]["kernel"][:, h] @ attention["out"]["kernel"][h] for h in range(heads)]
    beta = max(np.linalg.norm(w, 1) for w in w_qk) * math.sqrt(
        max(np.linalg.norm(w, 1) for w in w_vo) * max(np.linalg.norm(w, np.inf) for w in w_vo)
    )
    found = decay(model, params, inputs)
    for x, step_bound in zip(tokens, found.step_bound[:, 1], strict=True):
        shared = [np.exp((x - x.mean(0)) @ w.T @ x.mean(0) / math.sqrt(width)) for w in w_qk]
        gamma = max(math.sqrt(len(x) * (s / s.sum()).max()) for s in shared)
        rest = x - x.mean(0)
        size = math.sqrt(np.linalg.norm(rest, 1) * np.linalg.norm(rest, np.inf))
        c = 4 * gamma * beta * heads / math.sqrt(width)
        np.testing.assert_allclose(step_bound, math.log10(c * size**3), rtol=1e-6)
    exponent = fractions.Fraction(0)
    for layers in range(1, 6):
        exponent = 1 + 3 * exponent
        assert exponent == fractions.Fraction(3**layers - 1, 2)


def test_attention_within_parts_has_no_bound():
    variant, fields = MODELS["clip"]
    model = build_model(variant, **{**fields, "attention_type": "divided_space_time", "num_layers": 1})
    inputs = jnp.zeros((1, *model.input_shape))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    with pytest.raises(UserError, match="attention_type='divided_space_time' attends within parts"):
        decay(model, params, inputs)
