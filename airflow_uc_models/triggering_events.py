"""What happened in a registry that made this Dag run start, typed, whichever way it was started.

Airflow hands a run at most one event of a burst per asset (the others stay in its database), so an event is a
wake-up: where no version may be missed, ask the registry what is pending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_uc_models.compat import AirflowFailException, AirflowSkipException
from airflow_uc_models.events import (
    KINDS,
    MODEL_KINDS,
    MODEL_TAG_KINDS,
    MODEL_VERSION_ALIAS_CREATED,
    MODEL_VERSION_READY,
    REGISTERED_MODEL_CREATED,
    ModelEvent,
)
from airflow_uc_models.exceptions import InvalidArgumentError, InvalidNameError
from airflow_uc_models.names import ModelName, ModelRef, parse_alias, parse_version

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

# The key of an asset event's extra under which operators of this package put what they did.
EXTRA_KEY = "model_events"
_NO_VERSION = MODEL_KINDS | MODEL_TAG_KINDS


def model_events(context: Context | None = None, *, sensor_task_id: str | None = None) -> list[ModelEvent]:
    """Return the events that started this Dag run, oldest first, each once; an empty list if there are none.

    They are read from wherever the run has them:

    * the asset events it was started by, of a watcher or of a task of this package with the asset as its outlet;
    * its partition key ``catalog.schema.model/3`` (Airflow 3.2 and later): then only what is about that version;
    * the conf that a person, TriggerDagRunOperator or the REST API gave it: an event as JSON, ``model_name`` with
      ``version`` (or ``model_version``, as Databricks jobs call it) and ``alias``, ``model_uri`` as
      ``models:/catalog.schema.model/3``, or the body of an MLflow webhook. ``kind`` says what happened; without it a
      version counts as ready;
    * with ``sensor_task_id``: what that sensor of this package waited for, and nothing else.

    Raises: InvalidArgumentError or InvalidNameError, both ValueErrors, for a conf that names a model and is wrong.

    :param context: the task's context; by default the current one (dict)
    :param sensor_task_id: id of a sensor before this task, with its task groups (str)
    """
    context = _current() if context is None else context
    if sensor_task_id is not None:
        told = _waited_for(context["ti"].xcom_pull(task_ids=sensor_task_id))
    else:
        told = _started_by(context)
    events: dict[str, ModelEvent] = {}
    for event in told:
        events.setdefault(event.key, event)
    return list(events.values())


def model_event(context: Context | None = None, *, sensor_task_id: str | None = None) -> ModelEvent:
    """Return the event that started this Dag run, the oldest if there are several.

    In a template: ``{{ macros.uc_models.model_event().version }}``.

    Raises: AirflowFailException where no model event started the run; AirflowSkipException where a task of this
    package did, and had nothing to change: what follows is skipped then. As ``model_events``, for a wrong conf.

    :param context: the task's context; by default the current one (dict)
    :param sensor_task_id: id of a sensor before this task, with its task groups (str)
    """
    context = _current() if context is None else context
    events = model_events(context, sensor_task_id=sensor_task_id)
    if events:
        return events[0]
    if sensor_task_id is not None:
        raise AirflowFailException(
            f"Task {sensor_task_id!r} left no model event in XCom. Is it a sensor of this package, upstream of this "
            "task, named with its task groups, and not skipped?"
        )
    if any(extra.get(EXTRA_KEY) == [] for extra in _extras(context)):
        raise AirflowSkipException("The task that started this run found nothing to change in the registry.")
    raise AirflowFailException(
        "No model event started this run. Start it by an asset of a model, or by hand with a conf such as "
        '{"model_name": "prod.ml_team.fraud", "version": 3}.'
    )


def _current() -> Context:
    from airflow.sdk import get_current_context

    return get_current_context()


def _started_by(context: Context) -> Iterator[ModelEvent]:
    events = [event for extra in _extras(context) for event in _told(extra)]
    run: Any = context.get("dag_run")
    partition = _partition(getattr(run, "partition_key", None))
    if partition is not None:
        about = [e for e in events if (e.model_name, e.version) == (partition.model_name, partition.version)]
        yield from about or [partition]
        return
    yield from events
    conf = getattr(run, "conf", None)
    if isinstance(conf, Mapping):
        # Whoever starts a run by hand again wants it done again: of another run it is another event.
        yield from _by_hand(conf, str(getattr(run, "run_id", "")))


def _extras(context: Context) -> list[Mapping[str, Any]]:
    """Return what the asset events of the run carry, oldest first; an event stands there by asset and by alias."""
    found: list[Any] = [event for events in (context.get("triggering_asset_events") or {}).values() for event in events]
    return [event.extra for event in sorted(found, key=lambda event: event.timestamp) if event.extra]


def _told(extra: Mapping[str, Any]) -> Iterator[ModelEvent]:
    """Read the events in an asset event's extra: of a trigger, of an operator, or an event as it is."""
    value: Any = extra.get("payload") if extra.get("from_trigger") else extra
    if isinstance(value, Mapping) and isinstance(value.get(EXTRA_KEY), list):
        value = value[EXTRA_KEY]
    for item in value if isinstance(value, list) else [value]:
        if _is_event(item):
            yield _keyed(ModelEvent.from_json(item))


