"""The example Dags: they load without errors and cheaply, have the shape that their docstrings draw, and run.

How they run under the real scheduler and triggerer, with the whole story, is in test_demo.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

try:
    from airflow.sdk.exceptions import ParamValidationError
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import ParamValidationError

from airflow_uc_models.emulator import Emulator, Settings

DAGS = Path(__file__).parents[2] / "dags"
TRAIN, ROLLBACK, SENSOR = (
    "example_train_validate_promote_infer",
    "example_rollback",
    "example_new_version_sensor",
)
EDGES = {
    TRAIN: {
        "train": {"register"},
        "register": {"validate", "copy_to_staging"},
        "validate": {"copy_to_staging", "keep_champion"},
        "copy_to_staging": {"copy_to_prod"},
        "copy_to_prod": {"set_champion", "note_promotion"},
        "set_champion": {"note_promotion"},
        "note_promotion": {"score"},
        "keep_champion": {"score"},
        "score": set(),
    },
    ROLLBACK: {
        "roll_back": {"read_back", "verify", "note_reason"},
        "read_back": {"verify"},
        "verify": {"note_reason"},
        "note_reason": set(),
    },
    SENSOR: {"wait_for_version": {"review", "note_review"}, "review": {"note_review"}, "note_review": set()},
}


@pytest.fixture(scope="module")
def dag_bag(load_dags):
    return load_dags(DAGS)


@pytest.fixture
def run_example(dag_bag, dag_runner, connection, tmp_path):
    """Run an example Dag once, on a schema of this test's own."""
    from support.dag_runs import Result

    schema = f"s{uuid.uuid4().hex[:8]}"

    def run(dag_id, **params):
        dag = dag_bag.dags[dag_id]
        dag_runner.sync(dag)
        conf = {"registry_conn_id": connection, "schema": schema, **params}
        if dag_id == TRAIN:
            conf["data_folder"] = str(tmp_path)
        return Result(dag.test(run_conf=conf), "")

    run.model = lambda catalog: f"{catalog}.{schema}.breast_cancer"
    return run


def test_all_load_without_errors(dag_bag):
    """Those that watchers start, and those that wait for approval, have tests of their own."""
    assert dag_bag.import_errors == {}
    watching = ("example_asset_watcher", "example_webhook_", "example_manual_approval")
    assert {dag_id for dag_id in dag_bag.dags if not dag_id.startswith(watching)} == set(EDGES)


@pytest.mark.parametrize("dag_id", EDGES)
def test_shape(dag_bag, dag_id):
    dag = dag_bag.dags[dag_id]
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == EDGES[dag_id]
    assert dag.doc_md
    assert dag.description


@pytest.mark.parametrize("dag_id", EDGES)
def test_params_name_every_place(dag_bag, dag_id):
    params = dag_bag.dags[dag_id].params
    assert {"registry_conn_id", "schema", "model"} <= set(params)
    text = (DAGS / f"{dag_id}.py").read_text()
    for name in params:
        assert f"params.{name}" in text or f'"{name}"' in text.split("default_args")[1], f"{name} is not used"


def test_every_param_says_what_it_is(dag_bag):
    params = [(dag_id, *item) for dag_id, dag in dag_bag.dags.items() for item in dag.params.items()]
    silent = [
        (dag_id, name) for dag_id, name, _ in params if not dag_bag.dags[dag_id].params.get_param(name).description
    ]
    assert params
    assert silent == []


def test_the_main_example_tells_dags_that_wait_for_its_models(dag_bag):
    outlets = {t.task_id: [o.name for o in t.outlets] for t in dag_bag.dags[TRAIN].tasks if t.outlets}
    assert outlets == {"register": ["example_candidate"], "set_champion": ["example_champion"]}


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.stem)
def test_doc_slices_are_closed(path):
    lines = [line.strip() for line in path.read_text().splitlines()]
    starts = [line.removeprefix("# [START ") for line in lines if line.startswith("# [START ")]
    ends = [line.removeprefix("# [END ") for line in lines if line.startswith("# [END ")]
    assert starts
    assert starts == ends


