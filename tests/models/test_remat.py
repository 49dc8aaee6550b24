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
    layers, of_block = (
        2,
        3,
    )  # query, key and value as one, out, and the first of the MLP; nothing needs its second again
    assert counts["none"]["attention"] == 2 * layers  # a loop forward and one backward
    for remat in ("attention", "dots_attention"):
        assert counts[remat]["attention"] == 2 * layers
    for remat in ("full", "dots"):
        assert counts[remat]["attention"] == 3 * layers
    none = counts["none"]["product"]
    assert counts["dots_attention"]["product"] == counts["dots"]["product"] == none
    assert counts["full"]["product"] == none + of_block * layers
    assert counts["attention"]["product"] == none + of_block * layers
