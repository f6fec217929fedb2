"""A Databricks workspace on 127.0.0.1, for tests: models in Unity Catalog, files, grants, OAuth and faults."""

from __future__ import annotations

from airflow_uc_models.lazy import lazy_names

_MODULES = {
    "Emulator": "server",
    "LoopbackServer": "server",
    "Principal": "privileges",
    "Settings": "settings",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
