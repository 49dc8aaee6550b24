"""What is called damaged, what is not, and what becomes of it."""

import json
import pathlib
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import struct

from vit_jax.errors import UserError
from vit_jax.workdir import checksum, diagnosis
from vit_jax.workdir.checkpoint import Checkpoints, load_checkpoint, load_meta


@struct.dataclass
class State:
    params: dict
    rng: jax.Array
    ema: dict | None = None


def state_of(step, width=300):
    """Returns weights large enough that Orbax stores them in a file of their own."""
    weights = np.random.default_rng(step).normal(size=(width, 40)).astype(np.float32)
    return State({"w": jnp.asarray(weights), "b": jnp.float32([step])}, jnp.uint32([0, step]))


ABSTRACT = jax.eval_shape(lambda: State({"w": jnp.zeros((300, 40)), "b": jnp.zeros(1)}, jnp.zeros(2, jnp.uint32)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("written") / "run"
    save(workdir, 1, 2)
    return workdir


@pytest.fixture
def workdir(tmp_path, written):
    """A workdir with intact checkpoints of steps 1 and 2."""
    return pathlib.Path(shutil.copytree(written, tmp_path / "run"))


def save(workdir, *steps, **options):
    checkpoints = Checkpoints(workdir, **{"keep_last": 9, **options})
    for step in steps:
        checkpoints.save(step, state_of(step), {"labels": ["cat", "dog"], "window": {"loss": [0.1 * step, 3]}}, None)
    checkpoints.wait()
    checkpoints.close()


def restore(workdir, abstract=ABSTRACT):
    checkpoints = Checkpoints(workdir, keep_last=9)
    try:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
        return checkpoints.restore_latest(placed)
    finally:
        checkpoints.close()


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_flipped_bit_is_noticed_or_changes_nothing(workdir):
    """Orbax's own files have checksums only for their index: without ours, the weights would be other ones."""
    rng, noticed = random.Random(0), set()
    newest = workdir / "checkpoints" / "2"
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for _ in range(2):
            flip(path, rng.randrange(8 * len(whole)))
            params, meta = load_checkpoint(workdir)
            np.testing.assert_array_equal(params["w"], state_of(meta["step"]).params["w"])
            assert (meta["labels"], meta["window"]) == (["cat", "dog"], {"loss": [0.1 * meta["step"], 3]})
            if meta["step"] == 1:
                noticed.add(path.parent.name if path.parent.name != "2" else path.name)
            path.write_bytes(whole)
    assert {"meta", "d", "state"} <= noticed


@pytest.mark.parametrize("part", ["meta", "d"])
def test_a_flipped_bit_sends_a_resumed_run_to_the_checkpoint_before(workdir, caplog, part):
    paths = (path for path in (workdir / "checkpoints" / "2").rglob("*") if path.is_file() and path.parent.name == part)
    path = max(paths, key=lambda path: path.stat().st_size)
    if part == "meta":
        path.write_text(path.read_text().replace("cat", "bat"))
    else:
        flip(path, 4 * path.stat().st_size)
    state, meta = restore(workdir)
    np.testing.assert_array_equal(state.params["w"], state_of(1).params["w"])
    assert meta["window"] == {"loss": [0.1, 3]}
    assert "checkpoints/2 is damaged (the checksum of its" in caplog.text
    assert "It is renamed to damaged_2. Resuming from step 1." in caplog.text
    assert names(workdir) == ["1", "damaged_2"]


def test_a_checkpoint_without_checksums_is_read(workdir):
    path = workdir / "checkpoints" / "2" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["checksum"]
    path.write_text(json.dumps(meta))
    assert load_checkpoint(workdir)[1]["step"] == 2
    assert restore(workdir)[1] == meta


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"checksum": 3}', '{"checksum": {"meta": 3}}', "\0" * 9])
def test_a_json_part_that_is_something_else_is_damaged(workdir, text):
    (workdir / "checkpoints" / "2" / "meta" / "metadata").write_text(text)
    assert load_meta(workdir)["window"] == {"loss": [0.1, 3]}
    assert load_checkpoint(workdir)[1]["step"] == 1
    assert restore(workdir)[1]["window"] == {"loss": [0.1, 3]}


def other(**fields):
    return ABSTRACT.replace(**fields)


@pytest.mark.parametrize(
    ("abstract", "words"),
    [
        (other(params={**ABSTRACT.params, "w": jnp.zeros((9, 40))}), "params/w: float32[300, 40] -> float32[9, 40]"),
        (other(params={**ABSTRACT.params, "b": jnp.zeros(1, jnp.bfloat16)}), "params/b: float32[1] -> bfloat16[1]"),
        (other(params={**ABSTRACT.params, "c": jnp.zeros(2)}), "params/c: none -> float32[2]"),
        (other(params={"w": ABSTRACT.params["w"]}), "params/b: float32[1] -> none"),
        (other(ema=ABSTRACT.params), "ema/b: none -> float32[1]; ema/w: none -> float32[300, 40]"),
        (other(rng=jnp.zeros(4, jnp.uint32)), "another PRNG implementation: its key is uint32[2], but uint32[4]"),
    ],
    ids=["shape", "dtype", "missing", "extra", "ema", "prng"],
)  # fmt: skip
def test_another_state_is_not_damage(workdir, caplog, abstract, words):
    with pytest.raises(UserError) as caught:
        restore(workdir, abstract)
    assert str(workdir / "checkpoints" / "2") in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "is damaged" not in str(caught.value) + caplog.text
    assert names(workdir) == ["1", "2"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(24, "Too many open files"), "Too many open files"),
        (OSError(116, "Stale file handle"), "Stale file handle"),
        (MemoryError(), "out of memory"),
        (ValueError('PERMISSION_DENIED: Error opening "zarr" driver\nand more'), "PERMISSION_DENIED: Error opening"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "Out of memory allocating"),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", [restore, load_checkpoint])
def test_what_is_not_the_fault_of_the_files_is_not_damage(workdir, caplog, monkeypatch, function, error, words):
    def fail(*_, **__):
        raise error

    for handler in (ocp.StandardCheckpointHandler, ocp.PyTreeCheckpointHandler):
        monkeypatch.setattr(handler, "metadata", fail)
    with pytest.raises(UserError, match="checkpoints/2 cannot be read: ") as caught:
        function(workdir)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "is damaged" not in caplog.text
    assert names(workdir) == ["1", "2"]


def test_where_none_is_intact_nothing_is_renamed_nor_said_to_be(workdir, caplog):
    for step in (1, 2):
        (workdir / "checkpoints" / f"{step}" / "meta" / "metadata").write_text("")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: \[2, 1\] .*left as they are"):
        restore(workdir)
    assert "renamed" not in caplog.text
    assert names(workdir) == ["1", "2"]


def test_what_was_set_aside_is_never_deleted_nor_counted(workdir):
    for copy in ("damaged_2", "damaged_2_2"):
        (workdir / "checkpoints" / copy).mkdir()
        (workdir / "checkpoints" / copy / "kept").write_text(copy)
    (workdir / "checkpoints" / "2" / "meta" / "metadata").write_text("")
    restore(workdir)
    assert names(workdir) == ["1", "damaged_2", "damaged_2_2", "damaged_2_3"]
    save(workdir, 2, 3, 4, keep_last=2, keep_best=0)
    assert names(workdir) == ["3", "4", "damaged_2", "damaged_2_2", "damaged_2_3"]
    assert (workdir / "checkpoints" / "damaged_2" / "kept").read_text() == "damaged_2"
    assert load_checkpoint(workdir)[1]["step"] == 4


def test_the_description_of_a_state_is_that_of_its_checkpoint():
    state = {"a": (jnp.zeros(2, jnp.bfloat16), {"b": jnp.int32(0)}), "none": None}
    assert diagnosis.describe(state) == {"a/0": "bfloat16[2]", "a/1/b": "int32[]"}


def test_every_bit_of_an_array_counts():
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    whole = checksum.of_arrays({"kernel": jnp.asarray(values)})
    for bit in range(32):
        for place in ((0, 0), (1, 3), (2, 4)):
            changed = values.copy()
            changed.view(np.uint32)[place] ^= np.uint32(1) << np.uint32(bit)
            assert checksum.of_arrays({"kernel": jnp.asarray(changed)}) != whole, (bit, place)
