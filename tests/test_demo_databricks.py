"""`make demo REGISTRY=databricks`, on SQLite as where there is no PostgreSQL, and the example Dags after it."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from support.demo_examples import run_all_with_defaults, signed_in, why

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo that has played its story and stays: its folder, what it says, a client of its Airflow."""
    folder = tmp_path_factory.mktemp("databricks")
    options = ["--registry", "databricks", "--database", "sqlite", "--stay"]
    with (folder / "output.txt").open("wb") as output:
        command = [sys.executable, "-m", "scripts.demo", "--home", str(folder / "home"), *options]
        process = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    text = (folder / "output.txt").read_text
    deadline = time.monotonic() + 900
    while "Ctrl-C stops everything" not in text():
        assert process.poll() is None, text()
        assert time.monotonic() < deadline, text()
        time.sleep(0.2)
    api = signed_in(text())
    yield folder / "home", text, api
    api.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_the_story_is_told_and_the_database_named(demo):
    home, text, _ = demo
    assert "Airflow runs on SQLite, as it was asked for" in text()
    summary = json.loads((home / "summary.json").read_text())
    assert [run["verdict"] for run in summary["runs"]] == ["approved", "rejected", "approved", "rolled back"]
    assert [run["champion_after"] for run in summary["runs"]] == [1, 1, 2, 1]
    assert summary["sensed_versions"] == [1, 2, 3]


def test_links_lead_to_the_workspaces_pages(demo):
    api = demo[2]
    link = api.xcom("example_train_validate_promote_infer", "demo_3_better", "copy_to_prod", "model_version_url")
    assert link.endswith("/explore/data/models/prod/ml_team/breast_cancer/version/2")
    page = httpx.get(link, trust_env=False)
    assert page.status_code == 200
    assert "promoted_in_run" in page.text


def test_every_example_runs_with_its_defaults(demo):
    api = demo[2]
    states = run_all_with_defaults(api)
    assert set(states.values()) == {"success", "waiting"}, why(api, states)
