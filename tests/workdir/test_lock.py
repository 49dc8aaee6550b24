"""Only one run writes into a workdir; a run that was killed does not keep the next one out."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import fsspec
import pytest
from etils import epath
from etils.epath import backend, gpath

from vit_jax.errors import RunError, UserError
from vit_jax.workdir import files, lock
from vit_jax.workdir.lock import Lock

HOLDER = """
import signal, sys
from vit_jax.workdir.lock import Lock
lock = Lock(sys.argv[1])
print("locked", flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.2)


def lease(workdir):
    return json.loads((workdir / lock.NAME).read_text())


def elsewhere(workdir, **fields):
    """Writes the lock of a process on another machine."""
    held = {"host": "node7", "pid": 41, "machine": "another", "started": 5, "token": "theirs", "renewed": 0}
    workdir.mkdir(exist_ok=True)
    (workdir / lock.NAME).write_text(json.dumps(held | fields))


def test_a_second_process_is_refused_in_one_line_that_names_the_first(tmp_path):
    first = Lock(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        Lock(tmp_path / "run")
    assert f"{tmp_path}/run is in use by process {os.getpid()} on {os.uname().nodename}." in str(caught.value)
    assert "\n" not in str(caught.value)
    first.close()
    assert list((tmp_path / "run").iterdir()) == []
    Lock(tmp_path / "run").close()


def test_a_killed_process_does_not_keep_the_next_one_out(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(UserError, match=f"in use by process {process.pid} on"):
        Lock(tmp_path)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is dead, but not reaped
    Lock(tmp_path).close()
    process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_another_process_with_the_same_number_is_not_the_holder(tmp_path):
    first = Lock(tmp_path)
    held = lease(tmp_path)
    first.close()
    (tmp_path / lock.NAME).write_text(json.dumps(held | {"started": held["started"] - 1}))
    Lock(tmp_path).close()


@pytest.mark.parametrize("text", ["", "\0" * 40, '{"host": "node7', "[]", "{}", '{"pid": "x"}'])
def test_a_lock_that_cannot_be_read_counts_as_that_of_another_machine(tmp_path, caplog, text):
    (tmp_path / lock.NAME).write_text(text)
    Lock(tmp_path).close()
    assert "waiting up to" in caplog.text


def test_a_process_of_another_machine_is_dead_if_it_does_not_renew_its_lock(tmp_path, caplog):
    elsewhere(tmp_path)
    held = Lock(tmp_path)
    assert lease(tmp_path)["pid"] == os.getpid()
    assert "lock.json names process 41 on node7, which may have been killed" in caplog.text
    held.close()


def test_a_process_of_another_machine_is_alive_if_it_renews_its_lock(tmp_path, monkeypatch):
    elsewhere(tmp_path)
    monkeypatch.setattr(lock.time, "sleep", lambda _: elsewhere(tmp_path, renewed=1))
    with pytest.raises(UserError, match="in use by process 41 on node7"):
        Lock(tmp_path)


def test_a_lock_that_is_released_while_another_waits_for_it_is_taken(tmp_path, monkeypatch):
    elsewhere(tmp_path)
    monkeypatch.setattr(lock.time, "sleep", lambda _: (tmp_path / lock.NAME).unlink())
    Lock(tmp_path).close()


def test_the_holder_renews_its_lock_and_finds_out_when_it_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_EVERY", 0.01)
    held = Lock(tmp_path)
    while lease(tmp_path)["renewed"] < 2:
        held.check()
    (tmp_path / lock.NAME).unlink()  # somebody tidies up
    while not (tmp_path / lock.NAME).exists():
        held.check()
    while held._thread.is_alive():  # a renewal that began before this may still end after it
        elsewhere(tmp_path)
    with pytest.raises(RunError, match=r"was taken over by process 41 on node7"):
        held.check()
    held.close()
    assert lease(tmp_path)["token"] == "theirs"


def contend(workdir, barrier, results):
    barrier.wait()
    try:
        Lock(workdir)
        results.put("held")
    except UserError:
        results.put("refused")
    barrier.wait()


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_several_processes_at_once_one_gets_the_lock(tmp_path, left_behind):
    context, count = multiprocessing.get_context("forkserver"), 4
    context.set_forkserver_preload(["vit_jax.workdir.lock"])
    barrier, results = context.Barrier(count), context.Queue()
    if left_behind:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        process.kill()
        process.communicate()
    started = [context.Process(target=contend, args=(tmp_path, barrier, results)) for _ in range(count)]
    for process in started:
        process.start()
    assert sorted(results.get() for _ in started) == ["held", *["refused"] * (count - 1)]
    for process in started:
        process.join()


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    held = Lock(tmp_path)
    with pytest.raises(UserError, match="in use by"):
        Lock(tmp_path)
    held.close()
    assert list(tmp_path.iterdir()) == []


def test_other_processes_of_a_job_take_no_lock(tmp_path):
    first, other = Lock(tmp_path), Lock(tmp_path, is_holder=False)
    other.check()
    other.close()
    first.check()
    first.close()


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "create", full)
    with pytest.raises(UserError, match=r"cannot write to the workdir .*run: No space left on device$"):
        Lock(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the workdir .*file"):
        Lock(tmp_path / "file")


def test_a_lock_in_an_object_store(monkeypatch):
    store = type(backend.fsspec_backend)()
    monkeypatch.setattr(store, "fs", lambda path: fsspec.filesystem("memory"), raising=False)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", store)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    workdir = epath.Path("gs://bucket/locked")
    held = Lock(workdir)
    with pytest.raises(UserError, match="gs://bucket/locked is in use by process"):
        Lock(workdir)
    held.check()
    held.close()
    assert not (workdir / lock.NAME).exists()
    workdir.rmtree()
