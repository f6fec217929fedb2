"""The cache of environments: one build for many tasks, nothing left of a killed one, room for new ones."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from airflow_uc_models.engines.runners import Workers, warmed
from airflow_uc_models.environments.cache import EnvironmentCache
from airflow_uc_models.exceptions import InvalidArgumentError, ModelEnvironmentError

KILOBYTE = 1000


class Build:
    """Makes what looks like an environment of a kilobyte."""

    def __init__(self, size=KILOBYTE):
        self.count = 0
        self.size = size

    def __call__(self, place, lock):
        assert not place.exists()
        self.count += 1
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "python").write_bytes(b"x" * self.size)


@pytest.fixture
def cache(tmp_path):
    return EnvironmentCache(tmp_path / "cache", 10**9)


def use(cache, key, build):
    with cache.environment(key, build) as place:
        assert (place / "bin" / "python").exists()
    return place


def folders(cache):
    return sorted(path.name for path in cache.folder.iterdir() if path.is_dir())


def test_many_at_once_build_once(cache):
    build, begun, go_on = Build(), threading.Event(), threading.Event()

    def slow(place, lock):
        begun.set()
        assert go_on.wait(30)
        build(place, lock)

    threads = [threading.Thread(target=use, args=(cache, "a", slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert build.count == 1
    use(cache, "a", build)
    assert build.count == 1


def test_a_failed_build_leaves_nothing(cache):
    def fail(place, lock):
        Build()(place, lock)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        use(cache, "a", fail)
    assert folders(cache) == []
    use(cache, "a", Build())


def test_a_build_without_a_python_is_told(cache):
    with pytest.raises(ModelEnvironmentError, match="was built, and there is no Python in it"):
        use(cache, "a", lambda place, lock: place.mkdir())


KILLED = """
import os, sys, time
from pathlib import Path
from airflow_uc_models.environments.cache import EnvironmentCache
def build(place, lock):
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").touch()
    print("building", flush=True)
    time.sleep(60)
with EnvironmentCache(Path(sys.argv[1]), 10**9).environment("a", build):
    pass
