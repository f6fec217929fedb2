"""The trigger of asset watchers: what happens in a model registry starts Dags."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_uc_models.events import MODEL_VERSION_READY
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.watches import RECONCILE_SECONDS, Watch

if TYPE_CHECKING:
    from airflow_uc_models.triggers.listener import Listener
    from airflow_uc_models.triggers.schema_poll import SchemaPoll, SchemaPollProducer, Snapshot, StreamKey

log = logging.getLogger(__name__)

_RELOAD_SECONDS = 5.0


class ModelEventTrigger(BaseEventTrigger):
    """Watch registered models and send an event for each thing that happens to them.

    ::

        fraud = Asset(
            "uc-model://databricks_default/prod/ml_team/fraud",
            watchers=[AssetWatcher(name="fraud", trigger=ModelEventTrigger(model_name="prod.ml_team.fraud"))],
        )

        with DAG("validate_fraud", schedule=[fraud], max_active_runs=1): ...

    The payload of an event is ``ModelEvent.to_json()``; ``model_event(context)`` reads it in a task.

    * **At least once, on Airflow 3.3.** What was told is kept in the asset's state store, and saved when Airflow has
      stored the events. What happens while no triggerer runs is told when one does; what was told but not yet saved
      when a triggerer died is told again, with the same ``key``.
    * **Before Airflow 3.3** there is no such store. A watcher begins anew, from now, whenever a triggerer starts it:
      what happened while it did not run is not told. ``PendingModelVersionsOperator`` as the first task of the Dag
      finds those versions nonetheless, in its next run.
    * **One poll.** All watchers of one connection, schema and interval share one poll, on Airflow 3.3. Before, each
      polls for itself.
    * **An asset event is a wake-up, not a message**: Airflow starts one Dag run for several events, and gives it only
      the first of them. Let the first task of the Dag ask what is pending (``PendingModelVersionsOperator``).
    * A poll sees what is, not what was: an alias that is moved and moved back between two polls makes no event.
    * Of a model with more than ten versions some things are noticed after ``reconcile_interval`` at the latest: that a
      version was deleted, and in Unity Catalog a new version whose predecessor came and went between two polls. The
      tags of versions that are neither aliased nor among the newest ten are read in turn: a hundred at each poll of an
      MLflow server, one of Unity Catalog.
    * With other ``kinds``, ``tags``, ``aliases``, connection or ``name`` it is another watcher, which begins anew.
    * Kinds of events that the registry does not have, such as those of aliases on an open-source Unity Catalog server,
      are not sent. The watcher says which, in the triggerer's log and in the asset's state (``partial``), and sends the
      others.
    * A registry that does not answer, or refuses, is asked again with growing intervals. The watcher says so once, in
      the triggerer's log and in the asset's state (key ``uc_models_watcher_...``), and again when all is well.

    Privileges: Unity Catalog: EXECUTE on the models, USE SCHEMA and USE CATALOG; of a schema only models that the
    principal may see are watched. MLflow basic auth: READ. Registries: all; tags and aliases where there are any.

    :param model_name: ``catalog.schema.model``, or ``catalog.schema.*`` for all models of a schema, future ones
        included (str)
    :param kinds: kinds of events to send, as in ``airflow_uc_models.events.KINDS`` (str or list of str; default
        ``model_version.ready``)
    :param tags: events of versions: only where the version has these tags when it is first seen or its status
        changes; events of tags: only of these. A value, a list of values (any of them), or None (any value) by key
        (dict)
    :param aliases: events of aliases: only of these; events of versions: only where one of these points to the version
        (str or list of str)
    :param registry_conn_id: connection of the registry (str)
    :param poll_interval: seconds between two polls (float or timedelta; default 60)
    :param replay: the first start of all tells what is there already, instead of beginning from now (bool); before
        Airflow 3.3, which keeps no memory, every start does
    :param reconcile_interval: seconds in which every model is read as a whole once (float or timedelta; default 600)
    :param name: tells two watchers apart that have all else in common: Airflow would make one of them, and two assets
        cannot share one's memory (str)
    """

    def __init__(
        self,
        *,
        model_name: str,
        kinds: str | Iterable[str] = (MODEL_VERSION_READY,),
        tags: Mapping[str, Any] | None = None,
        aliases: str | Iterable[str] | None = None,
        registry_conn_id: str = "databricks_default",
        poll_interval: float | timedelta = 60.0,
        replay: bool = False,
        reconcile_interval: float | timedelta = RECONCILE_SECONDS,
        name: str = "",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = Watch.parse(model_name, kinds, tags, aliases)
        self.model_name = model_name
        self.registry_conn_id = registry_conn_id
        self.poll_interval = _seconds("poll_interval", poll_interval)
        self.replay = bool(replay)
        self.reconcile_interval = _seconds("reconcile_interval", reconcile_interval)
        self.name = name

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that rebuild the trigger; there are no credentials in them."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            **self._identity(),
            "poll_interval": self.poll_interval,
            "replay": self.replay,
            "reconcile_interval": self.reconcile_interval,
        }

    def _identity(self) -> dict[str, Any]:
        """Return the arguments on which it depends what was told."""
        return {
            "model_name": self.model_name,
            "kinds": sorted(self.watch.kinds),
            "tags": {key: list(values) or None for key, values in sorted(self.watch.tags.items())} or None,
            "aliases": sorted(self.watch.aliases) or None,
            "registry_conn_id": self.registry_conn_id,
            "name": self.name,
        }

    def shared_stream_key(self) -> StreamKey:
        """Return what watchers must have in common to share a poll."""
        from airflow_uc_models.triggers.schema_poll import StreamKey

        return StreamKey(self.registry_conn_id, self.watch.schema, self.poll_interval, self.reconcile_interval)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SchemaPollProducer:
        """Return the poll that all triggers of one key share."""
        from airflow_uc_models.triggers.schema_poll import SchemaPollProducer

        return SchemaPollProducer(cls(**kwargs).shared_stream_key())

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Snapshot]) -> AsyncIterator[TriggerEvent]:
        """Yield this watcher's events of each snapshot."""
        from airflow_uc_models.triggers.schema_poll import shared_poll

        async for event in self._listen(shared_poll(self.shared_stream_key()), shared_stream):
            yield event

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield this watcher's events from a poll of its own: what Airflow calls before 3.3."""
        from airflow_uc_models.triggers.schema_poll import SchemaPoll

        poll = SchemaPoll(self.shared_stream_key())

        async def confirmed() -> AsyncIterator[Snapshot]:
            async for snapshot in poll.snapshots():
                await poll.confirm(snapshot.number - 1)  # by now the events of the last one are stored
                yield snapshot

        async for event in self._listen(poll, confirmed()):
            yield event

    async def _listen(self, poll: SchemaPoll, stream: AsyncIterator[Snapshot]) -> AsyncIterator[TriggerEvent]:
        listener = await self._listener()
        first = poll.join(listener)
        try:
            async for snapshot in stream:
                if snapshot.number < first:
                    continue  # it was not looked for what this watcher wants
                for event in listener.hear(snapshot):
                    yield TriggerEvent(event.to_json())  # type: ignore[no-untyped-call]
                await listener.report(snapshot)
        finally:
            poll.leave(listener)

    async def _listener(self) -> Listener:
        """Return a listener that knows what was told before; its memory is waited for if need be."""
        from airflow_uc_models.triggers.listener import Listener, SharedTriggerError

        store = getattr(self, "asset_state_store", None)
        failed = False
        while True:
            listener = Listener(self.watch, store, identity=self._identity(), replay=self.replay)
            try:
                await listener.load()
            except SharedTriggerError:
                log.error(  # noqa: TRY400 - where it was noticed says nothing
                    "Two assets have watchers of %s that are alike, so that Airflow made one of them and nothing can "
                    "be kept for either. Give their ModelEventTriggers different names.",
                    self.model_name,
                )
                store = None
            except Exception as error:  # begun without memory, it would not tell what happened meanwhile
                if not failed:
                    log.warning("Cannot read what was told of %s, going on trying: %s", self.model_name, error)
                failed = True
                await asyncio.sleep(_RELOAD_SECONDS)
            else:
                return listener


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not seconds > 0:
        raise InvalidArgumentError(f"{name} is a number of seconds above 0, not {value!r}.")
    return seconds
