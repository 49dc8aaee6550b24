"""Weights & Biases: the rows of `metrics.jsonl`, mirrored to a project there. The file remains the record."""

import importlib.util
import json
import os
import tempfile
import uuid
from collections.abc import Iterable
from typing import Any

from etils import epath

from vit_jax.errors import RunError, UserError
from vit_jax.workdir import files

NAME = "wandb.json"  # in the workdir: under which id the run is known there


def check_installed(project: str | None) -> None:
    """Checks that a config can be mirrored, before anything is written.

    Raises:
      UserError: A project is named, but the package is not installed.
    """
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"config.wandb={project!r} needs the package wandb. Run pip install 'vit_jax[wandb]', or unset the key."
        )


class Mirror:
    """Sends rows to Weights & Biases; a resumed run continues under the same id.

    A row is sent once: those that were written before are skipped, because a resumed run repeats them, unless the run
    was not mirrored then. Metrics are named "SPLIT/NAME", with `step` as their axis.

    Args:
      project: `config.wandb`.
      config: The config, as a dict.
      written: All rows of `metrics.jsonl`, before those of steps to be repeated are removed.

    Raises:
      RunError: The service refuses the run, for example because nobody is logged in.
    """

    def __init__(self, workdir: epath.Path, project: str, config: dict[str, Any], written: Iterable[dict[str, Any]]):
        import wandb  # pyright: ignore[reportMissingImports]

        path, self._sent = workdir / NAME, set()
        is_known = path.exists()
        name = json.loads(path.read_text())["id"] if is_known else uuid.uuid4().hex[:12]
        folder = os.fspath(workdir) if files.is_local(workdir) else tempfile.mkdtemp(prefix="vit_jax_wandb_")
        try:
            self._run = wandb.init(
                project=project,
                id=name,
                name=workdir.name,
                dir=folder,
                config=config,
                resume="allow",
                settings=wandb.Settings(silent=True),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise RunError(
                f"config.wandb={project!r}: {reason}. WANDB_MODE=offline records in the workdir instead."
            ) from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if not is_known:
            files.replace(path, json.dumps({"project": project, "id": name}) + "\n")
        for row in written:
            if is_known:
                self._sent.add((row["step"], row["split"]))
            else:
                self.send(row)

    def send(self, row: dict[str, Any]) -> None:
        """Sends a row, unless it was sent before."""
        if (key := (row["step"], row["split"])) in self._sent:
            return
        self._sent.add(key)
        values = {f"{row['split']}/{name}": value for name, value in row.items() if name not in ("step", "split")}
        self._run.log({"step": row["step"], **values})

    def close(self) -> None:
        self._run.finish()
