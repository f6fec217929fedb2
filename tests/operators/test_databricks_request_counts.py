"""How many requests it takes to find an earlier try, in models with hundreds of versions of today."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.databricks import connection_json
from support.models import save_model

from airflow_uc_models.emulator.state import Version, now
from airflow_uc_models.exceptions import UCModelsError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transfer import NewVersion, copy, register
from airflow_uc_models.names import ModelRef, parse_source
from airflow_uc_models.operators import CopyModelVersionOperator, RegisterModelOperator

NAME, SOURCE = "dev.ml_team.fraud", "dev.ml_team.source"
MOST = 5  # requests beyond the same job in a model that has no version
KEY = "the-key"


class Memory:
    """What Airflow's store for the state of a task keeps."""

    def __init__(self):
        self.kept = {}

    def get(self):
        return self.kept

    def set(self, value):
        self.kept = dict(value)


class Forgetful(Memory):
    """There is no such store before Airflow 3.3."""

    def get(self):
        return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def hook(workspace, databricks, folder):
    """A connection to a workspace with a model to copy from."""
    found = ModelRegistryHook(databricks)
    register(found, parse_source(str(folder)), NewVersion(SOURCE, "source"))
    return found


def fill(workspace, count, source):
    """Give the model so many READY versions of this moment, made from a source by other tasks."""
    space = workspace.workspace
    model = space.state.models.get(NAME) or space.catalog.create_model(space.admin, NAME)
    for number in range(model.last_version + 1, model.last_version + count + 1):
        tags = {"airflow_task_key": f"other-{number}"}
        model.versions[number] = Version(number, space.admin.name, tags=tags, source=source, status="READY")
    model.last_version += count
    space.state.save(model)


def job(hook, folder, kind, **fields):
    new = NewVersion(NAME, KEY, since=now() - 24 * 3600 * 1000, **fields)
    if kind == "register":
        return register(hook, parse_source(str(folder)), new)
    return copy(hook, ModelRef.of(SOURCE, version=1), hook, new)


def source_of(kind, folder):
    return str(folder) if kind == "register" else f"models:/{SOURCE}/1"


def counted(workspace, act):
    workspace.requests.take()
    act()
    return len(workspace.requests.take())


@pytest.fixture(params=["register", "copy"])
def bare(request, workspace, hook, folder):
    """The kind of job, and its requests in a model without versions."""
    fill(workspace, 0, "")
    requests = counted(workspace, lambda: job(hook, folder, request.param, is_first=True))
    workspace.workspace.catalog.delete_version(workspace.workspace.admin, NAME, 1)
    return request.param, requests


@pytest.mark.parametrize("memory", [Memory, Forgetful])
@pytest.mark.parametrize("others", ["from elsewhere", "from the same source"])
@pytest.mark.parametrize("count", [300, 1000])
def test_a_first_try(workspace, hook, folder, bare, count, others, memory):
    kind, requests = bare
    fill(workspace, count, "dbfs:/elsewhere" if others == "from elsewhere" else source_of(kind, folder))
    used = counted(workspace, lambda: job(hook, folder, kind, is_first=True, memory=memory()))
    assert used - requests <= MOST


def killed_at(workspace, path, hook, folder, kind, memory, method=None):
    """A first try that can neither go on from there nor clean up."""
    workspace.faults.add(path, method=method, count=None, status=400)
    workspace.faults.add("/delete$", count=None, status=400)
    with pytest.raises(UCModelsError):
        job(hook, folder, kind, is_first=True, memory=memory)
    workspace.faults.clear()


