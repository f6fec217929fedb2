"""Around models: catalogs and schemas, tags, grants and the metastore, below ``/api/2.1/unity-catalog``."""

from __future__ import annotations

from typing import Any

from airflow_uc_models.emulator import rules
from airflow_uc_models.emulator.errors import invalid
from airflow_uc_models.emulator.privileges import EVERYONE, lineage, privilege_name
from airflow_uc_models.emulator.routing import Call, present, route
from airflow_uc_models.emulator.state import Container
from airflow_uc_models.emulator.workspace import Workspace

_ROOT = "/api/2.1/unity-catalog"
_SDK = "databricks-sdk service/catalog.py"
_MLFLOW = "mlflow/store/_unity_catalog/registry/uc_native_rest_store.py"
_TYPES = {"catalog": 1, "schema": 2, "function": 3}
_LEAST_PAGE = 150


class Governance:
    """What surrounds models; models are securables of type FUNCTION here."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.catalog = workspace.catalog

    # -- catalogs and schemas

    @route("POST", f"{_ROOT}/catalogs", source=f"{_SDK}, CatalogsAPI.create")
    def create_catalog(self, call: Call) -> Any:
        """Create a catalog."""
        name = rules.part(call.need("name"), "Catalog")
        return self._container(self.catalog.create_container(call.principal, name, call.get("comment")))

    @route("GET", f"{_ROOT}/catalogs/{{name}}", source=f"{_SDK}, CatalogsAPI.get")
    def get_catalog(self, call: Call) -> Any:
        """Return a catalog."""
        name = rules.part(call.path["name"], "Catalog")
        found = self.workspace.state.container(name)
        self.workspace.guard.enter(call.principal, name)
        return self._container(found)

    @route("POST", f"{_ROOT}/schemas", source=f"{_SDK}, SchemasAPI.create")
    def create_schema(self, call: Call) -> Any:
        """Create a schema."""
        name = rules.schema_name(f"{call.need('catalog_name')}.{call.need('name')}")
        return self._container(self.catalog.create_container(call.principal, name, call.get("comment")))

    @route("GET", f"{_ROOT}/schemas/{{full_name}}", source=f"{_SDK}, SchemasAPI.get")
    def get_schema(self, call: Call) -> Any:
        """Return a schema."""
        name = rules.schema_name(call.path["full_name"])
        for level in lineage(name):
            found = self.workspace.state.container(level)
        self.workspace.guard.enter(call.principal, name)
        return self._container(found)

    @route("GET", f"{_ROOT}/metastore_summary", source=f"{_SDK}, MetastoresAPI.summary")
    def metastore(self, _: Call) -> Any:
        """Return the metastore of the workspace."""
        return {"metastore_id": self.workspace.metastore_id, "name": "emulated", "cloud": "aws"}

    def _container(self, container: Container) -> dict[str, Any]:
        catalog, _, schema = container.name.partition(".")
        return present(
            name=schema or catalog,
            full_name=container.name,
            catalog_name=catalog if schema else None,
            owner=container.owner,
            comment=container.comment,
            created_at=container.created_at,
            metastore_id=self.workspace.metastore_id,
            catalog_type="MANAGED_CATALOG",
        )

    # -- tags

    @route("PATCH", f"{_ROOT}/securable-tags/{{securable_type}}/{{full_name}}", source=f"{_MLFLOW}; not in the SDK")
    def change_model_tags(self, call: Call) -> None:
        """Set and delete tags of a model."""
        self._change_tags(call, None)

    @route(
        "PATCH",
        f"{_ROOT}/subentity-tags/{{securable_type}}/{{full_name}}/{{subentity}}",
        source=f"{_MLFLOW}; not in the SDK",
    )
    def change_version_tags(self, call: Call) -> None:
        """Set and delete tags of a version."""
        self._change_tags(call, call.path["subentity"])

    def _change_tags(self, call: Call, version: str | None) -> None:
        _securable_type(call, "function")
        changes = call.need("changes")
        add = {tag.get("key"): tag.get("value") for tag in changes.get("add_tags") or []}
        remove = list(changes.get("remove") or [])
        self.catalog.change_tags(call.principal, call.path["full_name"], add, remove, version)

    # -- grants

    @route("GET", f"{_ROOT}/permissions/{{securable_type}}/{{full_name}}", source=f"{_SDK}, GrantsAPI.get")
    def grants(self, call: Call) -> Any:
        """Return the privileges granted on a securable itself."""
        name = self._securable(call, "read_grants")
        _check_paging(call)
        wanted = call.get("principal")
        held = self.workspace.guard.grants.get(name, {})
        return present(
            privilege_assignments=[
                {"principal": principal, "privileges": sorted(privileges)}
                for principal, privileges in held.items()
                if wanted in (None, principal)
            ]
        )

    @route("PATCH", f"{_ROOT}/permissions/{{securable_type}}/{{full_name}}", source=f"{_SDK}, GrantsAPI.update")
    def change_grants(self, call: Call) -> Any:
        """Grant and revoke privileges; one in both lists of a principal is refused."""
        name = self._securable(call, "change_grants")
        changes = call.get("changes") or []
        planned = []
        for change in changes:
            principal = str(change.get("principal") or "")
            add = {privilege_name(text) for text in change.get("add") or []}
            remove = {privilege_name(text) for text in change.get("remove") or []}
            if not principal:
                raise invalid("A change of grants needs a principal.")
            if add & remove:
                raise invalid(f"Privileges {sorted(add & remove)} of {principal} are both added and removed.")
            if principal != EVERYONE and principal not in self.workspace.principals.by_name:
                raise invalid(f"Could not find principal with name {principal}.")
            planned.append((principal, add, remove))
        for principal, add, remove in planned:
            for privilege in remove:
                self.workspace.guard.revoke(principal, privilege, name)
            for privilege in add:
                self.workspace.guard.grant(principal, privilege, name)
        return self.grants(Call(call.request, call.caller, {}))

    @route(
        "GET",
        f"{_ROOT}/effective-permissions/{{securable_type}}/{{full_name}}",
        source=f"{_SDK}, GrantsAPI.get_effective",
    )
    def effective_grants(self, call: Call) -> Any:
        """Return the privileges on a securable with those inherited from its schema and catalog."""
        name = self._securable(call, "read_grants")
        _check_paging(call)
        found: dict[str, list[dict[str, str]]] = {}
        for level in lineage(name):
            for principal, privileges in self.workspace.guard.grants.get(level, {}).items():
                kind = list(_TYPES)[level.count(".")].upper()
                origin = {} if level == name else {"inherited_from_name": level, "inherited_from_type": kind}
                found.setdefault(principal, []).extend({"privilege": p} | origin for p in sorted(privileges))
        wanted = call.get("principal")
        assignments = [{"principal": p, "privileges": held} for p, held in found.items() if wanted in (None, p)]
        return present(privilege_assignments=assignments)

    def _securable(self, call: Call, operation: str) -> str:
        """Return the lower-case name of a securable after a check that the caller may see or change its grants."""
        levels = _securable_type(call, *_TYPES)
        name = call.path["full_name"]
        if levels == _TYPES["function"]:
            return self.catalog.model(call.principal, name, operation).name
        name = rules.part(name, "Catalog") if levels == 1 else rules.schema_name(name)
        self.workspace.state.container(name)
        self.workspace.guard.check(call.principal, operation, name)
        return name


def _securable_type(call: Call, *expected: str) -> int:
    kind = call.path["securable_type"].lower()
    if kind not in expected:
        raise invalid(f"Securable type {kind.upper()} is not supported; models are of type FUNCTION.")
    return _TYPES[kind]


def _check_paging(call: Call) -> None:
    size = int(call.get("max_results") or 0)
    if size < 0 or 0 < size < _LEAST_PAGE:
        raise invalid(f"max_results must be 0 or at least {_LEAST_PAGE}.")
