"""Scanned blocks: memory and gradients beside unrolled ones."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import build_model

FIELDS = {"num_classes": 5, "image_size": (32, 32), "num_layers": 4, "hidden_dim": 32, "mlp_dim": 128, "num_heads": 4}


def compiled_gradient(scan_layers):
    model = build_model("vit:S/8", **FIELDS, scan_layers=scan_layers)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((8, *model.input_shape)), jnp.float32)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False)["params"])

    def loss(params, images):
        return model.apply({"params": params}, images, train=True).var()

    return jax.jit(jax.grad(loss)).lower(params, images).compile(), params, images


def test_scanning_takes_no_more_memory_and_has_the_same_gradients(randomised):
    unrolled, shapes, images = compiled_gradient(False)
    scanned, *_ = compiled_gradient(True)
    temporary = [compiled.memory_analysis().temp_size_in_bytes for compiled in (scanned, unrolled)]
    assert temporary[0] <= temporary[1]
    params = randomised(shapes)
    for x, y in zip(*(jax.tree.leaves(run(params, images)) for run in (scanned, unrolled)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())


def test_a_barrier_separates_the_slices_of_stacked_gradients_from_their_use():
    """Without it, XLA fuses them into the update of each parameter, and compiles longer for a GPU."""

    def barriers(scan_layers):
        model = build_model("vit:S/8", **FIELDS, scan_layers=scan_layers)
        images = jnp.zeros((1, *model.input_shape))
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False)["params"])
        loss = jax.grad(lambda params: model.apply({"params": params}, images, train=True).var())
        return str(jax.make_jaxpr(loss)(params)).count("optimization_barrier")

    assert (barriers(True), barriers(False)) == (2, 0)
