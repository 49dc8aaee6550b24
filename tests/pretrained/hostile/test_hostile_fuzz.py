"""Fuzzing: seeded mutations of weight files of every format, and of the tensors and configs behind the readers.

Reading a mutant ends in tensors or in one line, and takes memory in proportion to the file. Time is bounded without a
clock: the steps of pickles are counted, and every other parser is linear in what it reads.
"""

import json
import re
import tracemalloc
from unittest import mock

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from tests.pretrained.hostile import mutations
from vit_jax import build_model
from vit_jax.errors import UserError
from vit_jax.pretrained import names, stored
from vit_jax.pretrained.files import readers, torch_pickle
from vit_jax.pretrained.files.limits import PICKLE_STEPS
from vit_jax.pretrained.formats import formats
from vit_jax.weights import from_pretrained

GOOD = mutations.seeds()
DRAWS = 2500  # mutants of each file; each is read twice, with and without its values
MEASURED = 8  # the memory of every eighth is measured, which is slow
MEMORY = 8 * 2**20  # beyond ten times the file's size; no mutant of these files comes close to the 256 MiB of limits.py

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", GOOD)
def test_files(name, tmp_path, monkeypatch, capsys):
    steps = []
    take = torch_pickle._Steps.take
    monkeypatch.setattr(torch_pickle._Steps, "take", lambda self, n: (steps.append(n), take(self, n)))
    path = tmp_path / name
    if name == "config.json":
        (tmp_path / "model.safetensors").write_bytes(GOOD["x.safetensors"])
        path = tmp_path
    outcomes, worst = {"read": 0, "refused": 0}, 0
    for seed in range(DRAWS):
        data = mutations.mutant(name, GOOD[name], GOOD, np.random.default_rng([1, seed]))
        (tmp_path / name).write_bytes(data)
        for shapes_only in (False, True):
            steps.clear()
            if seed % MEASURED == 0:
                tracemalloc.start()
            message = mutations.read_outcome(path, shapes_only=shapes_only)
            if seed % MEASURED == 0:
                worst = max(worst, tracemalloc.get_traced_memory()[1] - 10 * len(data))
                tracemalloc.stop()
            assert sum(steps) <= min(PICKLE_STEPS, len(data) * 4)
            outcomes["read" if message is None else "refused"] += 1
    assert worst < MEMORY
    with capsys.disabled():
        print(f"\n{name}: {outcomes['read']} read, {outcomes['refused']} refused, at most {worst >> 10} KiB beyond 10x")
    assert outcomes["refused"]


def test_configs(tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(GOOD["x.safetensors"])
    outcomes = {"loaded": 0, "refused": 0}
    for seed in range(600):
        rng = np.random.default_rng([2, seed])
        config = mutations.CONFIG
        for _ in range(rng.integers(1, 4)):
            config = mutations._of_tree(config, rng)
        (tmp_path / "config.json").write_text(json.dumps(config))
        outcomes[_outcome(lambda: from_pretrained(tmp_path), tmp_path)] += 1
    with capsys.disabled():
        print(f"\nconfigs: {outcomes}")


def _outcome(load, path):
    message = ""
    try:
        load()
    except UserError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    assert message.isprintable()
    assert message.startswith(str(path) if message else "")
    return "refused" if message else "loaded"


FIELDS = {
    "image_size": (8, 8),
    "patch_size": (4, 4),
    "num_layers": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
    "num_heads": 2,
    "num_classes": 5,
}
EXTRA = {
    "tnt": {"inner_hidden_dim": 4, "inner_num_heads": 2, "inner_mlp_dim": 16, "num_words": 4, "qkv_bias": False},
    "timesformer": {"num_frames": 2},
}
DTYPES = (np.int8, bool, np.complex64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.uint64, np.float64)
SIZES = (0, 1, 2, 3, 64, 2**20, 2**40)


@pytest.mark.parametrize("format", formats(), ids=lambda format: f"{format.name}-{format.base.partition(':')[0]}")
def test_tensors(format, capsys):
    headless = {"num_classes": None} if format.name == "dinov2" else {}
    model = build_model(format.base, **FIELDS | headless, **EXTRA.get(format.base.partition(":")[0], {}))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), unflatten_dict(names.shapes_of(model), sep="/"))
    good = names.to_tensors(format, model, params)
    config = json.loads(json.dumps(format.config(model), default=float)) if format.config else {}
    known = stored.Known(stored_image_size=(8, 8), like=(model,))
    outcomes, shapes = {"loaded": 0, "refused": 0}, {}

    def shapes_of(model):  # most mutants have the same model
        if repr(model) not in shapes:
            shapes[repr(model)] = names.shapes_of(model)
        return shapes[repr(model)]

    tracemalloc.start()
    with mock.patch.object(stored, "shapes_of", shapes_of):
        for seed in range(40):
            mutant = _of_tensors(good, np.random.default_rng([3, seed]))
            with mock.patch.object(stored, "read", return_value=readers.File(mutant, config)):
                for load in (stored.open_stored, stored.read_header):
                    outcomes[_outcome(lambda: load("weights", known), "weights")] += 1  # noqa: B023
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**28
    with capsys.disabled():
        print(f"\n{format.name} ({format.base}): {outcomes}, {peak >> 20} MiB")


def _of_tensors(tensors, rng):
    """Removes, renames, renumbers, exchanges or casts one to three tensors, or changes their shapes."""
    tensors = dict(tensors)
    for name in rng.choice(list(tensors), rng.integers(1, 4), replace=False):
        name, value = str(name), tensors[str(name)]
        match rng.integers(8):
            case 0:
                del tensors[name]
            case 1:
                tensors[name] = value[..., None]
            case 2:
                tensors[name] = value.reshape(-1)
            case 3:
                tensors[name] = value.astype(DTYPES[rng.integers(len(DTYPES))])
            case 4 if value.ndim:
                shape = list(value.shape)
                shape[rng.integers(value.ndim)] = SIZES[rng.integers(len(SIZES))]
                tensors[name] = np.broadcast_to(np.zeros((), value.dtype), shape)
            case 5:
                number = str((0, 1, 7, 999_999_999, 10**30)[rng.integers(5)])
                tensors[re.sub(r"\d+", number, name)] = value
            case 6:
                tensors[name + ("x", ".weight", "/kernel")[rng.integers(3)]] = tensors.pop(name)
            case _:
                tensors[name] = tensors[str(rng.choice(list(tensors)))]
    return tensors
