"""Sensors for model versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_uc_models.conditions import NewModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError, InvalidNameError
from airflow_uc_models.names import parse_alias, parse_version
from airflow_uc_models.registry.base import str_tags
from airflow_uc_models.sensors.base import RegistrySensor

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_BASELINE = "after_version"


class ModelVersionSensor(RegistrySensor):
    """Wait for a new READY version of a model and return it.

    New is what is newer than the version that this task handled in an earlier run of its Dag, or than
    ``after_version``. Each Dag run takes one version: the oldest new one, so that none is left out.

    * The first run, with nothing handled before and no ``after_version``, takes the newest READY version there is:
      the present state, not the history. If there is none it waits for one.
    * A version in FAILED_REGISTRATION fails the task at once, when its turn comes. It counts as handled: the next
      Dag run goes on to the next version.
    * A version in PENDING_REGISTRATION keeps newer ones waiting for an hour after its creation. Then it is taken
      for abandoned and passed over.
    * Clearing a task gives the same version again: what counts are runs before this one, by logical date (or by
      when they could start, for runs without one).
    * Runs that wait side by side get the same version. Set ``max_active_runs=1`` on the Dag, or
      ``depends_on_past=True``, for one version per run.
    * Filters look at the tags and the alias of the moment. A version that is tagged only after a newer one was
      handled is not seen any more; with an alias, the one version that it points to must be new.

    What was handled is kept in an XCom of this task's own, per model and connection (and per map index). Where that
    is cleaned away the next run counts as the first; templating ``after_version`` keeps it elsewhere. In
    ``mode="reschedule"`` the wait goes on from where it began even if another run ends meanwhile; before
    Airflow 3.3, which cannot keep that, from what the other run handled.

    XCom: the version's dict: ``name``, ``version``, ``uri``, ``status``, ``aliases``, ``tags``, ``run_id``,
    ``source`` and more.

    Raises: a missing model, unless ``missing_ok``; a missing privilege; a version whose registration failed.

    Privileges: Unity Catalog: EXECUTE on the model, USE SCHEMA and USE CATALOG. MLflow basic auth: READ.
    Registries: all; ``tags`` and ``alias`` where the registry has them. Unity Catalog does not list tags: with
    ``tags``, each look reads every new version.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param after_version: wait for a version newer than this one; 0 takes all from the beginning, oldest first
        (int or str, templated)
    :param tags: tags that the version must have, with these values (dict, templated)
    :param alias: an alias that must point to the version (str, templated)
    :param missing_ok: wait for the model, too, if there is none (bool)
    """

    template_fields: Sequence[str] = (*RegistrySensor.template_fields, "model_name", "after_version", "tags", "alias")

    def __init__(
        self,
        *,
        model_name: str,
        after_version: int | str | None = None,
        tags: Mapping[str, Any] | None = None,
        alias: str | None = None,
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.after_version = after_version
        self.tags = tags
        self.alias = alias
        self.missing_ok = missing_ok

    def condition(self, context: Context) -> NewModelVersion:
        """Wait for a version newer than what was handled last."""
        name = self.hook.registry.normalize(self.model_name)
        tags, alias, after = self.tags, self.alias, _parse_after(self.after_version)
        if after is None:
            after = self._baseline(context, name)
        return NewModelVersion(
            model_name=name,
            after_version=after,
            tags=str_tags(tags or None) or None,
            alias=None if alias in (None, "") else parse_alias(alias),
            missing_ok=self.missing_ok,
        )

    def remember(self, context: Context, name: str, version: int) -> None:
        """Keep the version as handled, for later Dag runs."""
        dated = context["dag_run"].logical_date is not None
        context["ti"].xcom_push(key=self._key(name, dated), value={"name": name, "version": version})

    def _baseline(self, context: Context, name: str) -> int | None:
        """Return the last version handled, held fast while a try is rescheduled."""
        store = context.get("task_state_store") if self.reschedule else None
        if store is None:
            return self._last_handled(context, name)
        try_number = context["ti"].try_number
        kept = store.get(_BASELINE)
        if not isinstance(kept, dict) or kept.get("try_number") != try_number:
            kept = {"try_number": try_number, "version": self._last_handled(context, name)}
            store.set(_BASELINE, kept)
        version = kept["version"]
        return version if isinstance(version, int) else None

    def _last_handled(self, context: Context, name: str) -> int | None:
        """Return the last version that this task handled in an earlier Dag run, or None.

        Airflow gives the XCom of one earlier run, and sorts runs without a logical date before all others or after
        all others, depending on the database. So each kind has a key of its own, and the later version counts.
        The map index must be named, or the values of all runs come back in no order.
        """
        ti = context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        handled = []
        for dated in (True, False):
            kept = ti.xcom_pull(key=self._key(name, dated), include_prior_dates=True, map_indexes=map_index)
            if kept is not None:
                handled.append(int(kept["version"]))
        return max(handled, default=None)

    def _key(self, name: str, dated: bool) -> str:
        """Return the XCom key; hashed because a model name may hold what a URL may not."""
        digest = hashlib.sha256(f"{self.registry_conn_id}\x1f{name}".encode()).hexdigest()[:16]
        return f"handled_version_{digest}" if dated else f"handled_version_{digest}_undated"


def _parse_after(value: int | str | None) -> int | None:
    """Return ``after_version`` as a number; what a template left empty is None."""
    if value in (None, "", "None"):
        return None
    try:
        return 0 if str(value).strip() == "0" else parse_version(value)
    except InvalidNameError:
        raise InvalidArgumentError(f"after_version is a whole number from 0, not {value!r}.") from None
