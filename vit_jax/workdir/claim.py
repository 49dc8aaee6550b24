"""Claiming a workdir: checks that it is new, or holds a run of the same config on the same data."""

import json
from typing import Any

import jax
from etils import epath

from vit_jax import config as schema
from vit_jax.config import Config
from vit_jax.errors import RunError, UserError
from vit_jax.workdir import files
from vit_jax.workdir.diagnosis import prng_impl


def check_same_run(workdir: epath.PathLike, saved: dict[str, Any], described: dict[str, Any]) -> None:
    """Checks that a checkpoint was saved with this config, these labels and this encoder.

    The config is compared with that in the checkpoint, not with `config.json`, which may be missing or edited.

    Args:
      saved: The meta of the checkpoint.
      described: The meta that the run would save now.

    Raises:
      UserError: They differ; the message lists the differences.
    """
    for what in ("config", "labels", "preprocessing"):
        if what not in saved:
            raise UserError(
                f"{workdir} holds a checkpoint of another version of vit_jax: it lacks {what!r}. Use another --workdir."
            )
    if changed := schema.differences(saved["config"], described["config"]):
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}). Undo the change or use another --workdir."
        )
    for what in ("labels", "preprocessing"):
        if saved[what] != json.loads(json.dumps(described[what])):
            raise UserError(
                f"the data have changed since {workdir} was trained: their {what} differ from those in its checkpoint. "
                "Restore the old data, or use another --workdir."
            )
    now = prng_impl()
    if (was := saved.get("prng", now)) != now:
        raise UserError(
            f"{workdir} was trained with another PRNG implementation: {was!r}, now {now!r}. "
            f"Set JAX_DEFAULT_PRNG_IMPL={was}, or use another --workdir."
        )


def write_config(workdir: epath.PathLike, config: Config, *, begun: bool) -> list[str]:
    """Writes `config.json` in process 0; returns a line to print if that of a run which has begun had to be repaired.

    Raises:
      RunError: The workdir cannot be written.
    """
    path = epath.Path(workdir) / "config.json"
    if jax.process_index() != 0:
        return []
    notes = []
    if begun and not _is_config(path):
        notes = [f"{path} was missing or damaged; it is written again, after comparison with the checkpoint's config"]
    try:
        files.replace(path, config.to_json(indent=2) + "\n")
    except OSError as error:
        raise RunError(f"cannot write to the workdir {workdir}: {error.strerror or error}") from error
    return notes


def _is_config(path: epath.Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text()), dict)
    except (OSError, ValueError):
        return False