def test_parsing_imports_nothing_heavy():
    code = (
        "import json, runpy, sys; before = set(sys.modules)\n"
        f"for dag in {[str(path) for path in sorted(DAGS.glob('*.py'))]}: runpy.run_path(dag)\n"
        "heavy = ('mlflow', 'databricks', 'pandas', 'pyarrow', 'numpy', 'sklearn')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_a_refused_first_model_leaves_nothing_to_score_with(run_example, mlflow_server):
    result = run_example(TRAIN, n_estimators=1, max_depth=1)

    assert result.state == "success"
    states = {task_id: result.task_state(task_id) for task_id in EDGES[TRAIN]}
    assert states == {
        **dict.fromkeys(("train", "register", "validate", "keep_champion"), "success"),
        **dict.fromkeys(("copy_to_staging", "copy_to_prod", "set_champion", "note_promotion", "score"), "skipped"),
    }
    client = mlflow_server.client()
    assert client.get_model_version(run_example.model("dev"), "1").tags["validation_status"] == "rejected"
    assert client.search_model_versions(f"name='{run_example.model('prod')}'") == []


def test_a_promotion_says_who_made_it_and_why(run_example, mlflow_server, tmp_path):
    import pyarrow.parquet

    result = run_example(TRAIN, n_estimators=10, max_depth=2)

    assert result.state == "success"
    champion = mlflow_server.client().get_model_version_by_alias(run_example.model("prod"), "Champion")
    assert champion.tags["promoted_by"] == TRAIN
    assert champion.tags["promoted_in_run"] == result.dag_run.run_id
    assert "roc_auc 0.98" in champion.tags["promoted_because"]
    table = pyarrow.parquet.read_table(tmp_path / result.dag_run.run_id / "predictions.parquet")
    assert table.num_rows == 228
    assert set(table["prediction"].to_pylist()) == {0, 1}


def test_a_champion_moved_since_the_validation_is_not_overwritten(run_example, mlflow_server, dag_bag, monkeypatch):
    """Somebody sets another champion by hand between the verdict and the move."""
    run_example(TRAIN, n_estimators=10, max_depth=2)
    client = mlflow_server.client()
    prod = run_example.model("prod")

    def set_by_hand(context):
        by_hand = client.create_model_version(prod, client.get_model_version(prod, "1").source)
        client.set_registered_model_alias(prod, "Champion", by_hand.version)

    monkeypatch.setattr(dag_bag.dags[TRAIN].get_task("set_champion"), "on_execute_callback", [set_by_hand])
    result = run_example(TRAIN, n_estimators=100, max_depth=8)

    assert result.state == "failed"
    assert result.task_state("set_champion") == "failed"
    assert int(client.get_model_version_by_alias(prod, "Champion").version) == 3


def test_a_rollback_wants_a_reason(run_example):
    with pytest.raises((ParamValidationError, ValueError), match="reason"):  # a ValueError on Airflow 3.2
        run_example(ROLLBACK)


def test_a_rollback_goes_back_and_notes_the_reason(run_example, mlflow_server):
    for trees, depth in ((10, 2), (100, 8)):
        assert run_example(TRAIN, n_estimators=trees, max_depth=depth).state == "success"

    result = run_example(ROLLBACK, reason="too many false alarms")

    assert result.state == "success"
    client, prod = mlflow_server.client(), run_example.model("prod")
    assert int(client.get_model_version_by_alias(prod, "Champion").version) == 1
    assert client.get_model_version(prod, "2").tags["rolled_back_because"] == "too many false alarms"
    assert client.get_model_version(prod, "2").tags["rolled_back_in_run"] == result.dag_run.run_id


def test_the_sensor_hands_each_version_on(run_example, mlflow_server):
    client, dev = mlflow_server.client(), run_example.model("dev")
    run_example(TRAIN, n_estimators=1, max_depth=1)

    result = run_example(SENSOR)

    assert result.state == "success"
    assert result.xcom("review")["roc_auc"] < 0.9
    assert client.get_model_version(dev, "1").tags["reviewed_in_run"] == result.dag_run.run_id


def test_all_three_over_a_databricks_connection(run_example, mlflow_server, monkeypatch):
    """The same files, on Models in Unity Catalog; runs and logged models are the workspace's own."""
    from airflow_uc_models.hooks.model_registry import ModelRegistryHook

    with Emulator(Settings(tracking_uri=mlflow_server.url)) as workspace:
        monkeypatch.setenv("AIRFLOW_CONN_WORKSPACE", workspace.connection_json())
        on = {"registry_conn_id": "workspace"}
        for trees, depth in ((10, 2), (100, 8)):
            assert run_example(TRAIN, n_estimators=trees, max_depth=depth, **on).state == "success"
        seen = run_example(SENSOR, **on)
        rolled_back = run_example(ROLLBACK, reason="too many false alarms", **on)
        assert (seen.state, rolled_back.state) == ("success", "success")

        hook, prod = ModelRegistryHook("workspace"), run_example.model("prod")
        champion = hook.run(hook.registry.get_model_version_by_alias(prod, "Champion"))
        assert champion.version == 1
        assert champion.tags["promoted_by"] == TRAIN
        second = hook.run(hook.registry.get_model_version(prod, 2))
        assert second.tags["rolled_back_because"] == "too many false alarms"
        reviewed = hook.run(hook.registry.get_model_version(run_example.model("dev"), 2))
        assert reviewed.tags["reviewed_by"] == SENSOR
        assert seen.xcom("review")["roc_auc"] > 0.99


def test_the_sensor_keeps_listening(dag_bag):
    """Two runs must not share a logical date: then Airflow would start no second one."""
    dag = dag_bag.dags[SENSOR]
    assert dag.max_active_runs == 1
    assert dag.start_date is not None
    assert dag.get_task("wait_for_version").deferrable
    assert dag.get_task("wait_for_version").soft_fail
