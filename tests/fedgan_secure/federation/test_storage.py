"""Files that are whole or absent, whatever the disk does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from fedgan_secure.errors import InputError
from fedgan_secure.storage import files as storage
from fedgan_secure.storage import run
from fedgan_secure.storage.run import RunDirectory


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "state.json"
    storage.write_bytes(target, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(InputError, match="disk is full") as caught:
        storage.write_bytes(target, b"new")
    assert "--resume" in caught.value.hint
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_private_files_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    folder = storage.private_folder(tmp_path / "site")
    storage.write_bytes(folder / "key", b"secret", private=True)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key").stat().st_mode & 0o777 == 0o600


def test_arrays_come_back_and_pickles_do_not(tmp_path: Path) -> None:
    vector = np.arange(5, dtype=np.float32)
    storage.write_array(tmp_path / "v.npy", vector)
    assert np.array_equal(storage.read_array(tmp_path / "v.npy"), vector)
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError):
        storage.read_array(tmp_path / "evil.npy")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = (storage.sole_owner(tmp_path / "lock", "the run") for _ in range(2))
    with first, pytest.raises(InputError, match="in use"), second:
        pass
    with storage.sole_owner(tmp_path / "lock", "the run"):
        pass


def test_a_run_folder_is_never_taken_over(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "new")
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        RunDirectory.create(occupied)
    (occupied / "run.json").write_text("{}")
    with pytest.raises(InputError, match="already holds a run"):
        RunDirectory.create(occupied)
    with pytest.raises(InputError, match="is a file"):
        RunDirectory.create(occupied / "notes.txt")
    with pytest.raises(InputError, match="format"):
        RunDirectory.open(occupied)
    assert (occupied / "notes.txt").read_text() == "mine"


def test_of_two_runs_that_start_at_once_one_has_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looked before either wrote, as two lines of one script can: a mixture of two runs would be nobody's."""
    folder = run.default_run_folder(tmp_path)
    RunDirectory.create(folder)
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(()))
    with pytest.raises(InputError, match="another process is making a run") as caught:
        RunDirectory.create(folder)
    assert "start this one again" in caught.value.hint
    assert run.default_run_folder(tmp_path) != folder
