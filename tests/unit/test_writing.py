"""Places that cannot be written: found out before the work, without a trace, and told in words."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_uc_models.engines.job import InferenceJob
from airflow_uc_models.engines.outputs import expect_writable
from airflow_uc_models.exceptions import OutputError, OutputUnavailableError, PredictionError
from airflow_uc_models.hooks.folders import download_to
from airflow_uc_models.writing import expect_writable_folder, expect_writable_store, full_disk


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "out.parquet").write_text("earlier")
    for output in ("out.parquet", "new/folders/out.parquet"):
        expect_writable(InferenceJob(input="x", output=str(tmp_path / output), on_bad_rows="quarantine"))
    assert files(tmp_path) == ["out.parquet"]
    assert (tmp_path / "out.parquet").read_text() == "earlier"


def test_a_file_where_a_folder_must_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OutputError, match=r"out\.parquet cannot be written.*name a path whose parts are folders"
    ) as caught:
        expect_writable(InferenceJob(input="x", output=str(tmp_path / "file" / "out.parquet")))
    assert caught.value.permanent


def test_a_folder_that_takes_no_files():
    with pytest.raises(OutputError, match=r"/proc/out\.parquet cannot be written"):
        expect_writable(InferenceJob(input="x", output="/proc/out.parquet"))


@pytest.mark.skipif(not shutil.which("mount") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        (tmp_path / "rest").write_bytes(b"x" * 16_384)
        with pytest.raises(OutputError, match=r"No space left on device\. Free space there") as caught:
            expect_writable_folder(tmp_path, "out")
        assert files(tmp_path) == ["rest"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert caught.value.permanent


class Store(MemoryFileSystem):
    """A store that refuses, as drivers of object stores tell it."""

    error: BaseException | None = None
    store: dict = {}  # noqa: RUF012 - of fsspec
    pseudo_dirs = [""]  # noqa: RUF012
    cachable = False

    def open(self, path, mode="rb", **options):
        if self.error and "w" in mode:
            raise self.error
        return super().open(path, mode, **options)


REFUSED = {
    "no permission": PermissionError(errno.EACCES, "Access Denied"),
    "no bucket": FileNotFoundError(errno.ENOENT, "The specified bucket does not exist"),
    "read-only": OSError(errno.EROFS, "Read-only file system"),
    "no space": OSError(errno.ENOSPC, "No space left on device"),
    "can only be read": NotImplementedError(),
    "not for writing": io.UnsupportedOperation("write"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_store_that_refuses_writes_fails_for_good(kind):
    store = Store()
    store.error = REFUSED[kind]
    with pytest.raises(OutputError, match="s3://bucket/out cannot be written") as caught:
        expect_writable_store(store, "/bucket", "s3://bucket/out")
    assert caught.value.permanent


def test_a_store_that_does_not_answer_may_do_so_later():
    store = Store()
    store.error = ConnectionError("reset")
    with pytest.raises(OutputUnavailableError, match="s3://bucket/out could not be written: reset") as caught:
        expect_writable_store(store, "/bucket", "s3://bucket/out")
    assert not caught.value.permanent


def test_a_store_that_takes_files_is_left_empty():
    store = Store()
    expect_writable_store(store, "/bucket", "s3://bucket/out")
    assert store.find("/") == []


def test_a_full_disk_is_found_behind_other_errors():
    error = PredictionError("the model failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "model/MLmodel")
    found = full_disk(error)
    assert isinstance(found, OutputError)
    assert "model/MLmodel" in str(found)
    assert full_disk(ValueError("no")) is None


def test_a_download_asks_before_it_fetches(tmp_path):
    (tmp_path / "file").touch()
    version = type("Version", (), {"is_ready": True})()
    with pytest.raises(OutputError, match="cannot be written"):
        download_to(None, version, str(tmp_path / "file" / "model"))
