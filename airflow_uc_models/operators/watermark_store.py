"""Where a consumer's watermark lives from one Dag run to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_uc_models.watermark import Watermark

if TYPE_CHECKING:
    from airflow.sdk import Asset
    from airflow.sdk.definitions.context import Context


def watermark_key(consumer: str, registry_conn_id: str) -> str:
    """Return the key of a consumer's watermark; hashed because a name may hold what a URL may not."""
    digest = hashlib.sha256(f"{consumer}\x1f{registry_conn_id}".encode()).hexdigest()[:16]
    return f"handled_versions_{digest}"


@dataclass(frozen=True, slots=True)
class WatermarkStore:
    """A consumer's watermark: in the state store of an asset, else in XCom of the task that marks.

    Airflow gives the XCom of one earlier run, the one with the latest logical date; runs without one come before all
    others or after all others, depending on the database, and among themselves in the order of writing. So dated and
    undated runs have keys of their own, each with all that was handled until then. Whoever writes out of that order (a
    task that is cleared or retried, a backfill) adds to it under a third key just what it handled itself; of that
    key, all values count.

    What a Dag run handled itself lies beside all that, under a fourth key in that run alone: it must not count as
    handled for a later or second try of the run's own first task.

    :param marking_task: id of the task that marks
    :param key: the consumer's key
    :param asset: an asset among the inlets of the task; None for XCom
    """

    context: Context
    marking_task: str
    key: str
    asset: Asset | None = None

    def read(self) -> Watermark:
        """Return what was handled."""
        store = self._state_store()
        kept = store.get(self.key) if store is not None else None
        if isinstance(kept, dict):
            return Watermark.from_json(kept)
        # Also where the store is empty: it is until the first mark after an upgrade to Airflow 3.3.
        merged = Watermark()
        for value in self._earlier():
            merged = merged.merge(Watermark.from_json(value))
        return merged

    def read_earlier(self) -> Watermark:
        """Return what was handled by other Dag runs than this one."""
        return self.read().without(self._own())

    def add(self, news: Watermark) -> None:
        """Add what is handled now."""
        # First, so that there is no moment at which it would count as somebody else's.
        self._ti.xcom_push(key=self._own_key, value=self._own().merge(news).to_json())
        store = self._state_store()
        if store is not None:
            store.set(self.key, self.read().merge(news).to_json())
        elif self._is_out_of_order():
            self._ti.xcom_push(key=self._again, value=news.to_json())
        else:
            dated = self.context["dag_run"].logical_date is not None
            self._ti.xcom_push(key=self._cumulative(dated), value=self.read().merge(news).to_json())

    def _own(self) -> Watermark:
        """Return what this Dag run handled; a marking task that starts again begins anew."""
        value = self._ti.xcom_pull(key=self._own_key, task_ids=self.marking_task, map_indexes=-1)
        return Watermark() if value is None else Watermark.from_json(value)

    def _earlier(self) -> Iterator[dict[str, Any]]:
        """Yield what this and earlier runs wrote."""
        options = {"task_ids": self.marking_task, "include_prior_dates": True}
        for dated in (True, False):
            # The map index must be named, or the values of all runs come back.
            value = self._ti.xcom_pull(key=self._cumulative(dated), map_indexes=-1, **options)
            if value is not None:
                yield value
        values = self._ti.xcom_pull(key=self._again, **options)
        yield from (value for value in (values if isinstance(values, list) else [values]) if value is not None)

    def _is_out_of_order(self) -> bool:
        run_type = self.context["dag_run"].run_type
        return bool(self._ti.try_number > 1 or getattr(run_type, "value", run_type) == "backfill")

    def _state_store(self) -> Any:
        """Return the asset's state store, or None before Airflow 3.3."""
        stores: Any = self.context.get("asset_state_store") if self.asset is not None else None
        return None if stores is None else stores[self.asset]

    @property
    def _ti(self) -> Any:
        return self.context["ti"]

    def _cumulative(self, dated: bool) -> str:
        return self.key if dated else f"{self.key}_undated"

    @property
    def _own_key(self) -> str:
        return f"{self.key}_own"

    @property
    def _again(self) -> str:
        return f"{self.key}_again"
