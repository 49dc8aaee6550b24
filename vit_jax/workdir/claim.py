"""Claiming a workdir: checks that it is new, or holds a run of the same config on the same data."""

import json
from typing import Any

import jax
from etils import epath

from vit_jax import config as schema
from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.workdir.checkpoint import load_meta, saved_steps


def claim(workdir: epath.PathLike, config: Config) -> tuple[epath.Path, dict[str, Any] | None]:
    """Creates the workdir and writes `config.json`; returns the workdir and the meta of its newest checkpoint, or None.

    Raises:
      UserError: The workdir cannot be written, or holds checkpoints of another config; the message lists the
        differences.
    """
    workdir = epath.Path(workdir)
    path = workdir / "config.json"
    claimed = path.exists() and saved_steps(workdir)
    if claimed and (changed := schema.differences(json.loads(path.read_text()), config)):
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}). Undo the change or use another --workdir."
        )
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            path.write_text(config.to_json(indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write to the workdir {workdir}: {error.strerror or error}") from error
    return workdir, load_meta(workdir)


def check_same_data(workdir: epath.Path, saved: dict[str, Any], described: dict[str, Any]) -> None:
    """Checks that the labels and the encoder of the data are those that a checkpoint was trained with.

    Args:
      saved: The meta of the checkpoint.
      described: The meta that the run would save now.

    Raises:
      UserError: They differ.
    """
    for what in ("labels", "preprocessing"):
        if saved[what] != json.loads(json.dumps(described[what])):
            raise UserError(
                f"the data have changed since {workdir} was trained: their {what} differ from those in its checkpoint. "
                "Restore the old data, or use another --workdir."
            )
