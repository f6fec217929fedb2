"""The ASGI application of a workspace."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airflow_uc_models.emulator.cloud import Cloud
from airflow_uc_models.emulator.explorer import Explorer
from airflow_uc_models.emulator.files import Files
from airflow_uc_models.emulator.governance import Governance
from airflow_uc_models.emulator.jobs import Jobs
from airflow_uc_models.emulator.legacy import Legacy
from airflow_uc_models.emulator.native import Native
from airflow_uc_models.emulator.notebooks import NotebookRoutes
from airflow_uc_models.emulator.oauth import OAuth
from airflow_uc_models.emulator.privileges import Principal
from airflow_uc_models.emulator.recording import PRINCIPAL
from airflow_uc_models.emulator.routing import endpoint, handlers
from airflow_uc_models.emulator.serving import Serving
from airflow_uc_models.emulator.statements import Statements
from airflow_uc_models.emulator.storage import Storage
from airflow_uc_models.emulator.tracking import Tracking
from airflow_uc_models.emulator.workspace import Workspace

GROUPS = (
    *(OAuth, Legacy, Native, Governance, Files, Storage, Cloud, NotebookRoutes, Jobs, Statements, Serving),
    *(Explorer, Tracking),
)
# Whether these take a personal access token as a password nobody outside has seen.
_BEARER_ONLY = ("/api/2.0/fs/", "/api/2.0/mlflow/", "/api/3.0/mlflow/")
_ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def create_app(workspace: Workspace) -> FastAPI:
    """Return the application."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)

    def authenticate(request: Request) -> Principal:
        takes_basic = not request.url.path.startswith(_BEARER_ONLY)
        principal = workspace.authenticate(request.headers.get("authorization", ""), takes_basic=takes_basic)
        request.scope[PRINCIPAL] = principal.name
        return principal

    # mlflow reads the workspace of a run from it
    headers = {"x-databricks-org-id": str(workspace.settings.workspace_id)}
    for group in GROUPS:
        for info, handler in handlers(group(workspace)):
            methods = _ALL_METHODS if info.method == "ANY" else [info.method]
            app.add_route(info.path, endpoint(info, handler, authenticate, headers), methods=methods)
    app.add_exception_handler(404, _no_endpoint)
    app.add_exception_handler(405, _no_endpoint)
    return app


async def _no_endpoint(request: Request, _: Exception) -> Response:
    text = f"No API found for '{request.method} {request.url.path}'"
    return JSONResponse({"error_code": "ENDPOINT_NOT_FOUND", "message": text}, 404)