"""


def test_a_killed_build_counts_for_nothing(cache):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(cache.folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "building\n"
        process.kill()
    assert folders(cache) == ["a"]
    build = Build()
    use(cache, "a", build)
    assert build.count == 1


def test_what_a_killed_build_has_started_is_waited_for(cache):
    """A process that goes on building holds the lock that it was given."""
    cache.folder.mkdir()
    with (cache.folder / "a.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
    build = Build()
    thread = threading.Thread(target=use, args=(cache, "a", build))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert build.count == 0
    child.send_signal(signal.SIGKILL)
    child.wait()
    thread.join(30)
    assert build.count == 1


def test_an_interpreter_that_has_gone_is_built_again(cache):
    build = Build()
    place = use(cache, "a", build)
    (place / "bin" / "python").unlink()
    (place / "bin" / "python").symlink_to("/no/such/python")
    use(cache, "a", build)
    assert build.count == 2


def test_what_was_not_used_for_the_longest_time_makes_room(cache):
    small = EnvironmentCache(cache.folder, 5 * KILOBYTE // 2)
    for age, key in enumerate(("a", "b")):
        place = use(small, key, Build())
        os.utime(place / "environment.json", (time.time() - 100 + age,) * 2)
    with small.existing("a"):  # now b is the one
        pass
    use(small, "c", Build())
    assert folders(cache) == ["a", "c"]


def test_what_is_in_use_stays(cache):
    small = EnvironmentCache(cache.folder, KILOBYTE // 2)
    with small.environment("a", Build()):
        use(small, "b", Build())
        assert folders(cache) == ["a", "b"]
        use(small, "c", Build())
        assert folders(cache) == ["a", "c"], "b was not in use"


def test_leftovers_make_room_first(cache):
    use(cache, "a", Build())
    (cache.folder / "left" / "bin").mkdir(parents=True)
    use(cache, "b", Build())
    assert folders(cache) == ["a", "b"]


def test_the_configuration_names_the_place_and_its_size(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = EnvironmentCache.configured()
    assert (found.folder, found.most_bytes) == (tmp_path / "airflow-uc-models" / "environments", 10**10)
    monkeypatch.setenv("AIRFLOW__UC_MODELS__ENVIRONMENTS_FOLDER", "~/environments")
    monkeypatch.setenv("AIRFLOW__UC_MODELS__ENVIRONMENTS_MAX_GB", "2.5")
    found = EnvironmentCache.configured()
    assert not str(found.folder).startswith("~")
    assert found.most_bytes == 2_500_000_000
    monkeypatch.setenv("AIRFLOW__UC_MODELS__ENVIRONMENTS_FOLDER", "environments")
    assert EnvironmentCache.configured().folder == Path.cwd() / "environments", "builds run in other folders"
    for size in ("much", "inf"):
        monkeypatch.setenv("AIRFLOW__UC_MODELS__ENVIRONMENTS_MAX_GB", size)
        with pytest.raises(
            InvalidArgumentError, match=rf"\[uc_models\] environments_max_gb must be a number, not '{size}'"
        ):
            EnvironmentCache.configured()


def test_a_user_without_a_home_names_the_place(monkeypatch):
    def unknown(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(InvalidArgumentError, match=r"Set \[uc_models\] environments_folder"):
        EnvironmentCache.configured()
    with warmed("m/1", Workers(1, Path("/no"), "m", [])) as found:
        assert found is None, "a model that needs no environment does without"


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    told = r"cannot be kept in .*/file/cache: .* Set \[uc_models\] environments_folder"
    with pytest.raises(ModelEnvironmentError, match=told):
        use(EnvironmentCache(tmp_path / "file" / "cache", 1), "a", Build())


def test_what_others_have_built_is_used_where_nobody_may_write(cache, monkeypatch):
    build = Build()
    use(cache, "a", build)
    opened = Path.open

    def read_only(self, mode="r", *arguments, **options):
        if mode != "r":
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        return opened(self, mode, *arguments, **options)

    def fail(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(os, "utime", fail)
    use(cache, "a", build)
    with cache.existing("a") as place:
        assert place == cache.folder / "a"
    assert build.count == 1
    with pytest.raises(ModelEnvironmentError, match="Read-only file system"):
        use(cache, "b", build)


def test_what_cannot_be_tidied_does_not_spoil_a_build(cache, monkeypatch):
    def fail(*_, **__):
        raise PermissionError

    use(cache, "a", Build())
    with monkeypatch.context() as patch:
        patch.setattr(EnvironmentCache, "_remove_unused", fail)
        use(EnvironmentCache(cache.folder, 1), "b", Build())
        patch.setattr(os, "utime", fail)
        use(cache, "a", Build())
        patch.setattr(Path, "write_text", fail)
        cache.remember("m/1", "a")
    assert folders(cache) == ["a", "b"]


def test_what_is_built_is_there_without_waiting(cache):
    cache.folder.mkdir()
    with cache.existing("a") as place:
        assert place is None
    built = use(cache, "a", Build())
    with cache.existing("a") as place:
        assert place == built
        small = EnvironmentCache(cache.folder, 1)
        use(small, "b", Build())
        assert folders(cache) == ["a", "b"], "it is in use"
    with (cache.folder / "a.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with cache.existing("a") as place:
            assert place is None, "somebody works on it"


def test_notes_are_there_as_long_as_what_they_tell_of(cache):
    assert cache.recall("m/1") is None
    use(cache, "a", Build())
    for about in ("m/1", "m/2"):
        cache.remember(about, "a")
    cache.remember("m/2", "gone")
    assert (cache.recall("m/1"), cache.recall("m/2"), cache.recall("m/3")) == ("a", "gone", None)
    use(cache, "b", Build())
    assert (cache.recall("m/1"), cache.recall("m/2")) == ("a", None)
