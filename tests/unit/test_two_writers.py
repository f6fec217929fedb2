"""Two that write one output at the same time: it is whole in the end, and who loses says so."""

from __future__ import annotations

import threading

import pytest

from airflow_uc_models.engines.paths import Location, new_file
from airflow_uc_models.exceptions import TakenOverError
from airflow_uc_models.hooks.folders import _replace


@pytest.fixture(params=["worker", "object store"])
def target(request, tmp_path):
    if request.param == "worker":
        return Location.parse(str(tmp_path / "out.parquet"))
    from fsspec.implementations.memory import MemoryFileSystem

    return Location("memory://out.parquet", MemoryFileSystem(), f"/{tmp_path.name}/out.parquet", is_local=False)


def names(target):
    return [str(path).rpartition("/")[2] for path in target.fs.ls(target.parent, detail=False)]


def write_both(target, first_key, second_key):
    """Write with one key while another one writes from its beginning to its end."""
    with new_file(target, first_key) as first:
        first.write(b"first")
        with new_file(target, second_key) as second:
            second.write(b"second")


def test_the_later_of_two_tries_writes_the_file(target):
    with pytest.raises(TakenOverError, match=r"out\.parquet was not written: another try of this task"):
        write_both(target, "same-key", "same-key")
    assert target.fs.cat_file(target.path) == b"second"
    assert names(target) == ["out.parquet"]


def test_tasks_that_differ_do_not_disturb_each_other(target):
    write_both(target, "one-key", "another-key")
    assert target.fs.cat_file(target.path) == b"first"
    assert names(target) == ["out.parquet"]


def test_a_folder_that_many_replace_is_whole(tmp_path):
    place, errors = tmp_path / "model", []

    def write(writer):
        try:
            for number in range(50):
                scratch = tmp_path / f"{writer}-{number}"
                new = scratch / "new"
                new.mkdir(parents=True)
                for name in ("MLmodel", "model.txt"):
                    (new / name).write_text(writer)
                _replace(place, new, scratch)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len({file.read_text() for file in place.iterdir()}) == 1
    assert sorted(file.name for file in place.iterdir()) == ["MLmodel", "model.txt"]
