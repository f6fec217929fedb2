"""The dialect of Unity Catalog itself: models and versions below ``/api/2.1/unity-catalog/models``."""

from __future__ import annotations

import uuid
from typing import Any

from airflow_uc_models.emulator import rules
from airflow_uc_models.emulator.credentials import temporary_credentials
from airflow_uc_models.emulator.errors import invalid
from airflow_uc_models.emulator.legacy import bare_name, tag_list
from airflow_uc_models.emulator.routing import Call, page, present, route
from airflow_uc_models.emulator.state import Model, Version
from airflow_uc_models.emulator.workspace import Workspace

_MODELS = "/api/2.1/unity-catalog/models"
_MODEL = f"{_MODELS}/{{full_name}}"
_VERSIONS = f"{_MODEL}/versions"
_VERSION = f"{_VERSIONS}/{{version}}"
_ALIAS = f"{_MODEL}/aliases/{{alias}}"
_SDK = "databricks-sdk service/catalog.py"
_MLFLOW = "mlflow/store/_unity_catalog/registry/uc_native_rest_store.py"
_OPERATIONS = {"READ_MODEL_VERSION": "read", "READ_WRITE_MODEL_VERSION": "write_files"}


class Native:
    """Names in parts, version numbers as integers, aliases only where asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.catalog = workspace.catalog

    # -- registered models

    @route("POST", _MODELS, source=f"{_SDK}, RegisteredModelsAPI.create; {_MLFLOW} (tags)")
    def create_model(self, call: Call) -> Any:
        """Create a registered model."""
        model = self.catalog.create_model(
            call.principal,
            full_name(call, "name"),
            comment=call.get("comment"),
            tags=call.get("tags"),
            deployment_job_id=call.get("deployment_job_id"),
        )
        return self._model(model)

    @route("GET", _MODELS, source=f"{_SDK}, RegisteredModelsAPI.list")
    def list_models(self, call: Call) -> Any:
        """List the models of a schema, or all, that the caller may see, in no order, without aliases and tags."""
        catalog, schema = call.get("catalog_name"), call.get("schema_name")
        if bool(catalog) != bool(schema):
            raise invalid("catalog_name and schema_name must be given together, or neither.")
        models = self.catalog.models(call.principal, catalog, schema)
        sizes = self.workspace.paging(10_000, 10_000) if schema else self.workspace.paging(100, 1000)
        found, token = page(models, lambda m: m.name, call, **sizes)
        return present(registered_models=[self._model(m, listed=True) for m in found], next_page_token=token)

    @route("GET", _MODEL, source=f"{_SDK}, RegisteredModelsAPI.get; databricks-sdk-py#868 (aliases)")
    def get_model(self, call: Call) -> Any:
        """Return a model with its tags, and with aliases if ``include_aliases`` is true."""
        operation = "browse" if call.flag("include_browse") else "read"
        model = self.catalog.model(call.principal, call.path["full_name"], operation)
        return self._model(model, aliases=call.flag("include_aliases"))

    @route("PATCH", _MODEL, source=f"{_SDK}, RegisteredModelsAPI.update; databricks/cli#4012 (aliases are ignored)")
    def update_model(self, call: Call) -> Any:
        """Change comment, owner, deployment job or name; aliases in the body are ignored."""
        name = call.path["full_name"]
        if call.get("new_name"):
            bare = bare_name(self.workspace.settings, name, str(call.get("new_name")))
            return self._model(self.catalog.rename_model(call.principal, name, bare))
        model = self.catalog.update_model(
            call.principal,
            name,
            comment=call.get("comment"),
            owner=call.get("owner"),
            deployment_job_id=call.get("deployment_job_id"),
        )
        return self._model(model)

    @route("DELETE", _MODEL, source=f"{_SDK}, RegisteredModelsAPI.delete; databricks/cli#1848 (versions first)")
    def delete_model(self, call: Call) -> None:
        """Delete a model; one that has versions is refused, by default."""
        self.catalog.delete_model(call.principal, call.path["full_name"])

    # -- aliases

    @route("PUT", _ALIAS, source=f"{_SDK}, RegisteredModelsAPI.set_alias")
    def set_alias(self, call: Call) -> Any:
        """Point an alias to a version."""
        alias = call.path["alias"]
        model = self.catalog.set_alias(call.principal, call.path["full_name"], alias, call.need("version_num"))
        return alias_object(model, alias)

    @route("GET", _ALIAS, source=f"{_SDK}, ModelVersionsAPI.get_by_alias")
    def version_by_alias(self, call: Call) -> Any:
        """Return the version that an alias points to."""
        found = self.catalog.version_by_alias(call.principal, call.path["full_name"], call.path["alias"])
        return self._version(*found, aliases=call.flag("include_aliases"))

    @route("DELETE", _ALIAS, source=f"{_SDK}, RegisteredModelsAPI.delete_alias")
    def delete_alias(self, call: Call) -> None:
        """Delete an alias."""
        self.catalog.delete_alias(call.principal, call.path["full_name"], call.path["alias"])

    # -- model versions

    @route("POST", f"{_MODELS}/versions", source=f"{_MLFLOW}; not in databricks-sdk")
    def create_version(self, call: Call) -> Any:
        """Create a version, PENDING_REGISTRATION until it is finalized."""
        name = full_name(call, "model_name")
        version = self.catalog.create_version(
            call.principal,
            name,
            tags=call.get("tags"),
            comment=call.get("comment"),
            source=call.need("source"),
            run_id=call.get("run_id"),
            model_id=call.get("model_id"),
            run_tracking_server_id=call.get("run_tracking_server_id"),
            dependencies=call.get("model_version_dependencies"),
        )
        return self._version(self.workspace.state.model(rules.model_name(name)), version)

    @route("PATCH", f"{_VERSION}/finalize", source=f"{_MLFLOW}; not in databricks-sdk")
    def finalize_version(self, call: Call) -> Any:
        """Make a pending version READY; its files and signature are not looked at."""
        version = self.catalog.finalize_version(call.principal, call.path["full_name"], call.path["version"])
        return self._version(self._of(call), version)

    @route("GET", _VERSIONS, source=f"{_SDK}, ModelVersionsAPI.list")
    def list_versions(self, call: Call) -> Any:
        """List the versions of a model, in no order, without aliases and tags."""
        model = self.catalog.model(call.principal, call.path["full_name"])
        found, token = page(list(model.versions.values()), lambda v: v.id, call, **self.workspace.paging(100, 1000))
        return present(model_versions=[self._version(model, v, listed=True) for v in found], next_page_token=token)

    @route("GET", _VERSION, source=f"{_SDK}, ModelVersionsAPI.get")
    def get_version(self, call: Call) -> Any:
        """Return a version with its tags, and with aliases if ``include_aliases`` is true."""
        operation = "browse" if call.flag("include_browse") else "read"
        found = self.catalog.version(call.principal, call.path["full_name"], call.path["version"], operation)
        return self._version(*found, aliases=call.flag("include_aliases"))

    @route("PATCH", _VERSION, source=f"{_SDK}, ModelVersionsAPI.update")
    def update_version(self, call: Call) -> Any:
        """Change the comment of a version."""
        name, number = call.path["full_name"], call.path["version"]
        version = self.catalog.update_version(call.principal, name, number, call.get("comment"))
        return self._version(self._of(call), version)

    @route("DELETE", _VERSION, source=f"{_SDK}, ModelVersionsAPI.delete (aliases go, too)")
    def delete_version(self, call: Call) -> None:
        """Delete a version with its files and aliases; its number is never given again."""
        self.catalog.delete_version(call.principal, call.path["full_name"], call.path["version"])

    @route("POST", "/api/2.1/unity-catalog/temporary-model-version-credentials", source=_MLFLOW)
    def credentials(self, call: Call) -> Any:
        """Return temporary credentials: storage mode DEFAULT_STORAGE, or keys of the cloud below ``/s3``."""
        operation = str(call.get("operation"))
        if operation not in _OPERATIONS:
            raise invalid(f"operation {operation!r} is not valid.")
        name = full_name(call, "model_name")
        kind = _OPERATIONS[operation]
        found = self.catalog.version(call.principal, name, call.need("version"), kind)
        return temporary_credentials(self.workspace, *found, write=kind != "read")

    def _of(self, call: Call) -> Model:
        return self.workspace.state.model(rules.model_name(call.path["full_name"]))

    def _model(self, model: Model, *, aliases: bool = False, listed: bool = False) -> dict[str, Any]:
        catalog, schema, name = model.name.split(".")
        return present(
            name=name,
            catalog_name=catalog,
            schema_name=schema,
            full_name=model.name,
            comment=model.comment,
            owner=model.owner,
            metastore_id=self.workspace.metastore_id,
            storage_location=self.workspace.storage_location(model),
            created_at=model.created_at,
            created_by=model.created_by,
            updated_at=model.updated_at,
            updated_by=model.updated_by or model.created_by,
            id=model.id,
            aliases=[alias_object(model, alias) for alias in sorted(model.aliases)] if aliases else None,
            tags=None if listed else tag_list(model.tags),
            deployment_job_id=model.deployment_job_id,
            deployment_job_state="CONNECTED" if model.deployment_job_id else None,
        )

    def _version(
        self, model: Model, version: Version, *, aliases: bool = False, listed: bool = False
    ) -> dict[str, Any]:
        catalog, schema, name = model.name.split(".")
        tracking = version.run_tracking_server_id
        pointing = [alias_object(model, alias) for alias in model.aliases_of(version.version)]
        return present(
            model_name=name,
            catalog_name=catalog,
            schema_name=schema,
            version=version.version,
            source=version.source,
            comment=version.comment,
            run_id=version.run_id,
            run_workspace_id=int(tracking) if tracking and tracking.isdecimal() else None,
            status=version.status,
            storage_location=self.workspace.storage_location(model, version),
            metastore_id=self.workspace.metastore_id,
            created_at=version.created_at,
            created_by=version.created_by,
            updated_at=version.updated_at,
            updated_by=version.updated_by or version.created_by,
            id=version.id,
            aliases=pointing if aliases else None,
            tags=None if listed else tag_list(version.tags),
            model_version_dependencies=version.dependencies,
            model_id=version.model_id,
        )


def full_name(call: Call, key: str) -> str:
    """Return the three-level name that a body gives in parts."""
    return ".".join(str(call.need(part)) for part in ("catalog_name", "schema_name", key))


def alias_object(model: Model, alias: str) -> dict[str, Any]:
    """Return an alias as this dialect shows it."""
    catalog, schema, name = model.name.split(".")
    return {
        "alias_name": alias,
        "version_num": model.aliases[alias],
        "id": str(uuid.uuid5(uuid.UUID(model.id), alias)),
        "model_name": name,
        "catalog_name": catalog,
        "schema_name": schema,
    }
