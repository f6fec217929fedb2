"""What tasks log at INFO: one line for each effect, with the names that somebody would search for, and nothing else."""

from __future__ import annotations

import logging
import re

import pandas as pd
import pytest
from support.contexts import context
from support.databricks import connection_json
from support.databricks_tasks import TASK_NAMES, Scene, defined
from support.models import save_model

from scripts.privileges import ROWS

# By task: what it logs, but for the end that all share. {m}, {d}: the names of the models; ...: what differs.
EFFECTS = {
    "CreateRegisteredModelOperator": ["Created registered model {m}"],
    "UpdateRegisteredModelOperator": ["Updated the description of registered model {m}"],
    "RenameRegisteredModelOperator": ["Renamed registered model {m} -> {m}_renamed"],
    "DeleteRegisteredModelOperator": ["Deleted registered model {m}"],
    "GetRegisteredModelOperator": ["Read registered model {m}"],
    "SearchRegisteredModelsOperator": ["Found ... registered models in dev.ml_team"],
    "RegisterModelOperator": ["Registered ... as version 1 of {m}"],
    "CopyModelVersionOperator": ["Copied models:/{m}/2 -> version 1 of {d}"],
    "DownloadModelVersionOperator": ["Downloaded version 2 of {m} -> ..."],
    "GetModelVersionOperator": ["Read version 2 of {m}"],
    "SearchModelVersionsOperator": ["Found 2 versions of {m}"],
    "UpdateModelVersionOperator": ["Updated the description of version 2 of {m}"],
    "DeleteModelVersionOperator": ["Deleted versions of {m}: 2"],
    "SetRegisteredModelAliasOperator": ["Set alias 'Champion' of {m}: version 1 -> 2"],
    "RollbackRegisteredModelAliasOperator": ["Set alias 'Canary' of {m}: version 2 -> 1"],
    "DeleteRegisteredModelAliasOperator": ["Deleted alias 'Canary' of {m}"],
    "SetRegisteredModelTagsOperator": ["Set tags of {m}: new='1'"],
    "DeleteRegisteredModelTagsOperator": ["Deleted tags of {m}: old"],
    "SetModelVersionTagsOperator": ["Set tags of {m}/2: new='1'"],
    "DeleteModelVersionTagsOperator": ["Deleted tags of {m}/2: old"],
    "SetModelVersionApprovalTagOperator": ["Set tags of {m}/2: approval='Approved'"],
    "ValidateModelVersionOperator": ["Approved {m}/2 against champion {d}/1"],
    "BranchOnModelValidationOperator": ["Approved {m}/2 against champion {d}/1"],
    "ShortCircuitOnModelValidationOperator": ["Approved {m}/2 against champion {d}/1"],
    "BatchInferenceOperator": [
        "Scoring ... with models:/{m}/2",
        "Loading ...",
        "Wrote 1 rows -> ..., by models:/{m}/2",
    ],
    "PendingModelVersionsOperator": ["Found 2 pending versions: {m}/1, {m}/2"],
    "ModelVersionSensor": ["Found models:/{m}/2, as waited for"],
    "ModelVersionTagSensor": ["Found models:/{m}/2, as waited for"],
    "RegisteredModelAliasSensor": ["Found models:/{m}/2, as waited for"],
    "RegisteredModelSensor": ["Found models:/{m}, as waited for"],
}
# What Airflow's base classes say of themselves.
AIRFLOWS_OWN = ("Success criteria met", "Branch into", "Following branch", "Skipping tasks")
# These need a running Airflow, see test_approval.py and test_pending.py.
ELSEWHERE = {"ApproveModelVersionOperator", "MarkModelVersionsHandledOperator"}

ROW = {row.task: row for row in reversed(ROWS)}  # of several, the first


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model")


def test_every_task_is_tried() -> None:
    assert set(EFFECTS) | ELSEWHERE == TASK_NAMES


def logged(output, records):
    """What a task logged at INFO: Airflow's loggers print, those of modules are records, printed or not."""
    lines = re.findall(r"^\S+ \[info *\] (.*)$", output, re.MULTILINE)
    printed = [
        re.split(r" +\[[\w.]+\](?: |$)", line)[0].rstrip() for line in lines if "[airflow_uc_models." not in line
    ]
    return [*printed, *(r.getMessage() for r in records if r.levelno == logging.INFO)]


def matches(line, wanted, scene):
    names = {"{m}": scene.names["model"], "{d}": scene.names["destination"], "...": ".*"}
    pattern = re.sub(
        r"\\{m\\}|\\{d\\}|\\\.\\\.\\\.", lambda found: names[found[0].replace("\\", "")], re.escape(wanted)
    )
    return re.fullmatch(pattern if wanted.startswith("Loading") else f"{pattern}, on connection 'ws'", line)


@pytest.mark.parametrize("task", sorted(EFFECTS))
def test_a_task_logs_one_line_for_each_effect(workspace, monkeypatch, model, tmp_path, capfd, caplog, task):
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace))
    pd.DataFrame([[0.1] * 4], columns=[f"f{i}" for i in range(4)]).to_parquet(tmp_path / "in.parquet")
    scene = Scene(workspace, 7, ROW[task].case, model, tmp_path)
    made = defined(task, scene, registry_conn_id="ws")
    capfd.readouterr()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        made.execute(context(made))
    lines = logged(capfd.readouterr().out, caplog.records)
    wanted = EFFECTS[task]
    ours = [line for line in lines if not line.startswith(AIRFLOWS_OWN)]
    assert len(ours) == len(wanted), lines
    assert all(any(matches(line, text, scene) for line in ours) for text in wanted), lines
