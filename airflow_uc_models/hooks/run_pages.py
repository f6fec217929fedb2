"""Addresses of runs and their reports in the MLflow UI."""

from __future__ import annotations

from urllib.parse import quote

from airflow_uc_models.exceptions import NotFoundError
from airflow_uc_models.hooks.endpoint import Endpoint
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call


def run_page(registry: Registry, endpoint: Endpoint, run_id: str | None, artifact: str = "") -> Call[str]:
    """Return the page of a run in the MLflow UI; empty where it is not known.

    :param artifact: path of an artifact of the run, to open it
    """
    if not run_id or not endpoint.web_url or endpoint.mlflow.tracking_uri is None:
        return ""
    is_databricks = endpoint.mlflow.tracking_uri == "databricks"
    if not (is_databricks or artifact):
        return f"{endpoint.web_url}/#/runs/{run_id}"
    try:
        run = yield from registry.get_run(run_id)
    except NotFoundError:  # of another workspace
        return ""
    if not run.experiment_id:
        return ""
    page = f"{endpoint.web_url}/{'ml' if is_databricks else '#'}/experiments/{run.experiment_id}/runs/{run_id}"
    return f"{page}/artifacts/{quote(artifact)}" if artifact else page


def report_page(registry: Registry, endpoint: Endpoint, uri: str | None) -> Call[str]:
    """Return the page that shows a report; empty where there is none.

    :param uri: ``runs:/<run_id>/<path>``
    """
    run_id, _, path = (uri or "").removeprefix("runs:/").partition("/")
    return (yield from run_page(registry, endpoint, run_id, path)) if path else ""
