"""The Dags of the README do what it says of them, run by Airflow's task runner on a real registry."""

from __future__ import annotations

import uuid

import pandas as pd
import pytest
from support.approvals import answering
from support.dag_runs import Result
from support.databricks import connection_json
from support.guides import README, blocks
from support.models import add_version, log_model
from support.trials import COLUMNS, LABEL, log_example_model, rows

PROMOTE, REVIEW, RELEASE = (block for block in blocks(README.read_text(), "python") if "DAG(" in block)


@pytest.fixture
def schema():
    """A schema of this test's own, as the servers are shared; the README's is `ml_team`."""
    return f"s{uuid.uuid4().hex[:8]}"


@pytest.fixture
def run_block(load_dags, dag_runner, tmp_path, schema, mlflow_server, workspace, monkeypatch):
    """Run the Dag of a block once; its data are files of this test."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_server.connection_json())
    monkeypatch.setenv("AIRFLOW_CONN_DATABRICKS_DEFAULT", connection_json(workspace))
    (tmp_path / "dags").mkdir()
    (tmp_path / "data").mkdir()

    def run(block):
        written = block.replace("ml_team", schema).replace('"/data/', f'"{tmp_path}/data/')
        (tmp_path / "dags" / "shown.py").write_text(written)
        bag = load_dags(tmp_path / "dags")
        assert bag.import_errors == {}
        [dag] = bag.dags.values()
        dag_runner.sync(dag)
        return Result(dag.test())

    return run


def test_first_dag_promotes_the_version_it_waited_for(run_block, mlflow_server, schema):
    add_version(mlflow_server, f"dev.{schema}.fraud", log_model(mlflow_server, metrics={"auc": 0.9}))
    result = run_block(PROMOTE)
    assert result.state == "success"
    champion = mlflow_server.client().get_model_version_by_alias(f"prod.{schema}.fraud", "Champion")
    assert champion.version == "1"


def test_first_dag_refuses_what_the_policy_refuses(run_block, mlflow_server, schema):
    add_version(mlflow_server, f"dev.{schema}.fraud", log_model(mlflow_server, metrics={"auc": 0.7}))
    assert run_block(PROMOTE).state == "failed"
    assert mlflow_server.client().search_registered_models(f"name='prod.{schema}.fraud'") == []


def test_versions_are_reviewed_once_each(run_block, workspace, schema, capfd):
    workspace.add_schema(f"prod.{schema}")
    space = workspace.workspace
    space.catalog.create_model(space.admin, f"prod.{schema}.fraud")
    for _ in range(2):
        space.catalog.create_version(space.admin, f"prod.{schema}.fraud", source="dbfs:/x", tags=[]).status = "READY"
    reviewed = []
    for _ in range(2):
        capfd.readouterr()
        assert run_block(REVIEW).state == "success"
        lines = "".join(capfd.readouterr()).splitlines()
        reviewed.append(
            [number for number in (1, 2, 3) if any(f"fraud/{number}" in line and "new:" in line for line in lines)]
        )
        space.catalog.create_version(space.admin, f"prod.{schema}.fraud", source="dbfs:/x", tags=[]).status = "READY"
    assert reviewed == [[1, 2], [3]]


def test_release_asks_promotes_and_scores(run_block, mlflow_server, schema, tmp_path):
    add_version(mlflow_server, f"dev.{schema}.fraud", log_example_model(mlflow_server), {"reviewed_by": "ann"})
    judged = rows().rename(columns={LABEL: "is_fraud"})
    judged.to_parquet(tmp_path / "data" / "test.parquet")
    (tmp_path / "data" / "new").mkdir()
    judged[COLUMNS].to_parquet(tmp_path / "data" / "new" / "part.parquet")

    with answering("Approve") as asked:
        result = run_block(RELEASE)

    assert result.state == "success"
    assert len(asked) == 1
    champion = mlflow_server.client().get_model_version_by_alias(f"prod.{schema}.fraud", "Champion")
    assert champion.tags["approved_by"] == "ann"
    scored = pd.read_parquet(tmp_path / "data" / "scored.parquet")
    assert len(scored) == len(judged)
    assert {"prediction", "model_version"} <= set(scored.columns)
