"""MLflow's registry REST dialect: an MLflow server and Unity Catalog on Databricks, told apart by path prefix.

Paths, methods and bodies are those of MLflow's own clients (``mlflow/store/model_registry/rest_store.py`` and
``mlflow/store/_unity_catalog/registry/rest_store.py``); a test sends every verb from both and compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from airflow_uc_models.entities import LoggedModel, ModelVersion, RegisteredModel, Run
from airflow_uc_models.names import is_model_name, parse_alias, parse_schema, parse_version
from airflow_uc_models.registry import wire
from airflow_uc_models.registry.base import Capabilities, TagRules, str_tags
from airflow_uc_models.registry.call import Call, Request
from airflow_uc_models.registry.privileges import needs
from airflow_uc_models.registry.rest import RestRegistry

T = TypeVar("T")
MLFLOW_PREFIX = "/api/2.0/mlflow"
UNITY_CATALOG_PREFIX = "/api/2.0/mlflow/unity-catalog"

MLFLOW_SERVER = Capabilities(
    label="MLflow server",
    aliases=True,
    # mlflow/utils/validation.py: MAX_MODEL_REGISTRY_TAG_*, validate_param_and_metric_name, path_not_unique
    tags=TagRules(
        250,
        100_000,
        r"(?!\.\.)(?!\.\.?(/|$))[\w.\- :]+(/(?!\.\.?(/|$))[\w.\- :]+)*",
        "use letters, digits, underscores, dashes, periods, spaces, colons, and slashes only as in a plain path",
    ),
    tag_search=True,
    version_order=True,
    lowercase_names=False,
    signature_required=False,
    uploads=False,
    moves_between_schemas=True,
)
UNITY_CATALOG = Capabilities(
    label="Unity Catalog",
    aliases=True,
    # docs.databricks.com "Apply tags to Unity Catalog securable objects"; mlflow/recipes-examples#58 for the key
    tags=TagRules(
        255,
        1_000,
        r"(?! )[^.,\-=/:]+(?<! )",
        "Unity Catalog refuses . , - = / : in keys, and spaces at either end",
        max_per_object=50,
    ),
    tag_search=False,
    version_order=False,
    lowercase_names=True,
    signature_required=True,
    uploads=True,
    moves_between_schemas=False,
    limits={"description": 65_536},  # docs: Databricks REST API, uc-registered-models
)
# MlflowClient's own page sizes (mlflow/store/model_registry/__init__.py)
_MODEL_PAGE = 100
_VERSION_PAGE = 10_000
_CATALOG_MODELS = "/api/2.1/unity-catalog/models"  # Unity Catalog's own dialect, which MLflow speaks on request
_CATALOG_PAGE = 1000
_WORKSPACE_ID = "x-databricks-org-id"  # a workspace puts its number on every answer
_BY_NAME = re.compile(r"""\s*name\s*=\s*(['"])(?P<name>[^'"]+)\1""")
# Prompts are registered models with a tag; MlflowClient leaves them out of its search, too.
_NO_PROMPTS = "tag.`mlflow.prompt.is_prompt` != 'true'"


class MlflowRestRegistry(RestRegistry):
    """An MLflow server (``/api/2.0/mlflow``) or Unity Catalog (``/api/2.0/mlflow/unity-catalog``).

    :param prefix: the path prefix of registry calls
    :param capabilities: what the registry behind it can do
    """

    def __init__(self, prefix: str = MLFLOW_PREFIX, capabilities: Capabilities = MLFLOW_SERVER) -> None:
        self.prefix = prefix
        self.capabilities = capabilities

    @property
    def is_unity_catalog(self) -> bool:
        """Whether this is Unity Catalog on Databricks."""
        return self.capabilities is UNITY_CATALOG

    # -- registered models

    def create_registered_model(
        self, name: str, *, description: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Call[RegisteredModel]:
        name = self.normalize(name)
        body = wire.drop_unset(name=name, description=description or None, tags=self._tags(tags))
        action = f"create registered model {name}"
        request = self._on(
            "POST", "registered-models/create", "create_registered_model", name, action, body, repeatable=False
        )
        return (yield from self._ask(request, wire.registered_model))

    def get_registered_model(self, name: str) -> Call[RegisteredModel]:
        name = self.normalize(name)
        action = f"get registered model {name}"
        request = self._on("GET", "registered-models/get", "get_registered_model", name, action, {"name": name})
        return (yield from self._ask(request, wire.registered_model))

    def update_registered_model(self, name: str, *, description: str) -> Call[RegisteredModel]:
        name = self.normalize(name)
        action = f"update the description of registered model {name}"
        body = {"name": name, "description": description}
        request = self._on("PATCH", "registered-models/update", "update_registered_model", name, action, body)
        return (yield from self._ask(request, wire.registered_model))

    def rename_registered_model(self, name: str, new_name: str) -> Call[RegisteredModel]:
        name, new_name = self._renamed(name, new_name)
        action = f"rename registered model {name} to {new_name}"
        method, path = ("PATCH", "update") if self.is_unity_catalog else ("POST", "rename")
        request = self._on(
            method,
            f"registered-models/{path}",
            "rename_registered_model",
            name,
            action,
            {"name": name, "new_name": new_name},
            repeatable=False,
        )
        return (yield from self._ask(request, wire.registered_model))

    def delete_registered_model(self, name: str, *, force: bool = True) -> Call[None]:  # noqa: ARG002
        name = self.normalize(name)
        action = f"delete registered model {name}"
        request = self._on(
            "DELETE", "registered-models/delete", "delete_registered_model", name, action, {"name": name}
        )
        yield from self._delete(request)

    def search_registered_models(
        self,
        *,
        filter_string: str | None = None,
        order_by: list[str] | None = None,
        max_results: int | None = None,
        schema: str | None = None,
    ) -> Call[list[RegisteredModel]]:
        if self.is_unity_catalog and (filter_string or order_by):
            raise self.unsupported("filter_string and order_by for registered models", "Give schema instead.")
        if self.is_unity_catalog and schema:
            return (yield from self._list_schema(schema.lower(), max_results))
        prefix = f"{'.'.join(parse_schema(schema))}." if schema else ""
        if not self.is_unity_catalog:
            parts = [filter_string, f"name LIKE '{prefix}%'" if prefix else None, _NO_PROMPTS]
            filter_string = " AND ".join(part for part in parts if part)
        query = wire.drop_unset(filter=filter_string or None, order_by=order_by or None)
        action = "search registered models"
        request = self._on("GET", "registered-models/search", "search_registered_models", "", action, query)

        def matching(body: Mapping[str, Any]) -> list[RegisteredModel]:
            found = [model for model in wire.registered_models(body) if model.name.startswith(prefix)]
            # An MLflow server takes names of any form; of a schema only those that are in it count.
            return [model for model in found if not schema or is_model_name(model.name)]

        return (yield from self._pages(request, matching, max_results, _MODEL_PAGE))

    def _list_schema(self, schema: str, max_results: int | None) -> Call[list[RegisteredModel]]:
        """List the models of a schema as databricks-sdk does: MLflow's search would list the whole metastore."""
        catalog_name, schema_name = parse_schema(schema)
        query = {"catalog_name": catalog_name, "schema_name": schema_name}
        request = Request("GET", _CATALOG_MODELS, params=query, action=f"list the registered models of {schema}")
        return (yield from self._pages(request, wire.catalog_models, max_results, _CATALOG_PAGE))

    def set_registered_model_tag(self, name: str, key: str, value: str) -> Call[None]:
        name = self.normalize(name)
        self.tag_rules().check({key: value})
        action = f"set tag {key!r} of registered model {name}"
        body = {"name": name, "key": key, "value": value}
        request = self._on("POST", "registered-models/set-tag", "set_registered_model_tag", name, action, body)
        yield from self._ask(request, wire.nothing)

    def delete_registered_model_tag(self, name: str, key: str) -> Call[None]:
        name = self.normalize(name)
        self.tag_rules().check_key(key)
        action = f"delete tag {key!r} of registered model {name}"
        request = self._on(
            "DELETE",
            "registered-models/delete-tag",
            "delete_registered_model_tag",
            name,
            action,
            {"name": name, "key": key},
        )
        yield from self._delete(request)

    # -- model versions

    def create_model_version(
        self,
        name: str,
        source: str,
        *,
        run_id: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,
        dependencies: Sequence[Mapping[str, str]] = (),
        run_workspace_id: str | None = None,
    ) -> Call[ModelVersion]:
        name = self.normalize(name)
        body = wire.drop_unset(
            name=name,
            source=source,
            run_id=run_id or None,
            description=description or None,
            tags=self._tags(tags),
            model_id=model_id or None,
        )
        if self.is_unity_catalog:
            # feature_deps belong to the feature store; outside of Databricks MLflow says that there are none, too
            body |= wire.drop_unset(
                feature_deps="",
                model_version_dependencies=list(dependencies) or None,
                run_tracking_server_id=run_workspace_id or None,
            )
        action = f"create a version of {name} from {source}"
        request = self._on(
            "POST", "model-versions/create", "create_model_version", name, action, body, repeatable=False
        )
        return (yield from self._ask(request, self._version_of))

    def finalize_model_version(self, name: str, version: int) -> Call[ModelVersion]:
        if not self.is_unity_catalog:
            raise self.unsupported("finalize_model_version", "Its versions are READY at once.")
        name, body = self._version(name, version)
        action = f"finalize model version {name}/{version}"
        request = self._on("POST", "model-versions/finalize", "finalize_model_version", name, action, body)
        return (yield from self._ask(request, self._version_of))

    def get_model_version(self, name: str, version: int) -> Call[ModelVersion]:
        name, query = self._version(name, version)
        action = f"get model version {name}/{version}"
        request = self._on("GET", "model-versions/get", "get_model_version", name, action, query)
        return (yield from self._ask(request, self._version_of))

    def get_model_version_by_alias(self, name: str, alias: str) -> Call[ModelVersion]:
        name, query = self._alias(name, alias)
        action = f"get the version of {name} that alias {alias!r} points to"
        request = self._on("GET", "registered-models/alias", "get_model_version_by_alias", name, action, query)
        return (yield from self._ask(request, self._version_of))

    def get_model_version_download_uri(self, name: str, version: int) -> Call[str]:
        name, query = self._version(name, version)
        action = f"find the files of model version {name}/{version}"
        request = self._on(
            "GET", "model-versions/get-download-uri", "get_model_version_download_uri", name, action, query
        )
        return (yield from self._ask(request, lambda body: str(body["artifact_uri"])))

    def update_model_version(self, name: str, version: int, *, description: str) -> Call[ModelVersion]:
        name, body = self._version(name, version)
        action = f"update the description of model version {name}/{version}"
        body["description"] = description
        request = self._on("PATCH", "model-versions/update", "update_model_version", name, action, body)
        return (yield from self._ask(request, self._version_of))

    def delete_model_version(self, name: str, version: int) -> Call[None]:
        name, body = self._version(name, version)
        action = f"delete model version {name}/{version}"
        request = self._on("DELETE", "model-versions/delete", "delete_model_version", name, action, body)
        yield from self._delete(request)

    def search_model_versions(
        self,
        *,
        filter_string: str,
        order_by: list[str] | None = None,
        max_results: int | None = None,
    ) -> Call[list[ModelVersion]]:
        if self.is_unity_catalog and order_by:
            raise self.unsupported("order_by for model versions")
        query = wire.drop_unset(filter=filter_string, order_by=order_by or None)
        action = f"search model versions with {filter_string}"
        name = _BY_NAME.match(filter_string)
        request = self._on(
            "GET", "model-versions/search", "search_model_versions", name["name"] if name else "", action, query
        )
        return (yield from self._pages(request, self._versions_of, max_results, _VERSION_PAGE))

    def set_model_version_tag(self, name: str, version: int, key: str, value: str) -> Call[None]:
        name, body = self._version(name, version)
        self.tag_rules().check({key: value})
        body |= {"key": key, "value": value}
        action = f"set tag {key!r} of model version {name}/{version}"
        request = self._on("POST", "model-versions/set-tag", "set_model_version_tag", name, action, body)
        yield from self._ask(request, wire.nothing)

    def delete_model_version_tag(self, name: str, version: int, key: str) -> Call[None]:
        name, body = self._version(name, version)
        self.tag_rules().check_key(key)
        body["key"] = key
        action = f"delete tag {key!r} of model version {name}/{version}"
        request = self._on("DELETE", "model-versions/delete-tag", "delete_model_version_tag", name, action, body)
        yield from self._delete(request)

    # -- aliases

    def set_registered_model_alias(self, name: str, alias: str, version: int) -> Call[None]:
        name, body = self._alias(name, alias)
        body["version"] = str(parse_version(version))
        action = f"point alias {alias!r} of {name} to version {version}"
        request = self._on("POST", "registered-models/alias", "set_registered_model_alias", name, action, body)
        yield from self._ask(request, wire.nothing)

    def delete_registered_model_alias(self, name: str, alias: str) -> Call[None]:
        name, body = self._alias(name, alias)
        action = f"delete alias {alias!r} of {name}"
        request = self._on("DELETE", "registered-models/alias", "delete_registered_model_alias", name, action, body)
        yield from self._delete(request)

    # -- tracking

    def get_run(self, run_id: str) -> Call[Run]:
        request = Request("GET", f"{MLFLOW_PREFIX}/runs/get", {"run_id": run_id}, action=f"get run {run_id}")
        response = yield request
        return replace(self._read(response, request, wire.run), workspace_id=response.headers.get(_WORKSPACE_ID))

    def get_logged_model(self, model_id: str) -> Call[LoggedModel]:
        path = f"{MLFLOW_PREFIX}/logged-models/{quote(model_id, safe='')}"
        request = Request("GET", path, action=f"get logged model {model_id}")
        response = yield request
        model = self._read(response, request, wire.logged_model)
        return replace(model, workspace_id=response.headers.get(_WORKSPACE_ID))

    # -- files, where the registry holds a copy of its own

    def files_api_enabled(self) -> Call[bool]:
        """Return whether the workspace wants model files through its Files API (``/Models/...``)."""
        path = f"{self.prefix}/registered-models:is-databricks-sdk-models-artifact-repository-enabled"
        request = Request("GET", path, action="ask how model files are transferred")
        flag = "is_databricks_sdk_models_artifact_repository_enabled"
        return (yield from self._ask(request, lambda body: bool(body.get(flag))))

    def temporary_credentials(self, name: str, version: int, *, write: bool) -> Call[dict[str, Any]]:
        """Return credentials for the storage of a version, as the workspace gives them."""
        name, body = self._version(name, version)
        body["operation"] = f"MODEL_VERSION_OPERATION_READ{'_WRITE' if write else ''}"
        action = f"get credentials for the files of model version {name}/{version}"
        verb = "create_model_version" if write else "get_model_version"
        request = self._on("POST", "model-versions/generate-temporary-credentials", verb, name, action, body)
        return (yield from self._ask(request, lambda body: dict(body["credentials"])))

    def ask(
        self, method: str, path: str, arguments: Mapping[str, Any], action: str, needs: str, read: Callable[[Any], T]
    ) -> Call[T]:
        """Ask the workspace around the registry something that may be asked twice.

        :param read: makes the answer's JSON object into what is returned
        """
        in_query = method == "GET"
        query, body = (arguments, None) if in_query else (None, arguments)
        return (yield from self._ask(Request(method, path, query, body, action, needs), read))

    # -- the parts that verbs are made of

    def needs(self, verb: str, name: str) -> str:
        return needs(verb, name, unity_catalog=self.is_unity_catalog)

    def _version_of(self, body: Mapping[str, Any]) -> ModelVersion:
        version = wire.model_version(body)
        return version if self.is_unity_catalog else wire.with_logged_model(version)

    def _versions_of(self, body: Mapping[str, Any]) -> list[ModelVersion]:
        return [self._version_of({"model_version": item}) for item in body.get("model_versions") or []]

    def _tags(self, tags: Mapping[str, str] | None) -> list[dict[str, str]] | None:
        if not tags:
            return None
        self.tag_rules().check(tags := str_tags(tags))
        return [{"key": key, "value": value} for key, value in tags.items()]

    def _version(self, name: str, version: int) -> tuple[str, dict[str, Any]]:
        name = self.normalize(name)
        return name, {"name": name, "version": str(parse_version(version))}

    def _alias(self, name: str, alias: str) -> tuple[str, dict[str, Any]]:
        name = self.normalize(name)
        return name, {"name": name, "alias": parse_alias(alias)}
