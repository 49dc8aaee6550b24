"""Features of a split in a file: written as they are computed, so that their number is not limited by memory.

A file holds `features`, `(examples, hidden_dim)` in float32; `id`, the position of each example in its split; `label`,
if the data has labels; and the names of the `classes`. `.npz` is read by `numpy.load`, and `.parquet`, which needs
`pyarrow` (extra `parquet`), by pandas, Polars and DuckDB: there, `features` is a list in each row, and the names of the
classes are in the metadata of the schema.
"""

import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Array, Float, PyTree

from vit_jax.analysis.embedding.features import features
from vit_jax.errors import UserError
from vit_jax.evaluate import Rows
from vit_jax.tasks.classification import inputs_of

SUFFIXES = (".npz", ".parquet")
KINDS = ("pooled", "class", "mean")


def vectors(
    model: Any,
    params: PyTree,
    inputs: Float[Array, "batch *frames height width channels"],
    layer: int | str = "final",
    kind: str = "pooled",
) -> Float[Array, "batch hidden_dim"]:
    """Returns one vector for each example.

    Args:
      layer: See `features`.
      kind: `pooled`, the input of the head; `class`, the class token; or `mean`, the mean of all patches.

    Raises:
      UserError: The model has no such layer or kind.
    """
    try:
        found = features(model, params, inputs, layer=layer, kind="patch" if kind == "mean" else kind)
    except ValueError as error:
        raise UserError(str(error)) from error
    return found.reshape(len(found), -1, found.shape[-1]).mean(axis=1) if kind == "mean" else found


def stream(
    run: Any, source: Any, *, layer: int | str = "final", kind: str = "pooled", track: Any = None
) -> Iterator[Rows]:
    """Yields `features`, `id` and `label` of the examples of a source, batch by batch.

    Args:
      run: A `Run` on images or clips.
      source: See `Run.open_split`.
      track: See `Run.evaluate`.

    Raises:
      UserError: The run is on text, or see `vectors`.
    """
    if not hasattr(run.model, "split_tokens"):
        raise UserError(f"embeddings are those of images and clips; this run is on {run.modality.inputs}")

    def of_batch(model, params, batch):
        return {"features": vectors(model, params, inputs_of(batch), layer, kind).astype(np.float32)}

    one = run.one_view()
    batches, _ = one.batches(source)
    yield from one.evaluator.rows(one.placed, track(batches, len(batches)) if track else batches, of_batch)


def check_path(path: Any, option: str = "") -> epath.Path:
    """Returns the path of a file of features.

    Raises:
      UserError: Its suffix is not in `SUFFIXES`, its folder does not exist, or `pyarrow` is missing.
    """
    path, name = epath.Path(path), f"{option}={path}" if option else str(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{name}: the name of a file of features must end in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"{name}: there is no folder {path.parent}")
    if path.suffix == ".parquet":
        _pyarrow(name)
    return path


def write(path: Any, rows: Iterable[Rows], classes: tuple[str, ...] = ()) -> int:
    """Writes batches of rows to a file; returns the number of examples.

    Raises:
      UserError: See `check_path`; or there are no examples.
    """
    path = check_path(path)
    return (_write_parquet if path.suffix == ".parquet" else _write_npz)(path, rows, classes)


def read(path: Any) -> dict[str, Any]:
    """Returns `features`, `id`, `label` (if there is one) and `classes` of a file, sorted by `id`.

    Raises:
      UserError: The file does not exist or holds no features.
    """
    path = check_path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        found = (_read_parquet if path.suffix == ".parquet" else _read_npz)(path)
        order = np.argsort(found["id"], kind="stable")
        return {name: values if name == "classes" else values[order] for name, values in found.items()}
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a file of features as `analyze embed` writes them ({error})") from error


def _write_npz(path: epath.Path, rows: Iterable[Rows], classes: tuple[str, ...]) -> int:
    """Writes features to a temporary file first, because the header of an array states its length."""
    small: dict[str, list[np.ndarray]] = {"id": [], "label": []}
    width, count = 0, 0
    with tempfile.TemporaryFile() as values:
        for batch in rows:
            width, count = batch["features"].shape[1], count + len(batch["features"])
            values.write(np.ascontiguousarray(batch["features"], np.float32).data)
            for name, arrays in small.items():
                arrays.extend([np.asarray(batch[name])] if name in batch else [])
        _check_count(path, count)
        values.seek(0)
        with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("features.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
                np.lib.format.write_array_header_1_0(member, header)
                while block := values.read(2**20):
                    member.write(block)
            arrays = {name: np.concatenate(each) for name, each in small.items() if each}
            for name, array in {**arrays, "classes": np.asarray(classes, dtype=str)}.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    return count


def _read_npz(path: epath.Path) -> dict[str, Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    return {**found, "features": found["features"], "classes": tuple(found["classes"].tolist())}


def _write_parquet(path: epath.Path, rows: Iterable[Rows], classes: tuple[str, ...]) -> int:
    arrow, parquet = _pyarrow(str(path))
    writer: Any = None
    count = 0
    with path.open("wb") as file:
        for batch in rows:
            columns = {name: arrow.array(batch[name]) for name in ("id", "label") if name in batch}
            flat = arrow.array(np.ascontiguousarray(batch["features"], np.float32).ravel())
            columns["features"] = arrow.FixedSizeListArray.from_arrays(flat, batch["features"].shape[1])
            table = arrow.table(columns).replace_schema_metadata({"classes": json.dumps(classes)})
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
            count += len(batch["features"])
        _check_count(path, count)
        writer.close()
    return count


def _read_parquet(path: epath.Path) -> dict[str, Any]:
    _, parquet = _pyarrow(str(path))
    with path.open("rb") as file:
        table = parquet.read_table(file)
    values = table["features"].combine_chunks()
    found = {name: table[name].to_numpy() for name in ("id", "label") if name in table.column_names}
    features_ = values.flatten().to_numpy().reshape(len(table), -1)
    classes = json.loads((table.schema.metadata or {}).get(b"classes", b"[]"))
    return {**found, "features": features_, "classes": tuple(classes)}


def _check_count(path: epath.Path, count: int) -> None:
    if not count:
        raise UserError(f"{path}: there are no examples to write")


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{name}: Parquet needs the package pyarrow: pip install 'vit_jax[parquet]'; or use .npz"
        ) from None
    return pyarrow, pyarrow.parquet
