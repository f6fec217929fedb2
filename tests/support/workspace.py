"""The clients that people use, pointed at an emulated workspace."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_uc_models.emulator import Emulator


def profile(monkeypatch: pytest.MonkeyPatch, folder: Path, emulator: Emulator, token: str | None = None) -> str:
    """Write a Databricks configuration file and return the name of its profile, new each time.

    mlflow keeps one store per URI, so a new name also makes it look at its environment anew.
    """
    name = f"P{uuid.uuid4().hex[:8]}"
    file = folder / "databrickscfg"
    file.write_text(f"[{name}]\nhost = {emulator.url}\ntoken = {token or emulator.token}\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(file))
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", name)  # mlflow 3.4 does not hand it on to every client
    # or mlflow, which makes clients of its own on the way, would begin a database in the working directory
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"databricks://{name}")
    return name


@contextmanager
def global_uris(tracking: str, registry: str) -> Generator[Any, None, None]:
    """mlflow on these URIs inside the block, and as it was after it."""
    import mlflow
    from mlflow.tracking import fluent
    from mlflow.tracking._model_registry import utils as registries
    from mlflow.tracking._tracking_service import utils as trackings

    with pytest.MonkeyPatch.context() as patch:
        # what its setters change: globals, which have no getters, and variables
        for module, kept in (
            (trackings, "_tracking_uri"),
            (registries, "_registry_uri"),
            (fluent, "_active_experiment_id"),
        ):
            patch.setattr(module, kept, None)
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID"):
            patch.setenv(variable, "")
            patch.delenv(variable)
        mlflow.set_tracking_uri(tracking)
        mlflow.set_registry_uri(registry)
        yield mlflow


def digests(folder: str | Path) -> dict[str, bytes]:
    """The files of a folder by path, but for the one that mlflow adds when it downloads."""
    root = Path(folder)
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    files.pop("registered_model_meta", None)
    return files
