"""Two tries of each operator and sensor at once: one is held before each of its requests while the other one ends.

Airflow starts a second try while the first still runs where a worker seems lost, and Airflow 3.3 after a deferral.
Whatever the order: what is left is what one try alone leaves, and a try that loses says what the other one did.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from support.databricks import connection_json
from support.databricks_tasks import OPTIONS, TASK_NAMES, Scene
from support.models import save_model
from support.tries import MLMODEL, Race

from airflow_uc_models import operators, sensors
from airflow_uc_models.assets import model_asset

# what differs from run to run, in XCom
VOLATILE = {"at", "input", "created_at", "updated_at", "seconds", "tags", "path", "output", "storage_location"}
NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Case:
    """What two tries do.

    :param scene: what is special about the scene, as scripts/privileges.py says it; ``scores``: the model can score
    :param differs: the try that comes second has nothing left to do, and says so by another value
    :param makes: the model of which a version is made; its number depends on how many tries have begun with one
    """

    scene: str = ""
    differs: bool = False
    makes: str = ""


# Told to the task when somebody has approved.
ANSWER = {
    "chosen_options": ["Approve"],
    "params_input": {},
    "responded_at": datetime(2026, 1, 1, tzinfo=UTC),
    "responded_by_user": {"id": "1", "name": "anna"},
}


class Answered(operators.ApproveModelVersionOperator):
    """Two tries that both get the answer."""

    def execute(self, context):
        return self.execute_complete(context, ANSWER)


# Tested elsewhere: it does not talk to the registry (test_pending_two_tries.py).
WITHOUT_REQUESTS = {"MarkModelVersionsHandledOperator"}
CASES = {
    "ApproveModelVersionOperator": [Case()],
    "BatchInferenceOperator": [Case("scores")],
    "CreateRegisteredModelOperator": [Case("a new model")],
    "UpdateRegisteredModelOperator": [Case()],
    "RenameRegisteredModelOperator": [Case()],
    "DeleteRegisteredModelOperator": [Case(differs=True)],
    "GetRegisteredModelOperator": [Case()],
    "SearchRegisteredModelsOperator": [Case()],
    "RegisterModelOperator": [Case("a new model", makes="model"), Case("another version", makes="model")],
    "CopyModelVersionOperator": [
        Case("to a new model", makes="destination"),
        Case("another version", makes="destination"),
    ],
    "DownloadModelVersionOperator": [Case()],
    "GetModelVersionOperator": [Case()],
    "SearchModelVersionsOperator": [Case()],
    "UpdateModelVersionOperator": [Case()],
    "DeleteModelVersionOperator": [Case(differs=True)],
    "SetRegisteredModelAliasOperator": [Case()],
    "RollbackRegisteredModelAliasOperator": [Case()],
    "DeleteRegisteredModelAliasOperator": [Case(differs=True)],
    "SetRegisteredModelTagsOperator": [Case()],
    "DeleteRegisteredModelTagsOperator": [Case(differs=True)],
    "SetModelVersionTagsOperator": [Case()],
    "DeleteModelVersionTagsOperator": [Case(differs=True)],
    "SetModelVersionApprovalTagOperator": [Case()],
    "ValidateModelVersionOperator": [Case()],
    "BranchOnModelValidationOperator": [Case()],
    "ShortCircuitOnModelValidationOperator": [Case()],
    "PendingModelVersionsOperator": [Case()],
    "ModelVersionSensor": [Case()],
    "ModelVersionTagSensor": [Case()],
    "RegisteredModelAliasSensor": [Case()],
    "RegisteredModelSensor": [Case()],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "MLmodel").write_text(MLMODEL)
    return folder


@pytest.fixture
def scoring_model(tmp_path, tmp_path_factory):
    """A model that scores the rows of the file that is the input."""
    pd.DataFrame([[0.1] * 4] * 3, columns=[f"f{i}" for i in range(4)]).to_parquet(tmp_path / "in.parquet")
    return save_model(tmp_path_factory.mktemp("scoring") / "model")


@pytest.fixture
def race(workspace, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace))
    return Race(workspace.url, lambda url: connection_json(workspace, port=int(url.rpartition(":")[2])), "ws", tmp_path)


def maker(task, scene):
    """What makes the operator anew for each try."""

    def make():
        base = getattr(sensors if task.endswith("Sensor") else operators, task)
        base = Answered if task == "ApproveModelVersionOperator" else base
        more = {} if task.endswith("Sensor") else {"outlets": [model_asset(scene.names["model"], "ws")]}
        with DAG("dag", schedule=None):
            made = base(task_id="task", registry_conn_id="ws", **{**OPTIONS[task](scene), **more})
            if isinstance(made, operators.PendingModelVersionsOperator):
                mark = operators.MarkModelVersionsHandledOperator(task_id="mark", pending=made.output)
                made >> EmptyOperator(task_id="work") >> mark
            if isinstance(made, operators.BranchOnModelValidationOperator):
                made >> EmptyOperator(task_id="after_branch")
        return made

    return make


@dataclass
class Seen:
    """What there is to be said of ended tries, alike for each scene."""

    scene: Scene
    case: Case

    def left(self):
        """What is in the registry; of new versions, without their numbers."""
        found = self.scene.snapshot()
        if self.case.scene == "scores":
            own = f"out{self.scene.number}."
            outputs = [file for file in self.scene.scratch.rglob("*") if file.name.lstrip(".").startswith(own)]
            rows = [len(pd.read_parquet(file)) for file in outputs if file.suffix == ".parquet"]
            found["output"] = (rows, len(outputs))
        if self.case.makes:
            found = {name: (*rest, list(versions.values())) for name, (*rest, versions) in found.items()}
        return found

    def lasting(self, value):
        """What is in XCom, without what differs from run to run."""
        if isinstance(value, dict):
            volatile = VOLATILE | ({"version", "uri"} if self.case.makes else set())
            return {key: self.lasting(item) for key, item in value.items() if key not in volatile}
        if isinstance(value, list):
            return [self.lasting(item) for item in value]
        return value.replace(f".m{self.scene.number}", ".m") if isinstance(value, str) else value

    def told(self, ends):
        """The events that consumers get; those of one key are one."""
        by_key = {event["key"]: event for end in ends for event in end.events}
        return sorted(json.dumps(self.lasting({**event, "key": ""}), sort_keys=True) for event in by_key.values())

    def problems(self, ends, alone):
        """Say what is wrong, beside one try that ran alone."""
        left = self.left()
        if left != alone.left:
            yield f"left {left} instead of {alone.left}"
        fine = [end for end in ends if end.error is None]
        if not fine:
            yield "both failed"
        for end in fine:
            if not self.case.differs and self.lasting(end.value) != alone.value:
                yield f"returned {self.lasting(end.value)} instead of {alone.value}"
            if self.case.makes and end.value["version"] not in self.numbers():
                yield f"returned version {end.value['version']}, which is gone"
        if self.told(fine) != alone.told:
            yield f"told {self.told(fine)} instead of {alone.told}"
        for end in ends:
            if end.error is not None and f"m{self.scene.number}" not in end.error:
                yield "does not say about what it failed"

    def numbers(self):
        """The numbers of the versions there are."""
        name = self.scene.names[self.case.makes].replace(f".m{self.scene.number}", ".m")
        return list(self.scene.snapshot()[name][-1])


@dataclass(frozen=True)
class Alone:
    """What one try alone leaves, returns and tells."""

    left: object
    value: object
    told: list[str]


def test_no_task_is_forgotten():
    assert set(CASES) | WITHOUT_REQUESTS == TASK_NAMES


@pytest.mark.parametrize(("task", "case"), [(task, case) for task, cases in CASES.items() for case in cases], ids=str)
def test_each_request(race, workspace, model, request, tmp_path, task, case):
    files = request.getfixturevalue("scoring_model") if case.scene == "scores" else model

    def scene():
        workspace.reset()
        return Scene(workspace, next(NUMBERS), case.scene, files, tmp_path)

    single = Seen(scene(), case)
    end = race.alone(maker(task, single.scene))
    assert end.error is None, end.error
    alone = Alone(single.left(), single.lasting(end.value), single.told([end]))
    wrong = []
    for held in (1, 2):
        for at in itertools.count(1, 4 if case.scene == "scores" else 1):
            seen = Seen(scene(), case)
            ends = race.run(maker(task, seen.scene), held=held, at=at)
            if ends[1] is None:
                break
            if problems := list(seen.problems(ends, alone)):
                errors = [f"{end.kind}, {end.can_retry}: {end.error}" for end in ends if end.error]
                wrong.append(f"try {held} held before request {at}: {problems} {errors}")
    assert not wrong, "\n".join(wrong)


class AsksOrIsAnswered(operators.ApproveModelVersionOperator):
    """The first try asks; the second one was asked by Airflow before, and has the answer."""

    def execute(self, context):
        if context["ti"].try_number == 1:
            return super().execute(context)
        return self.execute_complete(context, ANSWER)


def test_an_answer_stays_where_a_late_try_asks(race, workspace, model, tmp_path, monkeypatch):
    from airflow_uc_models.operators import approval

    # what only a worker can do: wait for somebody
    monkeypatch.setattr(approval.ApprovalOperator, "execute", lambda self, context: {"waits": True})

    def make(name):
        with DAG("dag", schedule=None):
            return AsksOrIsAnswered(task_id="task", registry_conn_id="ws", model_name=name, version=2)

    for held in (1, 2):
        for at in itertools.count(1):
            workspace.reset()
            scene = Scene(workspace, next(NUMBERS), "", model, tmp_path)
            asks, answered = ends = race.run(lambda name=scene.names["model"]: make(name), held=held, at=at)
            if answered is None:
                assert at > 2
                break
            asks, answered = ends if held == 1 else ends[::-1]
            tags = workspace.workspace.state.models[scene.names["model"]].versions[2].tags
            left = tags["approval_status"], tags.get("approved_by"), tags.get("approved_at")
            assert left == ("approved", "anna", "2026-01-01T00:00:00+00:00"), (held, at)
            assert answered.error is None, (held, at)
            assert asks.error is None or "was approved by anna" in asks.error, (held, at)
