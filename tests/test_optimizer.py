"""Masks, weight decay, layer decay and freezing against their formulas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.config import default_config
from vit_jax.errors import UserError
from vit_jax.optimizer import make_optimizer

SHAPES = {
    "patch_embed": {"kernel": (2, 2, 1, 4), "bias": (4,)},
    "pos_embed": (2, 2, 4),
    "encoder": {f"block_{i}": {"mlp": {"in": {"kernel": (4, 8), "bias": (8,)}}} for i in range(2)},
    "norm": {"scale": (4,), "bias": (4,)},
    "head": {"kernel": (4, 3), "bias": (3,)},
}
PARAMS = jax.tree.map(jnp.ones, SHAPES, is_leaf=lambda x: isinstance(x, tuple))
NUMBERS = np.random.default_rng(0)
GRADIENTS = jax.tree.map(lambda p: jnp.asarray(NUMBERS.normal(size=p.shape), jnp.float32), PARAMS)


def update(params=PARAMS, gradients=GRADIENTS, updates=1, **settings):
    config = default_config().optimizer
    config.schedule.update({"name": "constant", "peak": 0.1})
    config.update(settings)
    tx, _ = make_optimizer(config, params, total_steps=100, steps_per_epoch=10, hidden_dim=64)
    state = tx.init(params)
    for _ in range(updates):
        delta, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, delta)
    return params, delta, state


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "adafactor", "lion", "muon"])
def test_weight_decay_reaches_kernels_only(name):
    with_decay, _, _ = update(name=name, weight_decay=0.5)
    without, _, _ = update(name=name)
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b), with_decay, without)
    assert changed["patch_embed"]["kernel"]
    assert changed["head"]["kernel"]
    assert not changed["head"]["bias"]
    assert not changed["pos_embed"]
    assert not any(changed["norm"].values())


def test_decoupled_decay_is_by_learning_rate_times_weight_decay():
    zero = jax.tree.map(jnp.zeros_like, GRADIENTS)
    for name in ("adamw", "adafactor", "lion", "muon"):
        params, _, _ = update(gradients=zero, name=name, weight_decay=0.5)
        np.testing.assert_allclose(params["head"]["kernel"], 1 - 0.1 * 0.5, rtol=1e-6, err_msg=name)


def test_sgd_momentum_with_coupled_decay_and_nesterov():
    params, _, _ = update(updates=2, name="sgd", momentum=0.9, nesterov=True, weight_decay=0.01)
    p, buffer = np.ones((4, 3)), np.zeros((4, 3))
    for _ in range(2):
        g = np.asarray(GRADIENTS["head"]["kernel"]) + 0.01 * p
        buffer = 0.9 * buffer + g
        p = p - 0.1 * (g + 0.9 * buffer)
    np.testing.assert_allclose(params["head"]["kernel"], p, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion"])
def test_moments_decay_with_their_own_rates(name):
    """Three gradients that differ: with equal ones, the bias-corrected moments would not depend on the rates."""
    b1, b2, eps, decay, rate = 0.6, 0.9, 1e-3, 0.01, 0.1
    config = default_config().optimizer
    config.schedule.update({"name": "constant", "peak": rate})
    config.update({"name": name, "b1": b1, "b2": b2, "eps": eps, "weight_decay": decay})
    params = {"head": {"kernel": jnp.ones((4, 3))}}
    tx, _ = make_optimizer(config, params, total_steps=100, steps_per_epoch=10, hidden_dim=64)
    state, p, m, v = tx.init(params), np.ones((4, 3)), np.zeros((4, 3)), np.zeros((4, 3))
    for step, scale in enumerate((1.0, -2.0, 0.5), start=1):
        g = scale * np.asarray(GRADIENTS["head"]["kernel"])
        delta, state = tx.update({"head": {"kernel": jnp.asarray(g)}}, state, params)
        params = optax.apply_updates(params, delta)
        if name == "lion":
            p, m = p - rate * (np.sign(b1 * m + (1 - b1) * g) + decay * p), b2 * m + (1 - b2) * g
            continue
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        d = m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + eps) + decay * p
        p = p - rate * d * (np.linalg.norm(p) / np.linalg.norm(d) if name == "lamb" else 1)
    np.testing.assert_allclose(params["head"]["kernel"], p, rtol=1e-5, atol=1e-6)


def test_muon_orthogonalizes_the_matrices_of_blocks_and_leaves_the_rest_to_adam():
    """Heads are part of one matrix; the scale is that of arXiv:2502.16982, 0.2 of the root of the longer side."""
    attention = {name: {"kernel": (6, 2, 3)} for name in ("query", "key", "value")} | {"out": {"kernel": (2, 3, 6)}}
    shapes = {**SHAPES, "encoder": {"block_0": {"attention": attention, "mlp": {"in": {"kernel": (6, 24)}}}}}
    params = jax.tree.map(jnp.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))
    gradients = jax.tree.map(lambda p: jnp.asarray(NUMBERS.normal(size=p.shape), jnp.float32), params)
    _, delta, _ = update(params, gradients, name="muon")
    block, gradient = delta["encoder"]["block_0"], gradients["encoder"]["block_0"]
    for steps, size, shape in (
        (block["attention"]["query"], 6, (6, 6)),
        (block["attention"]["out"], 6, (6, 6)),
        (block["mlp"]["in"], 24, (6, 24)),
    ):
        singular = np.linalg.svd(np.reshape(steps["kernel"], shape), compute_uv=False)
        np.testing.assert_allclose(singular / (0.1 * 0.2 * size**0.5), 1, atol=0.35)  # Newton-Schulz is that rough
    assert jnp.vdot(block["mlp"]["in"]["kernel"], gradient["mlp"]["in"]["kernel"]) < 0
    adam = optax.nadam(0.1)
    expected, _ = adam.update(gradients, adam.init(params), params)
    for path in ("patch_embed", "norm", "head"):
        chex.assert_trees_all_close(delta[path], expected[path], rtol=1e-5)


def test_an_optimizer_by_import_path_has_its_own_parameters_and_our_mask_clipping_and_freezing():
    options = {
        "name": "optax:adan",
        "extra": {"b1": 0.9, "weight_decay": 0.5},
        "clip_norm": 0.5,
        "trainable": "head/.*",
    }
    params, _, _ = update(**options)
    head, gradients = PARAMS["head"], GRADIENTS["head"]
    clipped = jax.tree.map(lambda g: g * 0.5 / optax.tree.norm(gradients), gradients)
    adan = optax.adan(0.1, b1=0.9, weight_decay=0.5, mask={"kernel": True, "bias": False})
    delta, _ = adan.update(clipped, adan.init(head), head)
    chex.assert_trees_all_close(params["head"], optax.apply_updates(head, delta), rtol=1e-6)
    chex.assert_trees_all_equal({**params, "head": None}, {**PARAMS, "head": None})


def test_clipping_is_by_the_global_norm():
    _, delta, _ = update(name="sgd", momentum=0.0, clip_norm=0.5)
    np.testing.assert_allclose(optax.tree.norm(delta), 0.1 * 0.5, rtol=1e-5)


def test_layer_decay_scales_by_depth():
    _, plain, _ = update(name="sgd", momentum=0.0)
    _, decayed, _ = update(name="sgd", momentum=0.0, layer_decay=0.5)
    ratio = jax.tree.map(lambda a, b: float(jnp.median(b / a)), plain, decayed)
    assert ratio["head"]["kernel"] == ratio["norm"]["scale"] == 1.0
    assert ratio["encoder"]["block_1"]["mlp"]["in"]["kernel"] == pytest.approx(0.5)
    assert ratio["encoder"]["block_0"]["mlp"]["in"]["bias"] == pytest.approx(0.25)
    assert ratio["pos_embed"] == ratio["patch_embed"]["kernel"] == pytest.approx(0.125)


def test_freezing_leaves_the_rest_untouched_without_state_and_out_of_the_norm():
    params, delta, state = update(name="adamw", trainable=r"head/.*", weight_decay=0.1, layer_decay=0.5)
    assert not np.allclose(params["head"]["kernel"], 1)
    frozen = {name: value for name, value in params.items() if name != "head"}
    assert all(bool((leaf == 1).all()) for leaf in jax.tree.leaves(frozen))
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 0]
    assert sum(leaf.size for leaf in moments) == 2 * sum(leaf.size for leaf in jax.tree.leaves(params["head"]))
    _, delta, _ = update(name="sgd", momentum=0.0, clip_norm=0.5, trainable=r"head/.*")
    np.testing.assert_allclose(optax.tree.norm(delta), 0.1 * 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra": {"b3": 0.9}}, "config.optimizer.extra.b3: .* config.optimizer.name is 'adamw'"),
        ({"name": "optax:adamm"}, "config.optimizer.name='optax:adamm': module 'optax' has no 'adamm'; did you mean"),
        ({"name": "optax:adan", "extra": {"b4": 1}}, "config.optimizer.extra.b4: optax:adan has no parameter 'b4'"),
        (
            {"name": "optax:adan", "b1": 0.8},
            "config.optimizer.b1 has no effect on optax:adan.* config.optimizer.extra.b1",
        ),
        ({"name": "optax:adan", "extra": {"mask": 1}}, "config.optimizer.extra.mask: .* given 'mask' by vit_jax"),
        ({"name": "adam"}, "unknown config.optimizer.name 'adam'; did you mean 'adamw'"),
        ({"trainable": "heads"}, r"optimizer.trainable='heads' matches no parameter"),
        ({"trainable": "("}, r"config.optimizer.trainable must be a regular expression, got '\('"),
        ({"weight_decay": 0.1, "weight_decay_mask": "kernel"}, "weight_decay_mask='kernel' matches no parameter"),
    ],
)
def test_a_wrong_optimizer_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        update(**settings)
