"""Temporary credentials for the storage of a model version."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_uc_models.emulator.state import Model, Version, now

if TYPE_CHECKING:
    from airflow_uc_models.emulator.workspace import Workspace


@dataclass(frozen=True)
class Vended:
    """What keys of a cloud were given for.

    :param until: seconds since the epoch when they expire
    """

    session_token: str
    location: str
    model_id: str
    version: int
    write: bool
    until: float


def temporary_credentials(workspace: Workspace, model: Model, version: Version, *, write: bool) -> dict[str, Any]:
    """Return what the settings' storage calls for: default storage is reached by presigned URLs."""
    settings = workspace.settings
    expires = now() + int(settings.url_seconds * 1000)
    if settings.storage != "vended":
        return {"storage_mode": "DEFAULT_STORAGE", "expiration_time": expires}
    keys = {
        "access_key_id": f"ASIA{secrets.token_hex(8).upper()}",
        "secret_access_key": secrets.token_urlsafe(30),
        "session_token": secrets.token_urlsafe(60),
    }
    location, until = workspace.storage_location(model, version), time.time() + settings.url_seconds
    given = Vended(keys["session_token"], location, model.id, version.version, write, until)
    workspace.vended[keys["access_key_id"]] = given
    return {"aws_temp_credentials": keys, "storage_mode": "CUSTOMER_HOSTED", "expiration_time": expires}
