"""Serving endpoints and the columns of tables, to be looked at."""

from __future__ import annotations

from typing import Any

from airflow_uc_models.emulator import rules
from airflow_uc_models.emulator.errors import denied, missing
from airflow_uc_models.emulator.routing import Call, route
from airflow_uc_models.emulator.workspace import Workspace


class Serving:
    """Read only: tests make endpoints and tables with Python."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @route(
        "GET",
        "/api/2.0/serving-endpoints/{name}",
        source="databricks-sdk service/serving.py, ServingEndpointsAPI.get",
    )
    def endpoint(self, call: Call) -> Any:
        """Return an endpoint with the model versions it serves."""
        name = call.path["name"]
        found = self.workspace.endpoints.by_name.get(name)
        if found is None:
            raise missing(f"The given endpoint does not exist, please retry after checking the endpoint name: {name}.")
        if found.users is not None and call.principal.name not in found.users and not call.principal.is_admin:
            raise denied(f"User {call.principal.name} does not have 'View' permission on serving endpoint {name}.")
        entities = [
            {
                "name": f"{model.rpartition('.')[2]}-{version}",
                "entity_name": model,
                "entity_version": str(version),
                "state": {"deployment": "DEPLOYMENT_READY" if found.is_ready else "DEPLOYMENT_CREATING"},
            }
            for model, version in found.versions
        ]
        state = {"ready": "READY" if found.is_ready else "NOT_READY", "config_update": "NOT_UPDATING"}
        config: dict[str, Any] = {"served_entities": entities, "config_version": 1}
        if found.traffic is not None:
            shares = zip(entities, found.traffic, strict=True)
            routes = [{"served_model_name": item["name"], "traffic_percentage": share} for item, share in shares]
            config["traffic_config"] = {"routes": routes}
        return {"name": name, "state": state, "config": config}

    @route(
        "GET",
        "/api/2.1/unity-catalog/tables/{full_name}",
        source="databricks-sdk service/catalog.py, TablesAPI.get",
    )
    def table(self, call: Call) -> Any:
        """Return a table's columns."""
        name = call.path["full_name"].lower()
        guard = self.workspace.guard
        guard.enter(call.principal, rules.schema_name(name.rpartition(".")[0]))
        if name not in self.workspace.tables.columns:
            raise missing(f"Table '{name}' does not exist.", "TABLE_DOES_NOT_EXIST")
        if not guard.has(call.principal, ("SELECT", "BROWSE"), name):
            raise denied(f"User does not have SELECT on Table '{name}'.")
        catalog, schema, table = name.split(".")
        columns = [
            {"name": column, "type_text": kind, "type_name": kind.partition("(")[0].upper(), "position": number}
            for number, (column, kind) in enumerate(self.workspace.tables.columns[name].items())
        ]
        return {"catalog_name": catalog, "schema_name": schema, "name": table, "full_name": name, "columns": columns}
