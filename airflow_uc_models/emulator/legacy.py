"""The dialect of MLflow's ``databricks-uc`` client: ``/api/2.0/mlflow/unity-catalog``."""

from __future__ import annotations

import re
from typing import Any

from airflow_uc_models.emulator import rules
from airflow_uc_models.emulator.credentials import temporary_credentials
from airflow_uc_models.emulator.errors import invalid
from airflow_uc_models.emulator.routing import Call, page, present, route
from airflow_uc_models.emulator.settings import Settings
from airflow_uc_models.emulator.state import Model, Version
from airflow_uc_models.emulator.workspace import Workspace

_PREFIX = "/api/2.0/mlflow/unity-catalog"
_FILTER = re.compile(r"\s*name\s*=\s*(?:'([^']*)'|\"([^\"]*)\")\s*", re.IGNORECASE)
_SOURCE = "mlflow/store/_unity_catalog/registry/rest_store.py; databricks_uc_registry_messages.proto"
_DOCS = "docs.databricks.com, Manage model lifecycle in Unity Catalog"
_OPERATIONS = {"MODEL_VERSION_OPERATION_READ": "read", "MODEL_VERSION_OPERATION_READ_WRITE": "write_files"}


class Legacy:
    """Flat names, version numbers as strings, JSON bodies even on DELETE."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.catalog = workspace.catalog

    # -- registered models

    @route("POST", f"{_PREFIX}/registered-models/create", source=_SOURCE)
    def create_model(self, call: Call) -> Any:
        """Create a registered model; an existing name is RESOURCE_ALREADY_EXISTS."""
        model = self.catalog.create_model(
            call.principal,
            call.need("name"),
            comment=call.get("description"),
            tags=call.get("tags"),
            deployment_job_id=call.get("deployment_job_id"),
        )
        return {"registered_model": registered_model(model)}

    @route("GET", f"{_PREFIX}/registered-models/get", source=_SOURCE)
    def get_model(self, call: Call) -> Any:
        """Return a registered model with its aliases and tags."""
        return {"registered_model": registered_model(self.catalog.model(call.principal, call.need("name")))}

    @route("PATCH", f"{_PREFIX}/registered-models/update", source=f"{_SOURCE}; the form of new_name is a switch")
    def update_model(self, call: Call) -> Any:
        """Change description or deployment job, or rename within the schema."""
        name = call.need("name")
        if call.get("new_name"):
            bare = bare_name(self.workspace.settings, name, str(call.get("new_name")))
            return {"registered_model": registered_model(self.catalog.rename_model(call.principal, name, bare))}
        model = self.catalog.update_model(
            call.principal, name, comment=call.get("description"), deployment_job_id=call.get("deployment_job_id")
        )
        return {"registered_model": registered_model(model)}

    @route("DELETE", f"{_PREFIX}/registered-models/delete", source=f"{_SOURCE}; databricks/cli#1848 (versions first)")
    def delete_model(self, call: Call) -> None:
        """Delete a registered model; one that has versions is refused, by default."""
        self.catalog.delete_model(call.principal, call.need("name"))

    @route("GET", f"{_PREFIX}/registered-models/search", source=f"{_SOURCE}; mlflow#9783 (no aliases, no tags)")
    def search_models(self, call: Call) -> Any:
        """List the models that the caller may see, in no order, without aliases and tags."""
        if call.get("filter") or call.get("order_by"):
            raise invalid("Filtering and ordering registered models is not supported in Unity Catalog.")
        models = self.catalog.models(call.principal)
        found, token = page(models, lambda m: m.name, call, **self.workspace.paging(100, 1000))
        return present(
            registered_models=[registered_model(model, listed=True) for model in found], next_page_token=token
        )

    @route("POST", f"{_PREFIX}/registered-models/set-tag", source=f"{_SOURCE}; mlflow/recipes-examples#58 (keys)")
    def set_model_tag(self, call: Call) -> None:
        """Set a tag of a registered model."""
        self.catalog.change_tags(call.principal, call.need("name"), {call.need("key"): call.get("value")}, [])

    @route("DELETE", f"{_PREFIX}/registered-models/delete-tag", source=_SOURCE)
    def delete_model_tag(self, call: Call) -> None:
        """Delete a tag of a registered model."""
        self.catalog.change_tags(call.principal, call.need("name"), {}, [call.need("key")])

    # -- aliases

    @route("POST", f"{_PREFIX}/registered-models/alias", source=f"{_SOURCE}; {_DOCS} (10 aliases)")
    def set_alias(self, call: Call) -> None:
        """Point an alias to a version; there is no compare-and-set."""
        self.catalog.set_alias(call.principal, call.need("name"), call.need("alias"), call.need("version"))

    @route("GET", f"{_PREFIX}/registered-models/alias", source=_SOURCE)
    def version_by_alias(self, call: Call) -> Any:
        """Return the version that an alias points to."""
        found = self.catalog.version_by_alias(call.principal, call.need("name"), call.need("alias"))
        return {"model_version": model_version(self.workspace, *found)}

    @route("DELETE", f"{_PREFIX}/registered-models/alias", source=_SOURCE)
    def delete_alias(self, call: Call) -> None:
        """Delete an alias."""
        self.catalog.delete_alias(call.principal, call.need("name"), call.need("alias"))

    # -- model versions

    @route("POST", f"{_PREFIX}/model-versions/create", source=f"{_SOURCE}; {_DOCS} (CREATE MODEL VERSION)")
    def create_version(self, call: Call) -> Any:
        """Create a version, PENDING_REGISTRATION until it is finalized."""
        name = call.need("name")
        version = self.catalog.create_version(
            call.principal,
            name,
            tags=call.get("tags"),
            comment=call.get("description"),
            source=call.need("source"),
            run_id=call.get("run_id"),
            model_id=call.get("model_id"),
            run_tracking_server_id=call.get("run_tracking_server_id"),
            dependencies=call.get("model_version_dependencies"),
        )
        return self._answer(name, version)

    @route("POST", f"{_PREFIX}/model-versions/finalize", source=_SOURCE)
    def finalize_version(self, call: Call) -> Any:
        """Make a pending version READY; its files and signature are not looked at."""
        name = call.need("name")
        return self._answer(name, self.catalog.finalize_version(call.principal, name, call.need("version")))

    @route("GET", f"{_PREFIX}/model-versions/get", source=_SOURCE)
    def get_version(self, call: Call) -> Any:
        """Return a version with its aliases and tags."""
        found = self.catalog.version(call.principal, call.need("name"), call.need("version"))
        return {"model_version": model_version(self.workspace, *found)}

    @route("PATCH", f"{_PREFIX}/model-versions/update", source=_SOURCE)
    def update_version(self, call: Call) -> Any:
        """Change the description of a version."""
        name = call.need("name")
        changed = self.catalog.update_version(call.principal, name, call.need("version"), call.get("description"))
        return self._answer(name, changed)

    @route("DELETE", f"{_PREFIX}/model-versions/delete", source="databricks-sdk ModelVersionsAPI.delete (aliases)")
    def delete_version(self, call: Call) -> None:
        """Delete a version with its files and aliases; its number is never given again."""
        self.catalog.delete_version(call.principal, call.need("name"), call.need("version"))

    @route("GET", f"{_PREFIX}/model-versions/search", source=f"{_SOURCE}; mlflow#12217 (name only), mlflow#16734")
    def search_versions(self, call: Call) -> Any:
        """List the versions of one model, in no order, without aliases and tags."""
        match = _FILTER.fullmatch(str(call.get("filter") or ""))
        if not match:
            raise invalid(
                f"Unsupported filter {call.get('filter')!r}: model versions in Unity Catalog can be searched by "
                "\"name = '<catalog>.<schema>.<model>'\" only."
            )
        model = self.catalog.model(call.principal, match[1] or match[2])
        versions = list(model.versions.values())
        found, token = page(versions, lambda v: v.id, call, **self.workspace.paging(10_000, 10_000))
        listed = [model_version(self.workspace, model, version, listed=True) for version in found]
        return present(model_versions=listed, next_page_token=token)

    @route("POST", f"{_PREFIX}/model-versions/set-tag", source=_SOURCE)
    def set_version_tag(self, call: Call) -> None:
        """Set a tag of a version."""
        tag = {call.need("key"): call.get("value")}
        self.catalog.change_tags(call.principal, call.need("name"), tag, [], call.need("version"))

    @route("DELETE", f"{_PREFIX}/model-versions/delete-tag", source=_SOURCE)
    def delete_version_tag(self, call: Call) -> None:
        """Delete a tag of a version."""
        self.catalog.change_tags(call.principal, call.need("name"), {}, [call.need("key")], call.need("version"))

    # -- files

    @route("GET", f"{_PREFIX}/model-versions/get-download-uri", source=_SOURCE)
    def download_uri(self, call: Call) -> Any:
        """Return the storage location of a version."""
        found = self.catalog.version(call.principal, call.need("name"), call.need("version"))
        return {"artifact_uri": self.workspace.storage_location(*found)}

    @route("POST", f"{_PREFIX}/model-versions/generate-temporary-credentials", source=_SOURCE)
    def credentials(self, call: Call) -> Any:
        """Return temporary credentials: storage mode DEFAULT_STORAGE, or keys of the cloud below ``/s3``."""
        operation = str(call.get("operation"))
        if operation not in _OPERATIONS:
            raise invalid(f"operation {operation!r} is not valid.")
        kind = _OPERATIONS[operation]
        found = self.catalog.version(call.principal, call.need("name"), call.need("version"), kind)
        return {"credentials": temporary_credentials(self.workspace, *found, write=kind != "read")}

    @route(
        "GET",
        f"{_PREFIX}/registered-models:is-databricks-sdk-models-artifact-repository-enabled",
        source="mlflow/utils/_unity_catalog_utils.py",
    )
    def uses_files_api(self, _: Call) -> Any:
        """Say whether clients shall use the Files API."""
        return {"is_databricks_sdk_models_artifact_repository_enabled": self.workspace.settings.storage == "files"}

    @route("POST", f"{_PREFIX}/model-versions/emit-lineage", source="mlflow/utils/_unity_catalog_utils.py")
    def emit_lineage(self, call: Call) -> None:
        """Take lineage and forget it."""
        if not isinstance(call.need("model_version_lineage_info"), dict):
            raise invalid("model_version_lineage_info must be an object.")
        self.catalog.version(call.principal, call.need("name"), call.need("version"))

    def _answer(self, name: Any, version: Version) -> dict[str, Any]:
        model = self.workspace.state.model(rules.model_name(name))
        return {"model_version": model_version(self.workspace, model, version)}


def registered_model(model: Model, *, listed: bool = False) -> dict[str, Any]:
    """Return a model as this dialect shows it."""
    aliases = [{"alias": alias, "version": str(number)} for alias, number in sorted(model.aliases.items())]
    return present(
        name=model.name,
        creation_timestamp=model.created_at,
        last_updated_timestamp=model.updated_at,
        user_id=model.created_by,
        description=model.comment,
        aliases=None if listed else aliases,
        tags=None if listed else tag_list(model.tags),
        deployment_job_id=model.deployment_job_id,
        deployment_job_state="CONNECTED" if model.deployment_job_id else None,
    )


def model_version(workspace: Workspace, model: Model, version: Version, *, listed: bool = False) -> dict[str, Any]:
    """Return a version as this dialect shows it."""
    number = str(version.version)
    return present(
        name=model.name,
        version=number,
        creation_timestamp=version.created_at,
        last_updated_timestamp=version.updated_at,
        user_id=version.created_by,
        description=version.comment,
        source=version.source,
        run_id=version.run_id,
        run_tracking_server_id=version.run_tracking_server_id,
        status=version.status,
        status_message=version.status_message,
        storage_location=workspace.storage_location(model, version),
        aliases=None if listed else [{"alias": a, "version": number} for a in model.aliases_of(version.version)],
        tags=None if listed else tag_list(version.tags),
        model_id=version.model_id,
    )


def bare_name(settings: Settings, name: str, new_name: str) -> str:
    """Return the last level of a new name, which may not lead to another schema."""
    schema, _, bare = new_name.lower().rpartition(".")
    if (schema and settings.new_name == "bare") or (not schema and settings.new_name == "full"):
        raise invalid(f"new_name {new_name!r} must be the {settings.new_name} name of the model.")
    if schema and schema != rules.model_name(name).rpartition(".")[0]:
        raise invalid(f"new_name {new_name!r} is in another schema; a model can only be renamed within its own.")
    return bare


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """Return tags as lists of key and value."""
    return [{"key": key, "value": value} for key, value in sorted(tags.items())]
