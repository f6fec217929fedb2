"""What MLflow's own client finds in the registry: the demo believes this, and not what tasks say about themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class RegistryReader:
    """Reads models of one registry.

    :param tracking_uri: where MLflow finds runs
    :param registry_uri: where MLflow finds models
    """

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=registry_uri)

    def aliased(self, name: str, alias: str) -> int | None:
        """Return the version that an alias points to, or None."""
        found = {str(v.version): v for v in self._versions(name)}
        aliases = self._client.get_registered_model(name).aliases if found else {}
        return int(aliases[alias]) if alias in aliases else None

    def newest(self, name: str) -> int | None:
        """Return the highest version number, or None where there is no version."""
        return max((int(v.version) for v in self._versions(name)), default=None)

    def tags(self, name: str, version: int) -> dict[str, str]:
        """Return the tags of a version."""
        return dict(self._client.get_model_version(name, str(version)).tags)

    def metrics(self, name: str, version: int) -> dict[str, float]:
        """Return what the training run of a version measured."""
        run_id = self._client.get_model_version(name, str(version)).run_id
        return dict(self._client.get_run(run_id).data.metrics) if run_id else {}

    def tagged(self, name: str, key: str) -> list[int]:
        """Return the versions that have a tag, oldest first."""
        return sorted(int(v.version) for v in self._versions(name) if key in self.tags(name, int(v.version)))

    def _versions(self, name: str) -> list[Any]:
        from mlflow.exceptions import RestException

        found: list[Any] = []
        token = None
        while True:
            try:
                page = self._client.search_model_versions(f"name='{name}'", page_token=token)
            except RestException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # Unity Catalog: there is no such model yet
                    return []
                raise
            found += page
            if not (token := page.token):
                return found


def rows_of(parquet: Path) -> int | None:
    """Return the number of rows of a Parquet file, or None where there is no such file."""
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(parquet).num_rows) if parquet.is_file() else None
