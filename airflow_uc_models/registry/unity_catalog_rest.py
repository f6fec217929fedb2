"""The open-source Unity Catalog server's REST dialect (``/api/2.1/unity-catalog``), as far as it has models.

Paths, methods and bodies are those of MLflow's client (``mlflow/store/_unity_catalog/registry/uc_oss_rest_store.py``)
for the verbs that it has; a test sends them from both and compares. What is ours: renames, and ``force`` on the
deletion of a model, without which the server keeps one that has versions.

The server has neither aliases nor tags, so these verbs are refused before any call. What a version must carry, its
comment carries (``registration.keyed``). It answers deletions, and paths that it does not know, in plain text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

from airflow_uc_models.entities import READY, LoggedModel, ModelVersion, RegisteredModel, Run
from airflow_uc_models.exceptions import (
    InvalidNameError,
    NotFoundError,
    UnsupportedOperationError,
)
from airflow_uc_models.names import ModelName, parse_schema, parse_version
from airflow_uc_models.registry import wire
from airflow_uc_models.registry.answers import expect_object
from airflow_uc_models.registry.base import Capabilities, TagRules
from airflow_uc_models.registry.call import Call, Request, Response
from airflow_uc_models.registry.privileges import open_source_needs
from airflow_uc_models.registry.rest import RestRegistry, next_page

PREFIX = "/api/2.1/unity-catalog"
OPEN_SOURCE_UC = Capabilities(
    label="open-source Unity Catalog server",
    aliases=False,
    tags=None,
    tag_search=False,
    version_order=False,
    lowercase_names=False,
    signature_required=False,
    uploads=True,
    moves_between_schemas=False,
    keeps_run_ids=True,
    # The columns of its tables; what is longer is a 500 that leaves a folder behind, each time it is tried.
    limits={"description": 65_535, "source": 255, "run_id": 255},
    unique_versions=False,
)
# MlflowClient's own page sizes; the server sends 100 at most and a token for more
_MODEL_PAGE = 100
_VERSION_PAGE = 10_000
_LEVEL = re.compile(r"[a-zA-Z0-9_@-]{1,255}")
_BY_NAME = re.compile(r"""\s*name\s*=\s*(['"])(?P<name>[^'"]+)\1\s*""")
_NO_ALIASES = "Name versions by their number, and keep which one is in use elsewhere, such as in an Airflow Variable."
_NO_TAGS = "Put what has to stay with the model or version into its description."
_NO_TRACKING = "Give tracking_conn_id, the connection of the MLflow server that holds it."


class UnityCatalogRestRegistry(RestRegistry):
    """An open-source Unity Catalog server."""

    prefix = PREFIX
    capabilities = OPEN_SOURCE_UC

    # -- registered models

    def create_registered_model(
        self, name: str, *, description: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Call[RegisteredModel]:
        name, parts = self._parts(name)
        self._no_tags(tags)
        body = {"name": parts.pop("model_name"), **parts, "comment": description or ""}
        request = self._on(
            "POST", "models", "create_registered_model", name, f"create registered model {name}", body, repeatable=False
        )
        return (yield from self._ask(request, wire.catalog_model))

    def get_registered_model(self, name: str) -> Call[RegisteredModel]:
        name = self.normalize(name)
        action = f"get registered model {name}"
        request = self._on("GET", _model(name), "get_registered_model", name, action, {"full_name": name})
        return (yield from self._ask(request, wire.catalog_model))

    def update_registered_model(self, name: str, *, description: str) -> Call[RegisteredModel]:
        name = self.normalize(name)
        action = f"update the description of registered model {name}"
        body = {"full_name": name, "comment": description}
        request = self._on("PATCH", _model(name), "update_registered_model", name, action, body)
        return (yield from self._ask(request, wire.catalog_model))

    def rename_registered_model(self, name: str, new_name: str) -> Call[RegisteredModel]:
        name, new = self._renamed(name, new_name)
        action = f"rename registered model {name} to {new}"
        body = {"full_name": name, "new_name": ModelName.parse(new).model}
        request = self._on("PATCH", _model(name), "rename_registered_model", name, action, body, repeatable=False)
        return (yield from self._ask(request, wire.catalog_model))

    def delete_registered_model(self, name: str, *, force: bool = True) -> Call[None]:
        name = self.normalize(name)
        action = f"delete registered model {name}"
        request = self._on(
            "DELETE",
            _model(name),
            "delete_registered_model",
            name,
            action,
            {"full_name": name},
            params={"force": "true"} if force else None,
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
        if filter_string or order_by:
            raise self.unsupported("filter_string and order_by for registered models", "Give schema instead.")
        query = {}
        if schema is not None:
            catalog_name, schema_name = parse_schema(schema)
            query = {"catalog_name": catalog_name, "schema_name": schema_name}
        # The pages of a schema are cut by name, those of the whole server by id.
        request = self._on("GET", "models", "search_registered_models", "", "search registered models", query)
        key = _model_key if query else None
        found = yield from self._pages(request, wire.catalog_models, max_results, _MODEL_PAGE, key)
        models = {model.name: model for model in found}
        if len(models) < len(found):
            times = Counter(model.name for model in found)
            for name in (name for name in models if times[name] > 1):
                models[name] = yield from self.get_registered_model(name)  # whatever is done to the name is done to it
        return list(models.values())

    def registered_models_named(self, name: str) -> Call[list[RegisteredModel]]:
        parsed = ModelName.parse(self.normalize(name))
        query: dict[str, Any] = {"catalog_name": parsed.catalog, "schema_name": parsed.schema}
        if len(parsed.model) > 1:
            query["page_token"] = parsed.model[:-1]  # sorts before the name, and after most of the others
        request = self._on("GET", "models", "search_registered_models", "", "search registered models", query)
        query["max_results"] = _MODEL_PAGE
        found: list[RegisteredModel] = []
        while True:
            items, token = yield from self._page(request, query, wire.catalog_models)
            found = [model for model in items if model.name == str(parsed)] or found
            if not token or (found and items[-1:] != found[-1:]):
                return found
            query["page_token"], _ = next_page(items, token, _model_key)

    # -- model versions

    def create_model_version(
        self,
        name: str,
        source: str,
        *,
        run_id: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,  # noqa: ARG002 - the server keeps none
        dependencies: Sequence[Mapping[str, str]] = (),  # noqa: ARG002 - nor these
        run_workspace_id: str | None = None,  # noqa: ARG002 - nor this
    ) -> Call[ModelVersion]:
        name, parts = self._parts(name)
        self._no_tags(tags)
        body = wire.drop_unset(**parts, source=source, run_id=run_id or None, comment=description or None)
        action = f"create a version of {name} from {source}"
        request = self._on("POST", "models/versions", "create_model_version", name, action, body, repeatable=False)
        return (yield from self._ask(request, _model_version))

    def finalize_model_version(self, name: str, version: int) -> Call[ModelVersion]:
        # The server acts on what the body says.
        name, path, body = self._version(name, version)
        action = f"finalize model version {name}/{version}"
        request = self._on("PATCH", f"{path}/finalize", "finalize_model_version", name, action, body)
        return (yield from self._ask(request, _model_version))

    def get_model_version(self, name: str, version: int) -> Call[ModelVersion]:
        name, path, query = self._version(name, version)
        request = self._on("GET", path, "get_model_version", name, f"get model version {name}/{version}", query)
        return (yield from self._ask(request, _model_version))

    def get_model_version_download_uri(self, name: str, version: int) -> Call[str]:
        name, path, query = self._version(name, version)
        action = f"find the files of model version {name}/{version}"
        request = self._on("GET", path, "get_model_version_download_uri", name, action, query)
        return (yield from self._ask(request, lambda body: str(body["storage_location"])))

    def update_model_version(self, name: str, version: int, *, description: str) -> Call[ModelVersion]:
        name, path, body = self._version(name, version)
        action = f"update the description of model version {name}/{version}"
        request = self._on("PATCH", path, "update_model_version", name, action, {**body, "comment": description})
        return (yield from self._ask(request, _model_version))

    def delete_model_version(self, name: str, version: int) -> Call[None]:
        name, path, body = self._version(name, version)
        action = f"delete model version {name}/{version}"
        yield from self._delete(self._on("DELETE", path, "delete_model_version", name, action, body))

    def search_model_versions(
        self,
        *,
        filter_string: str,
        order_by: list[str] | None = None,
        max_results: int | None = None,
    ) -> Call[list[ModelVersion]]:
        found = _BY_NAME.fullmatch(filter_string)
        if order_by or not found:
            raise self.unsupported("order_by and filters but name='catalog.schema.model' for model versions")
        listed = yield from self.list_model_versions(found["name"], max_results=max_results)
        # Of versions that share a number one at most is complete.
        versions = {version.version: version for version in sorted(listed, key=lambda v: v.is_ready)}
        return sorted(versions.values(), key=lambda version: version.version)

    def list_model_versions(self, name: str, *, max_results: int | None = None) -> Call[list[ModelVersion]]:
        request = self._on_versions(name)
        return (yield from self._pages(request, _model_versions, max_results, _VERSION_PAGE, _version_key))

    def model_versions_numbered(self, name: str, version: int) -> Call[list[ModelVersion]]:
        number = parse_version(version)
        # A token is the last number of a page: whatever has the next one stands at the beginning of the page after it.
        request = self._on_versions(name)
        query = {**(request.params or {}), "max_results": _MODEL_PAGE, "page_token": str(number - 1)}
        try:
            found, _ = yield from self._page(request, query, _model_versions)
        except NotFoundError:
            return []
        return [item for item in found if item.version == number]

    def temporary_credentials(self, name: str, version: int, *, write: bool) -> Call[dict[str, Any]]:
        """Return credentials for the cloud storage of a version; file storage has none."""
        name, parts = self._parts(name)
        operation = "READ_WRITE_MODEL_VERSION" if write else "READ_MODEL_VERSION"
        body = {**parts, "version": parse_version(version), "operation": operation}
        action = f"get credentials for the files of model version {name}/{version}"
        verb = "finalize_model_version" if write else "get_model_version"
        request = self._on("POST", "temporary-model-version-credentials", verb, name, action, body)
        # The server spells out what is not set, and mlflow's parser knows no null.
        return (yield from self._ask(request, lambda body: {k: v for k, v in body.items() if v is not None}))

    # -- what the server does not have

    def get_model_version_by_alias(self, name: str, alias: str) -> Call[ModelVersion]:  # noqa: ARG002
        self._no_aliases()

    def set_registered_model_alias(self, name: str, alias: str, version: int) -> Call[None]:  # noqa: ARG002
        self._no_aliases()

    def delete_registered_model_alias(self, name: str, alias: str) -> Call[None]:  # noqa: ARG002
        self._no_aliases()

    def set_registered_model_tag(self, name: str, key: str, value: str) -> Call[None]:  # noqa: ARG002
        raise self._tags_unsupported()

    def delete_registered_model_tag(self, name: str, key: str) -> Call[None]:  # noqa: ARG002
        raise self._tags_unsupported()

    def set_model_version_tag(self, name: str, version: int, key: str, value: str) -> Call[None]:  # noqa: ARG002
        raise self._tags_unsupported()

    def delete_model_version_tag(self, name: str, version: int, key: str) -> Call[None]:  # noqa: ARG002
        raise self._tags_unsupported()

    def get_run(self, run_id: str) -> Call[Run]:
        raise self.unsupported(f"runs, such as {run_id}", _NO_TRACKING)

    def get_logged_model(self, model_id: str) -> Call[LoggedModel]:
        raise self.unsupported(f"logged models, such as {model_id}", _NO_TRACKING)

    def tag_rules(self, instead: str = _NO_TAGS) -> TagRules:
        return super().tag_rules(instead)

    def expect_aliases(self) -> None:
        self._no_aliases()

    def _no_aliases(self) -> NoReturn:
        raise self.unsupported("aliases", _NO_ALIASES)

    def _no_tags(self, tags: Mapping[str, str] | None) -> None:
        if tags:
            raise self._tags_unsupported()

    def _tags_unsupported(self) -> UnsupportedOperationError:
        return self.unsupported("tags", _NO_TAGS)

    # -- the parts that verbs are made of

    def normalize(self, name: str | ModelName) -> str:
        parsed = ModelName.parse(name)
        for level in (parsed.catalog, parsed.schema, parsed.model):
            if not _LEVEL.fullmatch(level):
                raise InvalidNameError(
                    f"{level!r} in model name '{parsed}' is not allowed: the {self.capabilities.label} takes ASCII "
                    "letters, digits, _, - and @ only."
                )
        return str(parsed)

    def _parts(self, name: str) -> tuple[str, dict[str, Any]]:
        parsed = ModelName.parse(self.normalize(name))
        return str(parsed), {
            "model_name": parsed.model,
            "catalog_name": parsed.catalog,
            "schema_name": parsed.schema,
        }

    def _on_versions(self, name: str) -> Request:
        name = self.normalize(name)
        verb = "search_model_versions"
        return self._on("GET", f"{_model(name)}/versions", verb, name, f"list versions of {name}", {"full_name": name})

    def _version(self, name: str, version: int) -> tuple[str, str, dict[str, Any]]:
        name, number = self.normalize(name), parse_version(version)
        return name, f"{_model(name)}/versions/{number}", {"full_name": name, "version": number}

    def needs(self, verb: str, name: str) -> str:
        return open_source_needs(verb, name)

    def _expect_deleted(self, response: Response, request: Request) -> None:
        if not 200 <= response.status < 300:  # what a success says is plain text
            expect_object(response, request, self.capabilities.label)


def _model(name: str) -> str:
    return f"models/{quote(name, safe='@')}"


def _model_key(model: RegisteredModel) -> str:
    return ModelName.parse(model.name).model


def _version_key(version: ModelVersion) -> str:
    return str(version.version)


def _model_versions(body: Mapping[str, Any]) -> list[ModelVersion]:
    return [_model_version(item) for item in body.get("model_versions") or []]


def _model_version(item: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion(
        name=f"{item['catalog_name']}.{item['schema_name']}.{item['model_name']}",
        version=int(item["version"]),
        status=item.get("status") or READY,
        run_id=item.get("run_id") or None,
        model_id=wire.logged_model_id(item.get("source")),
        source=item.get("source") or None,
        storage_location=item.get("storage_location") or None,
        description=item.get("comment") or None,
        created_at=wire.millis(item.get("created_at")),
        updated_at=wire.millis(item.get("updated_at")),
        created_by=item.get("created_by") or None,
    )
