"""What changed last in a schema of an MLflow server, by one search for all of its models."""

from __future__ import annotations

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.names import is_model_name
from airflow_uc_models.registry.base import Registry, quoted
from airflow_uc_models.registry.call import Call

_PAGE = 50
_OVERLAP_MS = 60_000  # clocks and slow transactions may put a version behind others that were seen before it


class Sweep:
    """Searches for versions, newest first, down to those that were seen before.

    :param schema: ``catalog.schema``
    """

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._high_water = self._seen = 0
        self._risen = 0.0

    def changed(self, registry: Registry, now: float) -> Call[dict[str, list[ModelVersion]]]:
        """Return the versions that changed last, by model; enough of them to have missed none.

        :param now: seconds on a clock that does not jump
        """
        where = f"name LIKE {quoted(f'{self.schema}.%')}"
        order, count = ["last_updated_timestamp DESC"], _PAGE
        # What was seen long ago has nothing beside it that comes late.
        overlap = _OVERLAP_MS if now - self._risen < _OVERLAP_MS / 1000 else 0
        while True:
            found = yield from registry.search_model_versions(filter_string=where, order_by=order, max_results=count)
            times = [version.updated_at or 0 for version in found]
            if len(found) < count or not self._high_water or times[-1] <= self._high_water - overlap:
                break
            count *= 4
        self._seen = max([self._high_water, *times])
        changed: dict[str, list[ModelVersion]] = {}
        for version in found:  # LIKE takes an underscore for any character, and names may have any form
            if version.name.startswith(f"{self.schema}.") and is_model_name(version.name):
                changed.setdefault(version.name, []).append(version)
        return changed

    def finish(self, now: float) -> None:
        """Take what the last search returned for known."""
        if self._seen > self._high_water:
            self._high_water, self._risen = self._seen, now
