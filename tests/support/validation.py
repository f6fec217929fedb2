"""What the tests of validation share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_uc_models.policies import MetricRule, PromotionPolicy

NO_SIGNATURE = {"require_signature": False, "compatible_signature": False}
NOT_WORSE = PromotionPolicy(metrics=[MetricRule("accuracy", min=0.5, min_gain=0)], **NO_SIGNATURE)


def tags_of(client: Any, name: str, version: int) -> dict[str, str]:
    """The tags that a verdict left on a version."""
    tags = client.get_model_version(name, str(version)).tags
    return {key: tags[key] for key in tags if key.startswith("validat")}


def artifact_text(client: Any, uri: str, folder: Path) -> str:
    """Download a text of a run by its ``runs:/`` URI."""
    run_id, _, path = uri.removeprefix("runs:/").partition("/")
    return Path(client.download_artifacts(run_id, path, str(folder))).read_text(encoding="utf-8")
