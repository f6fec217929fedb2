"""Airflow assets for registered models and for schemas of them.

``uc-model://<registry>/<catalog>/<schema>/<model>`` is a model, ``uc-model://<registry>/<catalog>/<schema>`` all models
of a schema. The registry is the id of an Airflow connection. A character that a URI cannot hold is percent-encoded.
Airflow brings every spelling of a URI into one form through ``sanitize_uri``, so that an asset is the same one however
it was written. Upper and lower case stay apart: MLflow servers keep them apart, and which kind of registry a
connection leads to is not known where assets are defined.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import SplitResult, quote, unquote, urlsplit

from airflow.sdk import Asset, AssetWatcher

from airflow_uc_models.exceptions import InvalidNameError
from airflow_uc_models.names import ModelName, parse_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEME = "uc-model"
DEFAULT_CONN_ID = "databricks_default"
# No square brackets: `airflow dags list-import-errors` takes them for markup, and breaks on "[/".
_FORM = f"{SCHEME}://<connection id>/<catalog>/<schema>/<model>, and a schema of models without the last level"


@dataclass(frozen=True, slots=True)
class ModelAssetName:
    """What an asset's URI names: a model, or a schema where ``model`` is None.

    :param registry_conn_id: the Airflow connection of the registry
    """

    registry_conn_id: str
    catalog: str
    schema: str
    model: str | None = None

    def __post_init__(self) -> None:
        if not self.registry_conn_id or "@" in self.registry_conn_id:
            raise InvalidNameError(
                f"{self.registry_conn_id!r} is no connection id; an asset of a model is written {_FORM}."
            )
        if any(mark in str(self) for mark in ("{{", "{%")):
            raise InvalidNameError(
                f"Asset {str(self)!r} holds a template, which Airflow does not render in assets. Name the model, or "
                "take an AssetAlias as outlet, which operators of this package fill when they run."
            )
        ModelName(self.catalog, self.schema, "any" if self.model is None else self.model)

    @classmethod
    def of(cls, model_name_or_schema: str | ModelName, registry_conn_id: str = DEFAULT_CONN_ID) -> Self:
        """Build it from ``catalog.schema.model``, or ``catalog.schema`` (``catalog.schema.*`` is the same)."""
        text = str(model_name_or_schema)
        if text.endswith(".*") or text.count(".") == 1:
            return cls(registry_conn_id, *parse_schema(text.removesuffix(".*")))
        name = ModelName.parse(text)
        return cls(registry_conn_id, name.catalog, name.schema, name.model)

    @property
    def model_name(self) -> str | None:
        """``catalog.schema.model``; None for a schema."""
        return None if self.model is None else f"{self.full_schema}.{self.model}"

    @property
    def full_schema(self) -> str:
        """``catalog.schema``."""
        return f"{self.catalog}.{self.schema}"

    @property
    def uri(self) -> str:
        """The URI, in the one form that Airflow stores."""
        levels = (self.registry_conn_id, self.catalog, self.schema, *(() if self.model is None else (self.model,)))
        return f"{SCHEME}://{'/'.join(quote(level, safe='') for level in levels)}"

    def covers(self, model_name: str, normalize: Callable[[str], str] = str) -> bool:
        """Whether the asset is that model or the schema it is in.

        :param normalize: gives a name as the registry stores it: Unity Catalog on Databricks stores lower case
        """
        name = ModelName.parse(model_name)
        return normalize(f"{self.full_schema}.{self.model or name.model}") == normalize(str(name))

    def __str__(self) -> str:
        return f"{SCHEME}://{self.registry_conn_id}/{self.catalog}/{self.schema}" + (
            f"/{self.model}" if self.model else ""
        )


def model_asset(
    model_name_or_schema: str | ModelName, registry_conn_id: str = DEFAULT_CONN_ID, **asset_options: Any
) -> Asset:
    """Return the asset of a registered model, or of all models of a schema.

    As an outlet of an operator of this package it carries what the task did to the model; in a Dag's ``schedule``
    it starts the Dag then. The asset is named by its URI, so that ``Asset("uc-model://...")`` is the same one.

    Raises: InvalidNameError, a ValueError, for a name that no registry takes.

    :param model_name_or_schema: ``catalog.schema.model``, ``catalog.schema`` or ``catalog.schema.*`` (str, not
        templated)
    :param registry_conn_id: connection of the registry (str, not templated)
    :param asset_options: further arguments of Asset, such as ``group`` or ``extra``
    """
    uri = ModelAssetName.of(model_name_or_schema, registry_conn_id).uri
    return Asset(**{"name": uri, "uri": uri, **asset_options})


def watched_model_asset(
    model_name_or_schema: str | ModelName,
    registry_conn_id: str = DEFAULT_CONN_ID,
    *,
    name: str = "",
    asset_options: Mapping[str, Any] | None = None,
    **trigger_options: Any,
) -> Asset:
    """Return an asset that gets an event for each thing that happens to a model, or to any model of a schema.

    ::

        with DAG("validate", schedule=[watched_model_asset("prod.ml_team.*")], max_active_runs=1): ...

    Without ``name`` it is ``model_asset`` with a watcher. An asset has one definition in all Dags of an Airflow, so a
    second watcher of the same model or schema, for other kinds of events, is an asset of its own: give it a ``name``.

    Raises: InvalidNameError or InvalidArgumentError, both ValueErrors, for what cannot be watched.

    :param model_name_or_schema: ``catalog.schema.model``, or ``catalog.schema.*`` for all models of a schema, future
        ones included (str, not templated)
    :param registry_conn_id: connection of the registry (str, not templated)
    :param name: the asset's name, where it is not to be the model's own asset (str)
    :param asset_options: further arguments of Asset, such as ``group`` or ``extra`` (dict)
    :param trigger_options: further arguments of ModelEventTrigger, such as ``kinds`` or ``poll_interval``
    """
    from airflow_uc_models.triggers.model_events import ModelEventTrigger

    named = ModelAssetName.of(model_name_or_schema, registry_conn_id)
    watched = named.model_name or f"{named.full_schema}.*"
    # The trigger knows the name, too: Airflow makes one trigger of two that are alike, and neither asset can then keep
    # what it was told.
    trigger = ModelEventTrigger(model_name=watched, registry_conn_id=registry_conn_id, name=name, **trigger_options)
    options = {**(asset_options or {}), "watchers": [AssetWatcher(name=watched, trigger=trigger)]}
    return Asset(name=name, **options) if name else model_asset(model_name_or_schema, registry_conn_id, **options)


def parse_asset_uri(uri: str | os.PathLike[str]) -> ModelAssetName:
    """Return what the URI of an asset names, or an asset itself: the inverse of ``model_asset``.

    Raises: InvalidNameError, a ValueError, for what is no URI of a model or schema.

    :param uri: ``uc-model://...`` or an Asset
    """
    return _parsed(urlsplit(os.fspath(uri)))


def is_model_uri(uri: str) -> bool:
    """Whether a URI has the scheme of models."""
    return uri.lower().startswith(f"{SCHEME}:")


def sanitize_uri(parts: SplitResult) -> SplitResult:
    """Check a URI and bring it into its one form; Airflow calls this for every ``uc-model`` asset.

    Raises: InvalidNameError, a ValueError, which makes the Dag file fail to parse.

    :param parts: the URI, split
    """
    return urlsplit(_parsed(parts).uri)


def create_asset(
    *,
    registry_conn_id: str = DEFAULT_CONN_ID,
    catalog: str,
    schema: str,
    model: str | None = None,
    extra: dict[str, Any] | None = None,
) -> Asset:
    """Return the asset from its parts; hooks report lineage through this.

    :param registry_conn_id: connection of the registry (str)
    :param catalog: catalog (str)
    :param schema: schema (str)
    :param model: model, or None for the schema (str)
    :param extra: the asset's extra (dict)
    """
    uri = ModelAssetName(registry_conn_id, catalog, schema, model).uri
    return Asset(name=uri, uri=uri, extra=extra)


def _parsed(parts: SplitResult) -> ModelAssetName:
    said = parts.geturl()
    if parts.scheme.lower() != SCHEME:
        raise InvalidNameError(f"{said!r} is no asset of a model; it is written {_FORM}.")
    if parts.query or parts.fragment:
        raise InvalidNameError(f"{said!r} has a query or fragment; write ? as %3F and # as %23 in {_FORM}.")
    try:
        registry, *levels = (unquote(part, errors="strict") for part in (parts.netloc, *_levels(parts.path)))
    except UnicodeDecodeError:
        raise InvalidNameError(f"{said!r} holds percent-encoded bytes that are not UTF-8.") from None
    if len(levels) not in (2, 3):
        raise InvalidNameError(
            f"{said!r} has {len(levels)} level(s) after the connection id; an asset is a model or a schema: {_FORM}."
        )
    return ModelAssetName(registry, *levels)


def _levels(path: str) -> list[str]:
    path = path.rstrip("/")[1:]
    return path.split("/") if path else []