def _is_event(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("kind") in KINDS and isinstance(value.get("model_name"), str)


def _keyed(event: ModelEvent, of: str = "") -> ModelEvent:
    """Give an event without a key one, made of all it says."""
    if event.key:
        return event
    said = (event.version, event.alias, event.tag_key, event.tag_value, of or None)
    return replace(event, key="/".join(str(part) for part in (event.kind, event.model_name, *said) if part is not None))


def _partition(key: Any) -> ModelEvent | None:
    """Read a partition key; None if it is none of a model version."""
    if not isinstance(key, str):
        return None
    try:
        reference = ModelRef.parse(f"models:/{key}")
    except InvalidNameError:
        return None
    if reference.version is None:
        return None
    return _keyed(ModelEvent(MODEL_VERSION_READY, str(reference.name), reference.version))


def _by_hand(conf: Mapping[str, Any], run_id: str) -> Iterator[ModelEvent]:
    """Read the conf of a run; nothing if it names no model."""
    if EXTRA_KEY in conf or conf.get("from_trigger"):
        yield from _told(conf)
        return
    words, kind = _words(conf), _given(conf, "kind")
    if isinstance(conf.get("entity"), str) and isinstance(conf.get("data"), Mapping):  # an MLflow webhook's body
        kind = f"{conf['entity']}.{conf.get('action')}"
        words = _words({**conf["data"], "model_name": _given(conf["data"], "name")})
    if not words:
        return
    kind = kind or _kind(words)
    if kind not in KINDS:
        raise InvalidArgumentError(f"Unknown kind of event {kind!r}; known are {', '.join(sorted(KINDS))}.")
    if kind not in _NO_VERSION and words["version"] is None and words["alias"] is None:
        raise InvalidArgumentError(f"The run's conf names no version of {words['model_name']} for an event {kind}.")
    event = ModelEvent(kind, **words, key=str(conf.get("key") or ""))
    yield _keyed(event, run_id)


def _words(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an event that a conf gives; none if it names no model."""
    name, version, alias = _given(conf, "model_name"), _given(conf, "version", "model_version"), _given(conf, "alias")
    if name is None and (uri := _given(conf, "model_uri")) is not None:
        reference = ModelRef.parse(uri)
        name, version, alias = str(reference.name), reference.version, reference.alias
    if name is None:
        return {}
    before = _given(conf, "from_version")
    return {
        "model_name": str(ModelName.parse(name)),
        "version": None if version is None else parse_version(version),
        "alias": None if alias is None else parse_alias(alias),
        "from_version": None if before is None else parse_version(before),
        **{key: _given(conf, key) for key in ("tag_key", "tag_value", "from_value", "created_at")},
    }


def _kind(words: Mapping[str, Any]) -> str:
    """Tell what happened where nobody said so."""
    if words["alias"] is not None:
        return MODEL_VERSION_ALIAS_CREATED
    return REGISTERED_MODEL_CREATED if words["version"] is None else MODEL_VERSION_READY


def _given(conf: Mapping[str, Any], *keys: str) -> Any:
    """Return the first that is given; forms and templates leave empty strings."""
    return next((conf[key] for key in keys if conf.get(key) not in (None, "", "None")), None)


def _waited_for(value: Any) -> Iterator[ModelEvent]:
    """Read what a sensor left in XCom: events, or the model version or model that it waited for."""
    found: Sequence[Any] = [value] if isinstance(value, Mapping) else value or ()
    for item in found:
        if _is_event(item):
            yield _keyed(ModelEvent.from_json(item))
        elif isinstance(item, Mapping) and (words := _words({**item, "model_name": item.get("name")})):
            if words["version"] is not None:
                words["created_at"] = None  # the version's, not the model's
            yield _keyed(ModelEvent(_kind(words), **words))
