"""Lineage in Unity Catalog: what is emitted when versions are made and downloaded. Nothing fails for it."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import UCModelsError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry import lineage
from airflow_uc_models.registry.mlflow_rest import MlflowRestRegistry

log = logging.getLogger(__name__)


def lineage_headers(hook: ModelRegistryHook, run_id: str | None) -> Mapping[str, str]:
    """Return the header that tells Unity Catalog from which notebook, job and tables a run's model comes."""
    registry = _unity_catalog(hook)
    if registry is None or not run_id:
        return {}
    found: dict[str, str] = {}
    with _best_effort("The lineage of the new version is not known"):
        found |= lineage.header_of(hook.run(registry.get_run(run_id), quiet=True))
    return found


def note_on_logged_model(hook: ModelRegistryHook, model_id: str | None, version: ModelVersion) -> None:
    """Note a version on its logged model, as mlflow.register_model does."""
    registry = _unity_catalog(hook)
    if registry is not None and model_id:
        with _best_effort(f"{version.uri} is not noted on its logged model"):
            hook.run(lineage.tag_logged_model(registry, model_id, version), quiet=True)


def emit_download(hook: ModelRegistryHook, version: ModelVersion) -> None:
    """Tell Unity Catalog that a version was downloaded."""
    registry = _unity_catalog(hook)
    if registry is not None:
        with _best_effort(f"The download of {version.uri} is not part of its lineage"):
            hook.run(lineage.emit_download(registry, version), quiet=True)


def _unity_catalog(hook: ModelRegistryHook) -> MlflowRestRegistry | None:
    registry = hook.registry
    return registry if isinstance(registry, MlflowRestRegistry) and registry.is_unity_catalog else None


@contextmanager
def _best_effort(what: str) -> Generator[None, None, None]:
    try:
        yield
    except (UCModelsError, ValueError, TypeError) as error:
        log.warning("%s: %s", what, error)
