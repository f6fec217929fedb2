"""Temporary folders and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from airflow_uc_models.scratch import scratch_folder, scratch_of_task, sweep

_LEAVE = """
import sys, tempfile
from airflow_uc_models.scratch import scratch_folder, scratch_of_task
tempfile.tempdir = sys.argv[1]
with scratch_of_task(sys.argv[2]), scratch_folder("model") as folder:
    (folder / "MLmodel").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""
OLD = -25 * 3600


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(place):
    """Start processes that have a folder each, for a task; they live until they are killed."""
    started = []

    def start(task):
        process = subprocess.Popen(
            [sys.executable, "-c", _LEAVE, str(place), task], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip()).parent

    yield start
    for process in started:
        process.kill()
        process.communicate()


def aged(root, seconds):
    now = root.stat().st_mtime
    os.utime(root, (now + seconds, now + seconds))


def test_a_folder_goes_with_its_block(place):
    with scratch_folder("model") as folder:
        (folder / "a").mkdir()
        assert folder.parent.parent == place
        assert folder.parent.name.startswith("uc-models-model-")
        assert [entry.name for entry in folder.iterdir()] == ["a"]
    assert list(place.iterdir()) == []


def test_what_a_killed_try_left_goes_with_the_retry(other):
    process, mine = other("the task")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert mine.exists()
    with scratch_of_task("another task"):
        assert mine.exists()
    with scratch_of_task("the task"):
        assert not mine.exists()


def test_what_others_left_goes_when_it_is_a_day_old(other):
    process, left = other("the task")
    process.kill()
    process.wait()
    aged(left, OLD)
    with scratch_of_task("another task"):
        assert not left.exists()


def test_what_is_in_use_stays_however_old(other):
    _, used = other("the task")
    aged(used, OLD)
    with scratch_of_task("the task"), scratch_folder("model"):
        assert (used / "files" / "MLmodel").exists()
    with scratch_folder("model") as mine:
        aged(mine.parent, OLD)
        sweep()
        assert mine.exists()


def test_what_is_not_ours_stays(place, tmp_path_factory, monkeypatch):
    target = tmp_path_factory.mktemp("target")
    (target / "precious").touch()
    link, file, foreign = (place / f"uc-models-model-{name}" for name in ("link", "file", "foreign"))
    link.symlink_to(target)
    file.write_text("x")
    foreign.mkdir()
    (foreign / "owner").symlink_to(target / "precious")
    other_name = place / "uc-models-backup"
    other_name.mkdir()
    for path in (file, foreign, other_name):
        aged(path, OLD)
    sweep()
    assert (target / "precious").exists()
    assert link.is_symlink()
    assert all(path.exists() for path in (file, foreign, other_name))
    (foreign / "owner").unlink()
    aged(foreign, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        sweep()
    assert foreign.exists()
    sweep()
    assert not foreign.exists()  # an unfinished one of our own


def test_a_destination_is_swept_too(place, other):
    with scratch_of_task("the task"), scratch_folder("download", place) as folder:
        assert folder.parent.name.startswith(".uc-models-download-")
        left = place / ".uc-models-download-left"
        left.mkdir()
        (left / "owner").write_text("the task")
        sweep(place)
        assert not left.exists()
        assert folder.exists()
