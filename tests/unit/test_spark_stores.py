"""How outputs of a Spark job take their places, without Spark: folders that Python sees, and tables in name only."""

from __future__ import annotations

import pytest

from airflow_uc_models.engines.spark_places import Folders, RemoteFolders, places_of
from airflow_uc_models.engines.spark_plan import JobError, Params
from airflow_uc_models.engines.spark_stores import NEW, OLD, MountedFiles, recover, swap

KEY = "aaaa1111bbbb2222"


def params(output, **options):
    fixed = {"input": "x", "key": KEY, "model_name": "m", "model_version": 1, "scored_at": "2026-01-02T03:04:05+00:00"}
    return Params(output=output, **fixed, **options)


def made(folder, text):
    folder.mkdir()
    (folder / "part").write_text(text)
    return str(folder)


def contents(folder):
    return {path.name: (path / "part").read_text() for path in folder.iterdir()}


def test_a_volume_is_swapped_and_mended(tmp_path):
    store, out = MountedFiles(), str(tmp_path / "out")
    beside = store.name_beside(out, KEY, "0", NEW)
    made(tmp_path / "new", "1")
    store.rename(str(tmp_path / "new"), beside)
    swap(store, beside, out, lambda: store.name_beside(out, KEY, "1", OLD))
    assert contents(tmp_path) == {"out": "1"}
    swap(store, made(tmp_path / "new", "2"), out, lambda: store.name_beside(out, KEY, "1", OLD))
    assert contents(tmp_path) == {"out": "2"}
    # Killed between the renames: the next try, of whichever run, finds nothing in place.
    store.rename(out, store.name_beside(out, "other", "2", OLD))
    recover(store, out, out, KEY, is_part=False)
    assert contents(tmp_path) == {"out": "2"}


def test_a_rename_that_fails_puts_back_what_was_there(tmp_path):
    store, out = MountedFiles(), made(tmp_path / "out", "1")
    with pytest.raises(FileNotFoundError):
        swap(store, str(tmp_path / "nothing"), out, lambda: store.name_beside(out, KEY, "1", OLD))
    assert contents(tmp_path) == {"out": "1"}
    with pytest.raises(JobError, match="Does another job write there"):
        store.rename(made(tmp_path / "new", "2"), out)


class Connect:
    """A session of Spark Connect, by the name of its module."""

    __module__ = "pyspark.sql.connect.session"


def test_volumes_are_renamed_only_where_the_workspace_mounts_them(monkeypatch):
    job = params("/Volumes/a/b/c")
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "client.4.9")
    assert isinstance(places_of(Connect(), job), Folders)
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION")
    with pytest.raises(JobError, match="only be written with mode='append'"):
        places_of(Connect(), job)
    assert isinstance(places_of(Connect(), params("/Volumes/a/b/c", mode="append")), RemoteFolders)
