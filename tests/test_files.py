"""A kill, a power cut or a full disk leaves what was there; one process holds a lock, and locks that fail say so."""

import errno
import fcntl
import os
import resource
import stat
import time
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import save_file

from excursions import files
from excursions.files import locked, read_json, whole_file, whole_folder, write_json
from excursions.params import UserError
from excursions.progress import Progress, clock


def test_a_file_is_whole_or_untouched(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    with pytest.raises(OSError), whole_file(file) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert '"old"' in file.read_text() and list(tmp_path.iterdir()) == [file]


def test_a_folder_is_whole_or_untouched(tmp_path):
    folder = tmp_path / "run"
    with whole_folder(folder) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as temporary:
        (temporary / "a").write_text("new")
        raise KeyboardInterrupt
    assert (folder / "a").read_text() == "old" and list(tmp_path.iterdir()) == [folder]
    with whole_folder(folder) as temporary:
        (temporary / "b").write_text("new")
    assert [f.name for f in folder.iterdir()] == ["b"] and list(tmp_path.iterdir()) == [folder]


def test_what_gets_its_name_is_on_the_disk_before(tmp_path, monkeypatch):
    """A power cut between two of these leaves the old file or the new one, never an empty one."""
    done = []
    sync, replace = os.fsync, os.replace

    def synced(handle):
        done.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        sync(handle)

    def replaced(source, target):
        done.append(("rename", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", replaced)
    with whole_file(tmp_path / "a") as temporary:
        temporary.write_text("a")
    assert done == [("sync", temporary.name), ("rename", "a"), ("sync", tmp_path.name)]
    done.clear()
    with whole_folder(tmp_path / "b") as aside:
        (aside / "c").mkdir()
        (aside / "c" / "d").write_text("d")
    at = done.index(("rename", "b"))
    assert {name for _, name in done[:at]} == {"c", "d", aside.name} and done[at + 1 :] == [("sync", tmp_path.name)]


@contextmanager
def small_disk(size):
    """A limit on the size of a file, which the system refuses as it refuses a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["text", "safetensors"])
def test_a_full_disk_is_one_error_of_the_system_and_leaves_nothing(tmp_path, kind):
    (tmp_path / "a").write_text("old")
    with small_disk(1000), pytest.raises(OSError, match="File too large"), whole_file(tmp_path / "a") as temporary:
        if kind == "text":
            temporary.write_text("x" * 5000)
        else:  # whose writer has an exception of its own
            save_file({"x": np.zeros(5000)}, temporary)
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a"):
        raise ZeroDivisionError


@pytest.mark.parametrize("content", [b"", b"{", b"[1,", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_as_if_absent_and_that_is_said(tmp_path, content, capsys):
    file = tmp_path / "a.json"
    assert read_json(file) is None and capsys.readouterr().out == ""
    file.write_bytes(content)
    assert read_json(file) is None
    said = capsys.readouterr().out
    assert str(file) in said and said.endswith("is taken as absent\n") and said.count("\n") == 1
    write_json(file, [1])
    assert read_json(file) == [1]


def test_a_lock_is_held_by_one_and_free_again(tmp_path):
    with locked(tmp_path / "x" / "lock", "a run"):
        with pytest.raises(UserError, match="a run: another process is computing this"):
            with locked(tmp_path / "x" / "lock", "a run"):
                pass
    with locked(tmp_path / "x" / "lock", "a run"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(UserError, match="cannot be locked .*; use a file system that has locks"):
        with locked(tmp_path / "lock", "a run"):
            pass


def test_progress_says_the_time_what_is_done_and_what_is_left():
    said = []
    progress = Progress("training", 3, done=1, say=said.append)
    progress.step(reward=0.25)
    progress.step(reward=0.5)
    assert len(said) == 1
    at, line = said[0].split(" ", 1)
    assert time.strptime(at, "%H:%M:%S")
    assert line.startswith("training: 3/3 reward 0.5 ") and "left 0:00:00" in line
    assert clock(3725) == "1:02:05"


def test_all_but_the_first_of_several_processes_are_quiet(capsys):
    Progress("training", 1, quiet=True).step()
    assert capsys.readouterr().out == ""


def test_files_are_open_to_those_that_the_users_mask_lets_in(tmp_path):
    """safetensors and tempfile make files that nobody else can read."""
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "weights") as temporary:
            save_file({"x": np.zeros(1)}, temporary)
        with whole_folder(tmp_path / "model") as temporary:
            save_file({"x": np.zeros(1)}, temporary / "model.safetensors")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"weights": 0o640, "model": 0o750, "model.safetensors": 0o640}
