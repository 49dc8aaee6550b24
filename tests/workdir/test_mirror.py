"""Weights & Biases: rows are mirrored once, also over resumptions; offline, with the real package."""

import importlib.util
import json
import signal
import struct

import pytest
import tiny
from etils import epath

from vit_jax.config import default_config
from vit_jax.errors import UserError
from vit_jax.workdir import mirror

has_wandb = importlib.util.find_spec("wandb") is not None


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"config\.wandb='mine' needs the package wandb\. Run pip install 'vit_jax\[wandb\]'"
    ):
        mirror.check_installed("mine")
    mirror.check_installed(None)


@pytest.fixture
def service(monkeypatch):
    """A stand-in for the package, which records what is sent."""

    class Service:
        Error = type("Error", (Exception,), {})
        sent, starts = [], []

        @staticmethod
        def Settings(**_):
            return None

        @classmethod
        def init(cls, **arguments):
            cls.starts.append(arguments)
            return cls()

        def define_metric(self, *_, **__):
            pass

        def log(self, values):
            self.sent.append(values)

        def finish(self):
            pass

    Service.sent, Service.starts = [], []
    monkeypatch.setitem(__import__("sys").modules, "wandb", Service)
    return Service


ROWS = [{"step": 2, "split": "train", "loss": 0.5}, {"step": 2, "split": "eval", "top1": 0.25}]


def test_a_resumed_run_sends_each_row_once_under_the_same_id(service, tmp_path):
    workdir, config = epath.Path(tmp_path), json.loads(default_config().to_json())
    first = mirror.Mirror(workdir, "mine", config, [])
    for row in ROWS:
        first.send(row)
    assert service.sent == [{"step": 2, "train/loss": 0.5}, {"step": 2, "eval/top1": 0.25}]
    second = mirror.Mirror(workdir, "mine", config, ROWS)
    for row in [*ROWS, {"step": 4, "split": "train", "loss": 0.25}]:  # it resumes before step 2
        second.send(row)
    assert service.sent[2:] == [{"step": 4, "train/loss": 0.25}]
    assert service.starts[0]["id"] == service.starts[1]["id"]


def test_a_run_that_is_mirrored_later_sends_what_it_has(service, tmp_path):
    mirror.Mirror(epath.Path(tmp_path), "mine", {}, ROWS)
    assert len(service.sent) == 2


@pytest.mark.slow
@pytest.mark.skipif(not has_wandb, reason="the extra wandb")
def test_a_run_that_is_interrupted_is_recorded_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    workdir = tmp_path / "run"
    status, output = tiny.signal_at(tiny.start(workdir, wandb="mine"), "step 12/30", signal.SIGTERM)
    assert status == 143, output
    tiny.finish(tiny.start(workdir, wandb="mine"))
    assert len(list((workdir / "wandb").glob("offline-run-*"))) == 2
    name = json.loads((workdir / "wandb.json").read_text())["id"]
    assert all(name in path.name for path in (workdir / "wandb").glob("offline-run-*"))
    assert found_rows(workdir) == {(row["step"], row["split"]): row for row in tiny.rows(workdir)}.keys()


def records(path):
    """Yields the records of a file of the package: a LevelDB log, whose blocks of 32 KiB hold (parts of) records."""
    content, place, whole = path.read_bytes(), 7, b""  # after the header
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768
        if left < 7:  # the rest of a block is padding
            place += left
            continue
        length, kind = struct.unpack("<4xHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def found_rows(workdir):
    """Returns step and split of all rows in the files of the package, each of which must be there once."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted((workdir / "wandb").glob("offline-run-*/*.wandb")):
        for data in records(path):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {
                    (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
                }
                split = next(key.partition("/")[0] for key in items if "/" in key)
                found.append((items["step"], split))
    assert len(found) == len(set(found))
    return set(found)
