"""Tiny models with random parameters."""

import pytest

TINY = {"image_size": (8, 12), "num_layers": 2, "hidden_dim": 8, "mlp_dim": 12, "num_heads": 2, "num_classes": 5}


@pytest.fixture(scope="session")
def tiny(randomised):
    """Makes a ViT for 8x12 pixels in patches of 4, and its parameters."""
    import jax
    import numpy as np
    from flax.traverse_util import unflatten_dict

    from vit_jax import build_model
    from vit_jax.pretrained.names import shapes_of

    def make(name="vit:Ti/4", **fields):
        model = build_model(name, **{**TINY, **fields})
        params = randomised(unflatten_dict(shapes_of(model), sep="/"))
        return model, jax.tree.map(np.asarray, params)

    return make
