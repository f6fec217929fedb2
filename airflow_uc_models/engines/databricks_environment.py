"""The environment of a serverless run: the packages that the model pins, on a base with its Python."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_uc_models.engines.feature_store import is_feature_store_model
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import NotFoundError
from airflow_uc_models.hooks import model_files
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.scratch import scratch_folder

log = logging.getLogger(__name__)

_REQUIREMENTS = "requirements.txt"
# docs.databricks.com, Serverless environment versions: which Python each has.
_BY_PYTHON = {"3.10": "1", "3.11": "2", "3.12": "4"}
_DEFAULT = "4"
# Installing these ends the session: they are Spark, which the workspace brings.
_OF_SPARK = {"pyspark", "pyspark-client", "pyspark-connect", "databricks-connect"}


def environment_of(
    hook: ModelRegistryHook,
    version: ModelVersion,
    mlmodel: Mapping[str, Any],
    environment_version: str | None,
    dependencies: Sequence[str],
) -> dict[str, Any]:
    """Return the environment as the Jobs API takes it.

    :param mlmodel: the model's MLmodel file
    :param environment_version: None takes the one with the model's Python
    :param dependencies: what else is installed
    """
    lines = _lines(_requirements(hook, version))
    named = {_name(line) for line in [*lines, *dependencies]}
    if not named & {"mlflow", "mlflow-skinny"}:
        lines.append("mlflow")
    if is_feature_store_model(mlmodel) and "databricks-feature-engineering" not in named:
        lines.append("databricks-feature-engineering")
    return {
        "environment_version": environment_version or _base_of(mlmodel, version.uri),
        "dependencies": [*lines, *dependencies],
    }


def _requirements(hook: ModelRegistryHook, version: ModelVersion) -> str:
    with scratch_folder("requirements") as folder:
        try:
            model_files.download(hook, version, folder, _REQUIREMENTS)
        except NotFoundError:
            log.warning("%s has no %s; the run has the workspace's packages and mlflow", version.uri, _REQUIREMENTS)
            return ""
        return (folder / _REQUIREMENTS).read_text(encoding="utf-8")


def _lines(text: str) -> list[str]:
    """Return the packages; where they come from is the workspace's matter."""
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("-") and _name(line) not in _OF_SPARK]


def _name(line: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _base_of(mlmodel: Mapping[str, Any], uri: str) -> str:
    python = str((mlmodel["flavors"].get("python_function") or {}).get("python_version") or "")
    found = _BY_PYTHON.get(".".join(python.split(".")[:2]))
    if found is None:
        log.warning(
            "%s was made with Python %s; no serverless environment version is known to have that. Taking version %s; "
            "engine_options={'environment_version': ...} chooses another.",
            uri,
            python or "of a version that it does not tell",
            _DEFAULT,
        )
    return found or _DEFAULT
