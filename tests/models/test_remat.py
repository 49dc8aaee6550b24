"""What remat keeps: the same gradients, and what the backward pass computes again."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import build_model
from vit_jax.models.blocks import REMAT


def tiny(remat, **fields):
    sizes = {"image_size": (8, 8), "patch_size": (2, 2), "hidden_dim": 8, "mlp_dim": 16, "num_heads": 2}
    return build_model(
        "vit:Ti/16", num_layers=2, num_classes=3, attention_kernel="chunked", remat=remat, **sizes, **fields
    )


@pytest.fixture(scope="module")
def params(randomised):
    model = tiny("none")
    return randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), images(), train=False))["params"])


def images():
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)


def gradient(model):
    return jax.grad(lambda params: (model.apply({"params": params}, images(), train=True) ** 2).sum())


@pytest.fixture(scope="module")
def expected(params):
    return jax.jit(gradient(tiny("none")))(params)


@pytest.mark.parametrize(
    ("remat", "fields"),
    [*((name, {}) for name in REMAT if name != "none"), ("dots_attention", {"scan_layers": True})],
    ids=str,
)
def test_gradients_do_not_depend_on_remat(remat, fields, params, expected):
    ours = jax.jit(gradient(tiny(remat, **fields)))(params)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def computed(model, params):
    """Counts the products of kernels and the loops of attention in the gradient of a model, by kind."""
    found = Counter()

    def count(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "scan":
                found["attention"] += 1
            elif eqn.primitive.name == "dot_general":
                found["product"] += 1
            else:
                for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        count(inner)

    count(jax.make_jaxpr(gradient(model))(params).jaxpr)
    return found


def test_each_policy_keeps_what_it_says(params):
    counts = {remat: computed(tiny(remat), params) for remat in REMAT}
    layers = 2
    of_block = 3  # query, key and value as one, out, and the first of the MLP; nothing needs its second again
    assert counts["none"]["attention"] == 2 * layers  # a loop forward and one backward
    for remat in ("attention", "dots_attention"):
        assert counts[remat]["attention"] == 2 * layers
    assert counts["branches"]["attention"] == 4 * layers
    for remat in ("full", "dots"):
        assert counts[remat]["attention"] == 3 * layers
    none = counts["none"]["product"]
    assert counts["dots_attention"]["product"] == counts["dots"]["product"] == none
    assert counts["full"]["product"] == none + of_block * layers
    assert counts["attention"]["product"] == none + of_block * layers
    of_branches = 2  # query, key and value, and the first of the MLP; no branch needs its own output
    in_block = 2  # all up to the input of the last branch
    assert counts["branches"]["product"] == none + (in_block + of_branches) * layers


SMALL: dict[str, dict] = {
    "vit:Ti/16": {"image_size": (4, 4), "patch_size": (2, 2), "num_layers": 2, "drop_path_rate": 0.5},
    "tnt:Ti/16": {"image_size": (8, 8), "patch_size": (4, 4), "inner_hidden_dim": 4, "inner_mlp_dim": 8},
    "timesformer:B/16": {"image_size": (4, 4), "patch_size": (2, 2), "num_frames": 3},
    "transformer:base": {"vocab_size": 11, "qk_head_dim": 4, "v_head_dim": 4},
}


def small(name, **fields):
    sizes = {"num_layers": 1, "hidden_dim": 8, "mlp_dim": 16, "num_heads": 2, "dropout_rate": 0.3, **SMALL[name]}
    model = build_model(name, **sizes, **fields)
    if name.startswith("transformer"):
        tokens = jnp.arange(1, 11).reshape(2, 5)
        return model, (tokens, tokens[:, ::-1])
    return model, (jnp.sin(jnp.arange(2 * np.prod(model.input_shape))).reshape(2, *model.input_shape),)


@pytest.mark.parametrize(
    ("name", "scan_layers"),
    [
        ("vit:Ti/16", False),
        ("vit:Ti/16", True),
        ("timesformer:B/16", False),
        ("transformer:base", False),
        pytest.param("tnt:Ti/16", False, marks=pytest.mark.slow),  # the blocks of ViT, twice
    ],
)
def test_recomputed_branches_drop_the_same_values(name, scan_layers, randomised):
    def gradients(remat):
        model, inputs = small(name, remat=remat, scan_layers=scan_layers)

        def loss(params):
            output = model.apply(
                {"params": params}, *inputs, train=True, rngs={"dropout": jax.random.key(1, impl="rbg")}
            )
            return (output**2).mean()

        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))["params"]
        return jax.jit(jax.value_and_grad(loss))(randomised(shapes))

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), gradients("branches"), gradients("none")
    )


def test_recomputed_branches_take_less_memory_than_recomputed_blocks():
    def temporary(remat):
        model = build_model(
            "timesformer:B/16", num_layers=2, hidden_dim=32, mlp_dim=128, num_heads=2, image_size=(32, 32),
            patch_size=(4, 4), num_frames=16, scan_layers=True, remat=remat,
        )  # fmt: skip
        video = jax.ShapeDtypeStruct((2, *model.input_shape), jnp.float32)
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(video.shape), train=False))["params"]
        step = jax.jit(jax.grad(lambda params, x: (model.apply({"params": params}, x, train=False) ** 2).sum()))
        options = {"xla_disable_hlo_passes": "cse_barrier_expander"}  # see vit_jax/devices/recompute.py
        return step.lower(params, video).compile(compiler_options=options).memory_analysis().temp_size_in_bytes

    assert temporary("branches") < 0.75 * temporary("full")
