"""Runs the tests on the CPU, and checks the shapes in the signatures of the models against the arrays passed."""

import os
import pathlib

import jaxtyping
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when JAX is imported, which only some tests do
jaxtyping.install_import_hook("vit_jax.models", "beartype.beartype")

LONG = (
    "test_devices.py", "test_resume.py", "test_mixing_devices.py", "test_bad_input.py", "test_commands.py",
    "test_mylab.py", "test_transformer_config.py", "test_video_commands.py", "test_run.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)  # so that no worker is left alone with minutes of work


@pytest.fixture(scope="session")
def randomised():
    """Fills a tree of arrays, or of `jax.ShapeDtypeStruct`, with fixed normal values: no zero hides an error."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def fill(tree, scale=0.3, seed=0):
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype), tree)

    return fill


@pytest.fixture(scope="session")
def primitives_of():
    """Returns the names of a function's primitives; `recomputed`, those inside what the backward pass recomputes."""
    import jax

    def names(function, *arguments, recomputed=False):
        equations = jax.make_jaxpr(function)(*arguments).eqns
        if recomputed:  # remat2 is the name of jax.checkpoint
            equations = [
                inner for eqn in equations if eqn.primitive.name == "remat2" for inner in eqn.params["jaxpr"].eqns
            ]
        return {eqn.primitive.name for eqn in equations}

    return names


@pytest.fixture(scope="module")
def own_home(tmp_path_factory):
    """Commands run in this process, from the checkout, that touch nothing of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        patch.delenv("TFDS_DATA_DIR", raising=False)
        patch.chdir(pathlib.Path(__file__).parent.parent)
        yield
