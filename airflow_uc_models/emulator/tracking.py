"""Runs, experiments and logged models: passed on to a real MLflow server."""

from __future__ import annotations

import httpx
from starlette.responses import Response

from airflow_uc_models.emulator.errors import ApiError
from airflow_uc_models.emulator.routing import Call, route
from airflow_uc_models.emulator.workspace import Workspace

_NOT_PASSED_ON = {"authorization", "host", "content-length", "transfer-encoding", "connection", "accept-encoding"}
_KEPT = {"content-type"}
_SOURCE = "mlflow server, whichever version runs there"


class Tracking:
    """The tracking side of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @route("ANY", "/api/2.0/mlflow/{path:path}", source=_SOURCE, raw=True)
    async def version_2(self, call: Call) -> Response:
        """Pass a call on to the MLflow server of the settings; 404 without one."""
        return await self._pass_on(call)

    @route("ANY", "/api/3.0/mlflow/{path:path}", source=_SOURCE, raw=True)
    async def version_3(self, call: Call) -> Response:
        """Pass a call on to the MLflow server of the settings; 404 without one."""
        return await self._pass_on(call)

    async def _pass_on(self, call: Call) -> Response:
        request, server = call.request, self.workspace.settings.tracking_uri
        if server is None or call.path["path"].startswith("unity-catalog"):
            text = f"No API found for '{request.method} {request.url.path}'"
            raise ApiError(404, "ENDPOINT_NOT_FOUND", text)
        headers = {name: value for name, value in request.headers.items() if name not in _NOT_PASSED_ON}
        url = f"{server.rstrip('/')}{request.url.path}"
        async with httpx.AsyncClient(timeout=120, trust_env=False, verify=server.startswith("https")) as client:
            answer = await client.request(
                request.method, url, params=request.url.query.encode(), headers=headers, content=await request.body()
            )
        kept = {name: value for name, value in answer.headers.items() if name in _KEPT}
        kept["x-databricks-org-id"] = str(self.workspace.settings.workspace_id)
        # a client of a workspace cannot resolve the scheme of the server's own artifact store
        artifacts = f'"{server.rstrip("/")}/api/2.0/mlflow-artifacts/artifacts/'.encode()
        content = answer.content.replace(b'"mlflow-artifacts:/', artifacts)
        return Response(content, answer.status_code, kept)
