"""Every operator and sensor, ready to run over a `databricks` connection, and the state that each works on."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_uc_models import operators, sensors
from airflow_uc_models.emulator import Emulator
from airflow_uc_models.policies import PromotionPolicy

TASK_NAMES = {name for name in (*operators.__all__, *sensors.__all__) if name.endswith(("Operator", "Sensor"))}
MISSING = ("a new model", "without versions")
_UNTOLD = (
    "approved_at",
    "airflow_task_key",
    "airflow_copied_from",
    "airflow_alias_rollback_Canary",
    "airflow_alias_move_",  # named by chance
    "validated_against",
)


@dataclass
class Scene:
    """A model with two versions and another one, in a workspace; each scene has names of its own.

    :param case: what is special, as scripts/privileges.py says it
    :param model: a model folder
    :param scratch: where files may be written
    """

    workspace: Emulator
    number: int
    case: str
    model: Path
    scratch: Path

    def __post_init__(self) -> None:
        schemas = {"schema": "dev.ml_team", "destination schema": "prod.ml_team"}
        self.names = {
            **schemas,
            "model": f"dev.ml_team.m{self.number}",
            "destination": f"prod.ml_team.m{self.number}",
        }
        for schema in schemas.values():
            self.workspace.add_schema(schema)
        if self.case != "a new model":
            self._make("model", versions=0 if self.case == "without versions" else 2)
        if self.case != "to a new model":
            self._make("destination", versions=1)

    def _make(self, role: str, versions: int) -> None:
        name, space = self.names[role], self.workspace.workspace
        model = space.catalog.create_model(space.admin, name, tags=[{"key": "old", "value": "1"}], comment="text")
        for number in range(1, versions + 1):
            tags = [{"key": "old", "value": "1"}]
            space.catalog.create_version(space.admin, name, tags=tags, source="dbfs:/x", comment="text")
            shutil.copytree(self.model, space.files.path(model.id, number, ""))
            space.catalog.finalize_version(space.admin, name, number)
        if versions:
            space.catalog.set_alias(space.admin, name, "Champion", 1)
            space.catalog.set_alias(space.admin, name, "Canary", versions)
            history = {"airflow_alias_history_Canary": " ".join(str(n) for n in range(1, versions + 1))}
            space.catalog.change_tags(space.admin, name, history, [])

    def snapshot(self) -> dict[str, Any]:
        """What is there now, without what differs from run to run."""
        found = {}
        for name, model in self.workspace.workspace.state.models.items():
            if not name.rpartition(".")[2].startswith(f"m{self.number}_") and name not in self.names.values():
                continue
            versions = {
                number: (v.status, v.comment, _told(v.tags), self._files(model.id, number))
                for number, v in sorted(model.versions.items())
            }
            short = name.replace(f".m{self.number}", ".m")
            found[short] = (model.comment, _told(model.tags), dict(sorted(model.aliases.items())), versions)
        return found

    def _files(self, model_id: str, number: int) -> dict[str, str]:
        folder = self.workspace.workspace.files.path(model_id, number, "")
        files = [file for file in folder.rglob("*") if file.is_file()]
        return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _told(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in sorted(tags.items()) if not key.startswith(_UNTOLD)}


def _one(scene: Scene, **options: Any) -> dict[str, Any]:
    return {"model_name": scene.names["model"], **options}


def _model(**options: Any) -> Callable[[Scene], dict[str, Any]]:
    return lambda scene: _one(scene, **options)


def _validation(**options: Any) -> Callable[[Scene], dict[str, Any]]:
    policy = PromotionPolicy(compatible_signature=True)
    return lambda scene: _one(
        scene, version=2, policy=policy, champion_model_name=scene.names["destination"], **options
    )


OPTIONS: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "CreateRegisteredModelOperator": _model(description="new"),
    "UpdateRegisteredModelOperator": _model(description="new"),
    "RenameRegisteredModelOperator": lambda s: _one(s, new_name=f"dev.ml_team.m{s.number}_renamed"),
    "DeleteRegisteredModelOperator": _model(),
    "GetRegisteredModelOperator": _model(),
    "SearchRegisteredModelsOperator": lambda _: {"schema": "dev.ml_team"},
    "RegisterModelOperator": lambda s: _one(s, model_uri=str(s.model), tags={"team": "fraud"}),
    "CopyModelVersionOperator": lambda s: _one(s, version=2, destination_model_name=s.names["destination"]),
    "DownloadModelVersionOperator": lambda s: _one(s, alias="Canary", destination=f"{s.scratch}/down{s.number}"),
    "GetModelVersionOperator": _model(alias="Canary"),
    "SearchModelVersionsOperator": _model(tags={"old": "1"}),
    "UpdateModelVersionOperator": _model(version=2, description="new"),
    "DeleteModelVersionOperator": _model(version=2, even_if_aliased=True),
    "SetRegisteredModelAliasOperator": _model(alias="Champion", version=2),
    "RollbackRegisteredModelAliasOperator": _model(alias="Canary"),
    "DeleteRegisteredModelAliasOperator": _model(alias="Canary"),
    "SetRegisteredModelTagsOperator": _model(tags={"new": "1"}),
    "DeleteRegisteredModelTagsOperator": _model(keys=["old"]),
    "SetModelVersionTagsOperator": _model(version=2, tags={"new": "1"}),
    "DeleteModelVersionTagsOperator": _model(version=2, keys=["old"]),
    "ApproveModelVersionOperator": _model(version=2),
    "SetModelVersionApprovalTagOperator": _model(version=2, tag="approval"),
    "ValidateModelVersionOperator": _validation(),
    "BranchOnModelValidationOperator": _validation(follow_if_approved="after_branch"),
    "ShortCircuitOnModelValidationOperator": _validation(),
    "BatchInferenceOperator": lambda s: {
        "model_uri": f"models:/{s.names['model']}@Canary",
        "input": f"{s.scratch}/in.parquet",
        "output": f"{s.scratch}/out{s.number}.parquet",
    },
    "PendingModelVersionsOperator": lambda scene: {"scope": scene.names["model"]},
    "ModelVersionSensor": _model(after_version=1),
    "ModelVersionTagSensor": _model(version=2, tag="old", value="1"),
    "RegisteredModelAliasSensor": _model(alias="Canary"),
    "RegisteredModelSensor": _model(),
}


class _Recording:
    """Keeps what a task raised: Airflow 3.1 does not give that to callbacks."""

    errors: dict[str, BaseException]
    seconds: dict[str, float]

    def execute(self, context: Any) -> Any:
        return self._recorded(context, lambda: super(_Recording, self).execute(context))  # type: ignore[misc]

    def resume_execution(self, next_method: str, next_kwargs: Any, context: Any) -> Any:
        resume = super().resume_execution  # type: ignore[misc]
        return self._recorded(context, lambda: resume(next_method, next_kwargs, context))

    def _recorded(self, context: Any, run: Callable[[], Any]) -> Any:
        began, task_id = time.monotonic(), context["ti"].task_id
        try:
            return run()
        except BaseException as error:
            self.errors[task_id] = error
            raise
        finally:
            self.seconds[task_id] = time.monotonic() - began


def make(
    task: str, scene: Scene, errors: dict[str, BaseException], seconds: dict[str, float] | None = None, **options: Any
) -> Any:
    """Define a task of this class on the scene; what it raises, and how long it takes, is kept by task id."""
    base = getattr(sensors if task.endswith("Sensor") else operators, task)
    kept = {"errors": errors, "seconds": {} if seconds is None else seconds}
    recording = type(f"Recording{task}", (_Recording, base), kept)
    made = recording(**{**OPTIONS[task](scene), **options})
    if isinstance(made, operators.PendingModelVersionsOperator):  # which wants to be followed by one that marks
        mark = operators.MarkModelVersionsHandledOperator(task_id=f"{made.task_id}_mark", pending=made.output)
        made >> EmptyOperator(task_id=f"{made.task_id}_work") >> mark
    return made


def defined(task: str, scene: Scene, **options: Any) -> Any:
    """Define a task of this class in a Dag, to be called directly, with what it wants to be followed by."""
    with DAG("direct"):
        made = make(task, scene, {}, task_id="task", **options)
        if task.startswith("Branch"):
            made >> EmptyOperator(task_id="after_branch")
    return made
