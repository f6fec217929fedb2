"""Approvals in a real Airflow, clicked in a real browser; time-outs and mapped promotions in the same Airflow.

Needs Debian's chromium; without it the browser's test is skipped, and the others run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import TaskInstanceState
from support.mlflow_server import RunningServer
from support.models import add_version, log_model
from support.proxy import Fault, Recorded

from scripts.demo.settings import USER

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
ASK, MANY, IN_TIME = "example_manual_approval", "promote_many", "approval_in_time"
DEV, PROD = "dev.approvals.fraud", "prod.approvals.fraud"
WAITING = "Awaiting" if hasattr(TaskInstanceState, "AWAITING_INPUT") else "Deferred"  # before Airflow 3.3


@pytest.fixture(scope="module")
def client(stack):
    """MLflow, with what is to be approved."""
    stack.await_dags({ASK, MANY, IN_TIME})
    server = RunningServer(stack.mlflow_url)
    for seed, roc_auc in enumerate((0.85, 0.91)):
        add_version(server, DEV, log_model(server, metrics={"roc_auc": roc_auc}, seed=seed))
    return server.client()


@pytest.fixture(scope="module")
def alone(stack, client):
    """Runs that need nobody."""
    for name, accuracies in {"good": [0.9], "undone": [0.7, 0.9], "poor": [0.3], "late": [0.9]}.items():
        for accuracy in accuracies:
            make_version(client, f"dev.many.{name}", accuracy)
    client.set_registered_model_alias("dev.many.undone", "Champion", "1")
    stack.api.trigger(IN_TIME, "late", {"name": "dev.many.late"})
    models = [
        {"model_name": "dev.many.good", "destination_model_name": "prod.many.good"},
        {"model_name": "dev.many.undone"},
        {"model_name": "dev.many.poor", "version": 1},
    ]
    stack.proxy.faults.append(Fault(notes_promotion, status=403, body='{"error_code": "PERMISSION_DENIED"}'))
    stack.api.trigger(MANY, "many", {"models": models})


def notes_promotion(request: Recorded) -> bool:
    body = request.body or {}
    return body.get("name") == "dev.many.undone" and body.get("key") == "promoted_by"


def make_version(client: Any, name: str, accuracy: float) -> None:
    """A version that has metrics and no files."""
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    run = client.create_run("0").info.run_id
    client.log_metric(run, "accuracy", accuracy)
    client.create_model_version(name, f"runs:/{run}/model", run_id=run)


def until(condition: Callable[[], Any], what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 150
    while not (found := condition()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.3)
    return found


def ended(stack: Any, dag_id: str, run_id: str) -> str:
    """Wait for the end of a run and return its state."""
    state = lambda: stack.api.run_state(dag_id, run_id)  # noqa: E731
    until(lambda: state() in {"success", "failed"}, lambda: stack.api.tasks(dag_id, run_id))
    return state()


def task_states(stack: Any, dag_id: str, run_id: str, map_index: int = -1) -> dict[str, str]:
    tasks = stack.api.tasks(dag_id, run_id)
    return {t["task_id"].rpartition(".")[2]: t["state"] for t in tasks if t["map_index"] == map_index}


@pytest.fixture(scope="module")
def page(stack, tmp_path_factory) -> Iterator[Any]:
    """A browser that is signed in to Airflow."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, viewport={"width": 1280, "height": 1100}
        )
        page = browser.new_page()
        page.on("console", lambda said: print("the page says", said.type, said.text) if said.type == "error" else None)
        page.set_default_timeout(60_000)
        page.goto(f"{stack.airflow_url}/required_actions")
        page.get_by_label("Username").fill(USER)
        page.get_by_label("Password").fill(stack.password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/required_actions*")
        yield page
        browser.close()


def answer(stack: Any, page: Any, version: int, option: str) -> str:
    """Trigger a run, find what it asks among the required actions, answer it; return what the page showed."""
    run_id = f"version-{version}"
    params = {"registry_conn_id": "watched", "schema": "approvals", "model": "fraud", "version": version}
    stack.api.trigger(ASK, run_id, params)
    details = f"/api/v2/dags/{ASK}/dagRuns/{run_id}/hitlDetails"
    until(lambda: stack.api.get(details)["total_entries"], lambda: stack.api.tasks(ASK, run_id))
    # Airflow 3.3.2 can take the end of the process that asked for the end of the one that goes on with the answer.
    log = stack.processes.log_of("airflow-scheduler")
    task = f"TaskInstanceKey(dag_id='{ASK}', task_id='promote_model.approve', run_id='{run_id}', try_number=1"
    end = f"Received executor event with state success for task instance {task}"
    until(lambda: end in log.read_text(errors="replace"), lambda: stack.processes.tail("airflow-scheduler"))
    page.goto(f"{stack.airflow_url}/required_actions?response_received=false")
    page.get_by_role("link", name=f"Approve {DEV} version {version}?").click()
    button = page.get_by_role("button", name=option, exact=True)
    button.wait_for()
    page.locator(f"a[href*='/models/{DEV}/versions/{version}']").wait_for()
    shown = page.locator("body").inner_text()
    links = page.eval_on_selector_all("a", "links => links.map(link => link.href)")
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/approval-{option}.png")
    button.click()
    return "\n".join([shown, *links])


def test_clicks_decide_whether_the_champion_changes(stack, client, page):
    before = datetime.now().astimezone() - timedelta(seconds=1)
    shown = answer(stack, page, 1, "Approve")
    assert f"Once approved, it becomes Champion of {PROD}" in shown
    for said in ("roc_auc >= 0.8", "roc_auc 0.85, required >= 0.8", "there is no champion yet", WAITING):
        assert said in shown, shown
    run = client.get_model_version(DEV, "1").run_id
    for link in (f"/#/models/{DEV}/versions/1", f"/#/runs/{run}"):
        assert f"{stack.proxy.url}{link}" in shown
    [report] = [line for line in shown.splitlines() if line.endswith(".html")]
    page.goto(report)
    frame = page.frame_locator("iframe.mlflow-html-iframe")
    frame.get_by_text("All 4 rules passed.").wait_for()
    frame.locator("svg .bar").first.wait_for()
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/report.png")
    assert ended(stack, ASK, "version-1") == "success", stack.api.tasks(ASK, "version-1")
    champion = client.get_model_version_by_alias(PROD, "Champion")
    assert champion.tags["approval_status"] == "approved"
    assert champion.tags["approved_by"] == USER
    assert before < datetime.fromisoformat(champion.tags["approved_at"]) <= datetime.now().astimezone()
    assert champion.tags["promoted_in_run"] == "version-1"
    assert champion.tags["airflow_copied_from"].endswith(f"{DEV}/1")

    shown = answer(stack, page, 2, "Reject")
    assert "roc_auc 0.91, champion 0.85: gain 0.06" in shown, shown
    assert ended(stack, ASK, "version-2") == "failed"
    states = task_states(stack, ASK, "version-2")
    assert states == {
        "validate": "success",
        "approve": "failed",
        **dict.fromkeys(("copy", "set_alias", "set_tags"), "upstream_failed"),
        "finish": "failed",
    }
    tags = client.get_model_version(DEV, "2").tags
    assert (tags["approval_status"], tags["rejected_by"], "approved_by" in tags) == ("rejected", USER, False)
    assert client.get_model_version_by_alias(PROD, "Champion").version == champion.version
    assert len(client.search_model_versions(f"name='{PROD}'")) == 1


def test_a_time_out_is_a_rejection(stack, client, alone):
    assert ended(stack, IN_TIME, "late") == "failed"
    tags = client.get_model_version("dev.many.late", "1").tags
    assert (tags["approval_status"], tags["rejected_by"]) == ("rejected", "time-out")
    assert datetime.fromisoformat(tags["rejected_at"]).tzinfo is not None
    [task] = stack.api.tasks(IN_TIME, "late")
    assert task["try_number"] == 1


def test_mapped_promotions_are_independent(stack, client, alone):
    assert ended(stack, MANY, "many") == "failed"
    good = dict.fromkeys(("validate", "copy", "set_alias", "set_tags", "finish"), "success")
    assert task_states(stack, MANY, "many", 0) == good
    assert task_states(stack, MANY, "many", 1) == {**good, "set_tags": "failed", "finish": "failed"}
    refused = dict.fromkeys(("copy", "set_alias", "set_tags"), "upstream_failed")
    assert task_states(stack, MANY, "many", 2) == {"validate": "failed", **refused, "finish": "failed"}
    assert client.get_registered_model("prod.many.good").aliases == {"Champion": "1"}
    undone = client.get_registered_model("dev.many.undone")
    assert (undone.aliases, undone.tags["airflow_alias_history_Champion"]) == ({"Champion": "1"}, "1")
    assert client.get_registered_model("dev.many.poor").aliases == {}

    clear = {
        "dag_run_id": "many",
        "task_ids": [[f"promote_model.{step}", 1] for step in good if step != "copy"],
        "dry_run": False,
        "only_failed": False,
        "reset_dag_runs": True,
    }
    stack.api._answer("POST", f"/api/v2/dags/{MANY}/clearTaskInstances", json=clear)
    assert ended(stack, MANY, "many") == "failed"  # by the poor one
    assert task_states(stack, MANY, "many", 1) == good
    undone = client.get_registered_model("dev.many.undone")
    assert (undone.aliases, undone.tags["airflow_alias_history_Champion"]) == ({"Champion": "2"}, "1 2")
    assert len(client.search_model_versions("name='dev.many.undone'")) == 2
