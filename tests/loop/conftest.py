"""Programs that are compiled once for all tests of the loop, and a folder of images to train on."""

import harness
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

CACHE = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 0}


@pytest.fixture(scope="package", autouse=True)
def compiled_once(tmp_path_factory):
    before = {name: getattr(jax.config, name) for name in CACHE}
    for name, value in {**CACHE, "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled"))}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return harness.write_images(tmp_path_factory.mktemp("images"))
