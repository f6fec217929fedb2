"""Approvals on a real MLflow server: what the approver sees, and what each answer leaves behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, Param
from airflow.sdk.definitions.context import Context
from support.approvals import ANN, answering
from support.proxy import Fault
from support.registry import make_versions

from airflow_uc_models.emulator import Emulator, Settings
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.run_pages import run_page
from airflow_uc_models.operators import (
    ApproveModelVersionOperator,
    SetModelVersionApprovalTagOperator,
    ValidateModelVersionOperator,
)
from airflow_uc_models.policies import MetricRule, PromotionPolicy
from airflow_uc_models.registry.approval import note_approval
from airflow_uc_models.sensors import ModelVersionTagSensor

POLICY = PromotionPolicy(
    metrics=[MetricRule("accuracy", min=0.9, min_gain=0)], require_signature=False, compatible_signature=False
)


@pytest.fixture
def client(mlflow_server, model_name):
    """Two versions with metrics; the first is the champion."""
    client = mlflow_server.client()
    client.create_registered_model(model_name)
    experiment = client.create_experiment(f"approval-{model_name}")
    for accuracy in (0.8125, 0.92):
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "accuracy", accuracy)
        client.create_model_version(model_name, f"runs:/{run}/model", run_id=run, description="a | b\n<b>c</b>")
    client.set_registered_model_alias(model_name, "Champion", "1")
    return client


@pytest.fixture
def approve(dag_runner, connection, model_name):
    """Run an approval of version 2, and after it the task promote."""

    def run(*, validated=False, params=None, **options):
        def define():
            common = {"model_name": model_name, "registry_conn_id": connection, "version": 2}
            asking = ApproveModelVersionOperator(task_id="approve", **{**common, "retries": 2, **options})
            if validated:
                judged = ValidateModelVersionOperator(task_id="validate", policy=POLICY, **common)
                asking.verdict = judged.output["verdict"]
                judged >> asking
            asking >> EmptyOperator(task_id="promote")

        return dag_runner.run(define, params=params)

    return run


def approval_tags(client, name, version=2):
    tags = client.get_model_version(name, str(version)).tags
    return {key: value for key, value in tags.items() if key.startswith(("appro", "reject"))}


def test_the_approver_sees_what_is_known_and_is_named_on_the_version(approve, client, model_name, mlflow_server):
    client.set_model_version_tag(model_name, "2", "rejected_by", "bob")  # of an earlier answer
    before = datetime.now(UTC) - timedelta(seconds=1)
    with answering("Approve") as asked:
        result = approve(validated=True, params={"reason": Param(type="string", default="x")}, body="Please look.")
    [request] = asked
    assert request["subject"] == f"Approve {model_name} version 2?"
    assert (request["options"], request["defaults"], request["params"]) == (["Approve", "Reject"], None, {})
    run = client.get_model_version(model_name, "2").run_id
    page = f"{mlflow_server.url}/#"
    experiment = client.get_run(run).info.experiment_id
    path = result.xcom("validate")["report"].removeprefix(f"runs:/{run}/")
    report = f"{page}/experiments/{experiment}/runs/{run}/artifacts/{path}"
    version_page = f"{page}/models/{model_name}/versions/2"
    escaped = model_name.replace("_", r"\_")
    assert request["body"].splitlines() == [
        "Please look.",
        "",
        f"| Model | {escaped} |",
        "| --- | --- |",
        "| Version | 2 |",
        r"| Description | a \| b \<b\>c\</b\> |",
        "| Verdict | **approved** |",
        f"| Champion | {escaped} version 1 |",
        f"| Links | [report](<{report}>), [model version](<{version_page}>), [run](<{page}/runs/{run}>) |",
        "",
        "| Metric | Candidate | Champion |",
        "| --- | --- | --- |",
        "| accuracy | 0.92 | 0.8125 |",
        "",
        "| Check | Rule | Reason |",
        "| --- | --- | --- |",
        r"| passed | accuracy \>= 0.9 | accuracy 0.92, required \>= 0.9 |",
        *request["body"].splitlines()[-1:],
    ]
    assert request["body"].splitlines()[-1].startswith(r"| passed | accuracy gain \>= 0 |")

    assert (result.state, result.task_state("promote")) == ("success", "success")
    said = result.xcom("approve")
    assert said == {
        "name": model_name,
        "version": 2,
        "approved": True,
        "approval_status": "approved",
        "by": "ann",
        "by_id": "7",
        "at": said["at"],
        "timed_out": False,
    }
    assert before <= datetime.fromisoformat(said["at"]) <= datetime.now(UTC)
    assert said["at"].endswith("+00:00")
    assert approval_tags(client, model_name) == {
        "approval_status": "approved",
        "approved_by": "ann",
        "approved_at": said["at"],
    }
    assert result.xcom("approve", key="model_version_url").endswith("/versions/2")


@pytest.mark.parametrize(
    ("answer", "options", "by", "states"),
    [
        ("Reject", {}, "ann", ("failed", "failed", "upstream_failed")),
        (None, {"response_timeout": timedelta(minutes=5)}, "time-out", ("failed", "failed", "upstream_failed")),
        ("Reject", {"fail_on_reject": False}, "ann", ("success", "success", "skipped")),
    ],
    ids=["rejected", "timed out", "skipping"],
)
def test_a_rejection_is_noted_and_stops_what_comes_next(approve, client, model_name, answer, options, by, states):
    client.set_model_version_tag(model_name, "2", "approved_by", "bob")
    with answering(answer) as asked:
        result = approve(**options)
    assert ("Answer by" in asked[0]["body"]) == ("response_timeout" in options)
    assert result.output.count(f" for an approval of version 2 of {model_name}, on connection ") == 1
    assert result.output.count(f"Rejected version 2 of {model_name}: by {by} at ") == 1
    assert (result.state, result.task_state("approve"), result.task_state("promote")) == states
    assert result.ti("approve").try_number == 1
    said = result.xcom("approve")
    assert (said["approved"], said["by"], said["timed_out"]) == (False, by, answer is None)
    tags = {"approval_status": "rejected", "rejected_by": by, "rejected_at": said["at"]}
    assert approval_tags(client, model_name) == tags
    if states[0] == "failed":
        assert f"{model_name}/2 was rejected by {by}" in result.output


def test_while_it_waits_the_version_is_pending(approve, client, model_name):
    client.set_model_version_tag(model_name, "2", "approval_status", "approved")
    client.set_model_version_tag(model_name, "2", "approved_by", "bob")
    seen = []
    with answering("Approve", before=lambda: seen.append(approval_tags(client, model_name))):
        approve(assigned_users=[ANN], outlets=[Asset("x")])
    assert seen == [{"approval_status": "pending"}]


KEEPS_STATE = pytest.mark.skipif(
    "task_state_store" not in Context.__annotations__, reason="Airflow keeps no state before 3.3"
)


@KEEPS_STATE
def test_an_answer_that_could_not_be_written_is_not_asked_for_again(approve, client, model_name, proxy, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_FAULTY", proxy.connection_json(max_retry_seconds=0.1))
    down = Fault(lambda r: r.body and r.body.get("key") == "approved_by", times=2)
    proxy.faults.append(down)
    with answering("Approve") as asked:
        result = approve(registry_conn_id="faulty", retry_delay=timedelta(0))
    assert len(asked) == 1
    assert result.ti("approve").try_number > 1
    assert approval_tags(client, model_name)["approved_by"] == "ann"
    assert down.seen.is_set()


def test_whoever_reads_in_between_sees_no_approval_too_much(client, model_name, proxy, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())
    hook = ModelRegistryHook("through")
    for status in ("pending", "approved", "rejected"):
        answer = {} if status == "pending" else {f"{status}_by": "ann", f"{status}_at": "now"}
        hook.run(note_approval(hook.registry, model_name, 2, status, answer))
    written = [
        (r.method, r.body["key"], r.body.get("value")) for r in proxy.take() if "/model-versions/get" not in r.path
    ]
    assert written == [
        ("POST", "approval_status", "pending"),
        ("POST", "approved_by", "ann"),
        ("POST", "approved_at", "now"),
        ("POST", "approval_status", "approved"),  # the last
        ("POST", "approval_status", "rejected"),  # the first
        ("POST", "rejected_by", "ann"),
        ("POST", "rejected_at", "now"),
        ("DELETE", "approved_by", None),
        ("DELETE", "approved_at", None),
    ]


@KEEPS_STATE
@pytest.mark.parametrize(("version", "cleared"), [(9, False), (2, True)])
def test_an_answer_to_another_question_approves_nothing(approve, client, model_name, version, cleared):
    """What a try kept, Airflow keeps beyond a clear; by then the version may be another one."""

    def before(context):
        kept = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": ANN}
        at = {"responded_at": datetime.now(UTC).isoformat()}
        tries = context["ti"].max_tries - cleared
        made = client.get_model_version(model_name, "2").creation_timestamp
        asked = {"asked": f"{model_name}/{version} {made} {tries}"}
        context["task_state_store"].set("uc_models_approval", kept | at | asked)

    with answering("Reject") as asked:
        result = approve(on_execute_callback=before)
    assert (len(asked), result.task_state("promote")) == (1, "upstream_failed")
    assert approval_tags(client, model_name)["approval_status"] == "rejected"


def test_an_answer_is_not_written_onto_another_version_of_that_number(approve, client, model_name):
    def remake():
        client.delete_registered_model(model_name)
        client.create_registered_model(model_name)
        for _ in range(2):
            client.create_model_version(model_name, "s3://bucket/other")

    with answering("Approve", before=remake):
        result = approve()
    assert (result.task_state("approve"), result.task_state("promote")) == ("failed", "upstream_failed")
    assert f"{model_name}/2 is not the version that was judged" in result.output
    assert approval_tags(client, model_name) == {}


def test_each_of_many_is_asked_for(dag_runner, connection, client, model_name):
    def define():
        asking = ApproveModelVersionOperator.partial(
            task_id="approve", model_name=model_name, registry_conn_id=connection, fail_on_reject=False
        ).expand(version=[1, 2])
        asking >> EmptyOperator(task_id="promote")

    with answering("Approve", "Reject") as asked:
        result = dag_runner.run(define)
    assert sorted(item["map_index"] for item in asked) == [0, 1]
    statuses = {approval_tags(client, model_name, version)["approval_status"] for version in (1, 2)}
    assert statuses == {"approved", "rejected"}
    assert result.task_state("promote") == "skipped"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 9}, "404 RESOURCE_DOES_NOT_EXIST"),
        ({"version": "newest"}, "newest"),
        ({"assigned_users": []}, "assigned_users is empty, and so anybody could answer"),
        ({"verdict": "{'approved': True}"}, "a template turns it into text"),
        ({"verdict": {"name": "a.b.c", "version": 2}}, "The verdict is on a.b.c/2"),
        ({"verdict": {"name": "", "version": 2, "created_at": 1}}, "/2 is not the version that was judged"),
    ],
)
def test_mistakes_are_found_before_anybody_is_asked(approve, client, model_name, options, message):
    if options.get("verdict", {}) and "created_at" in options["verdict"]:
        options = {"verdict": {**options["verdict"], "name": model_name}}
    with answering() as asked:
        result = approve(**options)
    assert (result.state, result.ti("approve").try_number, asked) == ("failed", 1, [])
    assert message in result.output


@pytest.mark.parametrize("wait", [0, -1, timedelta(0)])
def test_no_time_to_answer_is_no_time_out(wait):
    """Airflow would take 0 for ever."""
    with pytest.raises(InvalidArgumentError, match="response_timeout is how long to wait for an answer, above 0"):
        ApproveModelVersionOperator(task_id="a", model_name="a.b.c", version=1, response_timeout=wait)


def test_databricks_convention(dag_runner, connection, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)
    common = {"model_name": model_name, "registry_conn_id": connection}
    wait = {"tag": "Approval_Check", "value": "Approved", "failed_value": "Rejected", "timeout": 30, **common}

    def define():
        put = SetModelVersionApprovalTagOperator(task_id="put", version=1, tag="Approval_Check", **common)
        refuse = SetModelVersionApprovalTagOperator(
            task_id="refuse", version=2, tag="Approval_Check", value="Rejected", **common
        )
        put >> ModelVersionTagSensor(task_id="one", version=1, **wait)
        refuse >> ModelVersionTagSensor(task_id="two", version=2, **wait)
        for number, wrong in enumerate(({"tag": "review"}, {"tag": "approval", "value": "approved"})):
            SetModelVersionApprovalTagOperator(task_id=f"wrong{number}", version=1, retries=1, **wrong, **common)

    result = dag_runner.run(define)
    states = {task: result.task_state(task) for task in ("put", "one", "refuse", "two", "wrong0", "wrong1")}
    assert states == {
        **dict.fromkeys(("put", "one", "refuse"), "success"),
        **dict.fromkeys(("two", "wrong0", "wrong1"), "failed"),
    }
    assert client.get_model_version(model_name, "1").tags == {"Approval_Check": "Approved"}
    assert "only if its name begins with 'approval'" in result.output
    assert "value is one of Approved, Rejected" in result.output


def test_the_page_of_a_run_on_databricks(mlflow_server, monkeypatch):
    with Emulator(Settings(tracking_uri=mlflow_server.url)) as workspace:
        monkeypatch.setenv("AIRFLOW_CONN_WORKSPACE", workspace.connection_json())
        hook, client = ModelRegistryHook("workspace"), mlflow_server.client()
        run = client.create_run(client.create_experiment(f"page-{workspace.url}"))
        page = hook.run(run_page(hook.registry, hook.endpoint, run.info.run_id))
        assert page == f"{workspace.url}/ml/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        assert hook.run(run_page(hook.registry, hook.endpoint, "0" * 32)) == ""
        assert hook.run(run_page(hook.registry, hook.endpoint, None)) == ""
