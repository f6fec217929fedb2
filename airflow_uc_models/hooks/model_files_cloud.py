"""Files of a model version in cloud storage, by mlflow's repositories on credentials that are renewed in long work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


def repository(
    location: str,
    message: Callable[[], Any],
    credentials: Callable[[], dict[str, Any]],
    *,
    first: dict[str, Any] | None = None,
    is_oss: bool = False,
) -> ArtifactRepository:
    """Return mlflow's repository for a place in cloud storage.

    :param message: makes an empty message of the kind of the credentials
    :param credentials: asks the registry for credentials
    :param first: credentials that there are already
    :param is_oss: they come from an open-source Unity Catalog server
    """
    from mlflow.utils._unity_catalog_utils import get_artifact_repo_from_storage_info
    from mlflow.utils.proto_json_utils import parse_dict

    def parsed(body: dict[str, Any]) -> Any:
        filled = message()
        parse_dict(body, filled)
        return filled

    return get_artifact_repo_from_storage_info(
        storage_location=location,
        scoped_token=parsed(first or credentials()),
        base_credential_refresh_def=lambda: parsed(credentials()),
        is_oss=is_oss,
    )
