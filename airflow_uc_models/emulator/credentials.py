"""Temporary credentials for the storage of a model version."""

from __future__ import annotations

import secrets
from typing import Any

from airflow_uc_models.emulator.settings import Settings
from airflow_uc_models.emulator.state import now


def temporary_credentials(settings: Settings) -> dict[str, Any]:
    """Return what the settings' storage calls for: default storage is reached by presigned URLs."""
    expires = now() + int(settings.url_seconds * 1000)
    if settings.storage != "vended":
        return {"storage_mode": "DEFAULT_STORAGE", "expiration_time": expires}
    keys = {
        "access_key_id": f"ASIA{secrets.token_hex(8).upper()}",
        "secret_access_key": secrets.token_urlsafe(30),
        "session_token": secrets.token_urlsafe(60),
    }
    return {"aws_temp_credentials": keys, "storage_mode": "CUSTOMER_HOSTED", "expiration_time": expires}