@pytest.mark.parametrize(
    ("memory", "others"),
    # Without Airflow's store nothing tells versions from the same source apart but their tags.
    [(Memory, "from elsewhere"), (Memory, "from the same source"), (Forgetful, "from elsewhere")],
)
@pytest.mark.parametrize("count", [300, 1000])
@pytest.mark.parametrize("died", ["before the create", "in the upload", "after the end"])
def test_a_retry(workspace, hook, folder, bare, count, others, memory, died):
    kind, requests = bare
    fill(workspace, count, "dbfs:/elsewhere" if others == "from elsewhere" else source_of(kind, folder))
    kept = memory()
    if died == "after the end":
        job(hook, folder, kind, is_first=True, memory=kept)
    else:
        path, method = ("model-versions/create$", "POST") if died == "before the create" else ("MLmodel", "PUT")
        killed_at(workspace, path, hook, folder, kind, kept, method)
    fill(workspace, 3, source_of(kind, folder))  # meanwhile, by others
    left = [v for v in workspace.workspace.state.models[NAME].versions.values() if v.tags["airflow_task_key"] == KEY]
    assert len(left) == (0 if died == "before the create" else 1)
    used = counted(workspace, lambda: job(hook, folder, kind, memory=kept))
    # the three versions that others made meanwhile have to be looked at, and what was left be deleted
    assert used - requests <= MOST + 3 + len(left)
    mine = [v for v in workspace.workspace.state.models[NAME].versions.values() if v.tags["airflow_task_key"] == KEY]
    assert [v.status for v in mine] == ["READY"]
    if died == "after the end":
        assert mine[0].version == left[0].version
        assert used < requests  # nothing was made


@pytest.mark.parametrize("memory", [Memory, Forgetful])
@pytest.mark.parametrize("hours", [-20, 20])
def test_clocks_may_differ(workspace, hook, folder, memory, hours):
    kept = memory()
    made = job(hook, folder, "register", is_first=True, memory=kept)
    kept.kept.pop("version", None)  # its worker died before it noted that
    workspace.workspace.state.models[NAME].versions[made.version].created_at += hours * 3600 * 1000
    assert job(hook, folder, "register", memory=kept).version == made.version


def test_a_cleared_task_finds_its_version_and_makes_another_if_that_is_gone(workspace, hook, folder):
    kept = Memory()
    made = job(hook, folder, "register", is_first=True, memory=kept)
    assert job(hook, folder, "register", memory=kept).version == made.version
    workspace.workspace.catalog.delete_version(workspace.workspace.admin, NAME, made.version)
    assert job(hook, folder, "register", memory=kept).version == made.version + 1


def test_what_cannot_be_told_apart_is_asked_for_at_once(workspace, hook, folder):
    """Without a note of an earlier try each version from the same source counts, and none is missed."""
    fill(workspace, 100, str(folder))
    made = job(hook, folder, "register", is_first=True)
    fill(workspace, 100, str(folder))
    slow = workspace.faults.add("model-versions/get$", count=None, delay=0.02)
    assert job(hook, folder, "register").version == made.version
    assert slow.hits >= 200


@pytest.mark.parametrize("kind", ["register", "copy"])
def test_through_airflow(dag_runner, workspace, hook, folder, monkeypatch, kind):
    """The second try knows what the first one noted; so three hundred versions from the same source cost nothing."""
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace, extra={"max_retry_seconds": 0.1}))
    fill(workspace, 300, source_of(kind, folder))
    workspace.requests.take()
    workspace.faults.add("model-versions/finalize", count=1, status=503)

    def define():
        common = {"task_id": "make", "registry_conn_id": "ws"}
        if kind == "register":
            RegisterModelOperator(model_name=NAME, model_uri=str(folder), **common)
        else:
            CopyModelVersionOperator(model_name=SOURCE, version=1, destination_model_name=NAME, **common)

    result = dag_runner.run(define, default_args={"retries": 1, "retry_delay": timedelta(0)})
    assert (result.xcom("make")["version"], result.ti("make").try_number) == (302, 2)
    asked = workspace.requests.find("model-versions/get", "GET")
    if "task_state_store" in _context_keys():
        assert len(asked) <= 10
    mine = [v for v in workspace.workspace.state.models[NAME].versions.values() if v.version > 300]
    assert [(v.version, v.status) for v in mine] == [(302, "READY")]


def _context_keys():
    from airflow.sdk.definitions.context import Context

    return Context.__annotations__
