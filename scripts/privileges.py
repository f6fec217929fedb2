"""The privileges that each task needs in Unity Catalog; ``python -m scripts.privileges`` writes docs/privileges.md.

The tests run every row: with exactly these privileges the task succeeds, without any one of them it fails once.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "privileges.md"
USE = (("USE CATALOG", 1), ("USE SCHEMA", 2))


@dataclass(frozen=True)
class Row:
    """What a task needs besides USE CATALOG and USE SCHEMA around each securable.

    :param task: the class
    :param case: when these are needed; empty for always
    :param grants: privilege and securable: ``model``, ``destination`` (or the champion's), or the schema of either
    :param filters: without a privilege the result is smaller; the task does not fail
    """

    task: str
    case: str
    grants: tuple[tuple[str, str], ...]
    filters: bool = False

    def on(self, names: dict[str, str]) -> list[tuple[str, str]]:
        """Return all privileges, outermost first, with the names of the securables."""
        found = dict.fromkeys(
            (privilege, ".".join(names[role].split(".")[:levels]))
            for privilege, levels in USE
            for _, role in self.grants
        )
        return [*found, *((privilege, names[role]) for privilege, role in self.grants)]


_READ = (("EXECUTE", "model"),)
_CHANGE = (*_READ, ("MANAGE", "model"))
_TAG = (*_READ, ("APPLY TAG", "model"))
_CREATE = (("CREATE MODEL", "schema"),)
_ADD = (("CREATE MODEL VERSION", "model"), ("APPLY TAG", "model"))
_VALIDATE = (*_TAG, ("EXECUTE", "destination"))

ROWS = (
    Row("CreateRegisteredModelOperator", "a new model", _CREATE),
    Row("CreateRegisteredModelOperator", "a model of that name exists", (*_CREATE, *_READ)),
    Row("UpdateRegisteredModelOperator", "", _CHANGE),
    Row("RenameRegisteredModelOperator", "", (*_CHANGE, *_CREATE)),
    Row("DeleteRegisteredModelOperator", "without versions", (("MANAGE", "model"),)),
    Row("DeleteRegisteredModelOperator", "with versions", _CHANGE),
    Row("GetRegisteredModelOperator", "", _READ),
    Row("SearchRegisteredModelsOperator", "", _READ, filters=True),
    Row("RegisterModelOperator", "a new model", _CREATE),
    Row("RegisterModelOperator", "another version", (*_READ, *_ADD)),
    Row("CopyModelVersionOperator", "to a new model", (*_READ, ("CREATE MODEL", "destination schema"))),
    Row(
        "CopyModelVersionOperator",
        "another version",
        (*_READ, *((privilege, "destination") for privilege in ("EXECUTE", "CREATE MODEL VERSION", "APPLY TAG"))),
    ),
    Row("DownloadModelVersionOperator", "", _READ),
    Row("GetModelVersionOperator", "", _READ),
    Row("SearchModelVersionsOperator", "", _READ),
    Row("UpdateModelVersionOperator", "", _CHANGE),
    Row("DeleteModelVersionOperator", "", _CHANGE),
    Row("SetRegisteredModelAliasOperator", "", _CHANGE),
    Row("RollbackRegisteredModelAliasOperator", "", _CHANGE),
    Row("DeleteRegisteredModelAliasOperator", "", _CHANGE),
    Row("SetRegisteredModelTagsOperator", "", _TAG),
    Row("DeleteRegisteredModelTagsOperator", "", _TAG),
    Row("SetModelVersionTagsOperator", "", _TAG),
    Row("DeleteModelVersionTagsOperator", "", _TAG),
    Row("ApproveModelVersionOperator", "", _TAG),
    Row("SetModelVersionApprovalTagOperator", "", _TAG),
    Row("ValidateModelVersionOperator", "the champion is of another model", _VALIDATE),
    Row("BranchOnModelValidationOperator", "the champion is of another model", _VALIDATE),
    Row("ShortCircuitOnModelValidationOperator", "the champion is of another model", _VALIDATE),
    Row("BatchInferenceOperator", "", _READ),
    Row("PendingModelVersionsOperator", "", _READ),
    Row("ModelVersionSensor", "", _READ),
    Row("ModelVersionTagSensor", "", _READ),
    Row("RegisteredModelAliasSensor", "", _READ),
    Row("RegisteredModelSensor", "", _READ),
)

_HEAD = """\
# Privileges

What the principal of a connection needs, per operator and sensor. The Unity Catalog columns are tested row by row:
with exactly these privileges the task succeeds, and without any one of them it fails at once, without retries, with
a message that names the privilege and the securable. This page is made by `python -m scripts.privileges`.

## Unity Catalog on Databricks

Every row also needs USE CATALOG on the catalog and USE SCHEMA on the schema of each model that it names. A privilege
that is granted on a schema or catalog holds for all models in it.

| Task | When | Privileges |
|---|---|---|
"""
_NOTES = """
What may stand in for what:

* The owner of a model needs none of the privileges on it, only USE CATALOG and USE SCHEMA. Whoever creates a model
  owns it, so later versions made by the same principal need no further grant.
* MANAGE stands in for CREATE MODEL VERSION and APPLY TAG, but not for EXECUTE: whoever manages a model need not be
  allowed to read it. Tasks that change a model also read it, hence EXECUTE beside MANAGE. Update, rename and set
  tags of a registered model read it after the change: without EXECUTE they fail with the change made.
* APPLY TAG does not come with CREATE MODEL VERSION. Register and copy put the tag `airflow_task_key` on the version,
  by which a retry finds it. Governed tags need ASSIGN on the tag as well.
* CREATE FUNCTION on the schema stands in for CREATE MODEL. ALL PRIVILEGES holds everything but MANAGE.
* A copy with `destination_conn_id` uses two principals: that of `registry_conn_id` needs what is said of the source,
  that of `destination_conn_id` what is said of the destination.
* SearchRegisteredModelsOperator lists the models that the principal may read, or owns or manages.
* Without MANAGE or ownership, a register or copy whose upload failed cannot delete the version that it began. It stays
  PENDING_REGISTRATION, which no alias, sensor or serving takes, until someone who may deletes it; the task says so.
* MarkModelVersionsHandledOperator has no row: it does not talk to the registry.
* Sensors need the same in the triggerer, which reads the same connection. RegisteredModelSensor with `schema` does not
  see models that the principal may not read.
* Metrics for validation come from runs: the principal needs CAN READ on their experiment in the workspace, too.
* Grants of CREATE MODEL VERSION, EXECUTE and the like on a model are made on a FUNCTION:
  `GRANT EXECUTE ON FUNCTION prod.ml_team.fraud TO ...`.

## Other registries

An MLflow server asks for permissions where its basic-auth app runs, and for none without it. An open-source Unity
Catalog server asks for the privileges of Unity Catalog where authorization is on, but for ownership of the model
instead of MANAGE and CREATE MODEL VERSION.

| Task | MLflow server with basic auth |
|---|---|
"""
_ROLES = {
    "model": "the model",
    "schema": "its schema",
    "destination": "the destination",
    "destination schema": "the destination's schema",
}


def page() -> str:
    """Return the text of docs/privileges.md."""
    rows = [f"| {row.task} | {row.case or 'always'} | {_privileges(row)} |" for row in ROWS]
    basic = [f"| {task} | {_basic_auth(task)} |" for task in dict.fromkeys(row.task for row in ROWS)]
    return _HEAD + "\n".join(rows) + "\n" + _NOTES + "\n".join(basic) + "\n"


def _privileges(row: Row) -> str:
    roles = dict(_ROLES)
    if row.task.startswith("Copy"):
        roles["model"] = "the source"
    if "champion" in row.case:
        roles |= {"model": "the candidate's model", "destination": "the champion's model"}
    if row.filters:
        roles["model"] = "each model to be listed; others are left out"
    return ", ".join(f"{privilege} on {roles[role]}" for privilege, role in row.grants)


def _basic_auth(task: str) -> str:
    """Return what the docstring of a task says."""
    package = "sensors" if task.endswith("Sensor") else "operators"
    text = inspect.cleandoc(getattr(importlib.import_module(f"airflow_uc_models.{package}"), task).__doc__ or "")
    said = re.search(r"^Privileges:(.*?)^Registries:", text, re.MULTILINE | re.DOTALL)
    words = " ".join(said[1].split()) if said else ""
    own = re.search(r"MLflow basic auth: (.*)\.$", words)
    return own[1] if own else words.rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
