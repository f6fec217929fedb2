"""Do what webhooks of the Workspace Model Registry did: tell an HTTP receiver what happens in a schema of models.

One Dag per kind of webhook. Each ends in an HTTP call with the body that the webhook had, signed as it was, so that the
receiver stays as it is; a Slack webhook shows the `text` of it. The receiver is a connection,
`MODEL_WEBHOOK_CONN_ID`: `host` is its whole address, `password` the shared secret, extra `authorization` what
goes into that header. Airflow keeps the three out of its logs, as the address of a Slack webhook is a secret, too.

New versions are listed by `PendingModelVersionsOperator`: none is passed over, whatever happened to Airflow
meanwhile. Moves of aliases, tags and new models leave nothing behind in the registry that could be listed, but each
became an asset event when the watcher saw it. Airflow gives a run only the first event of a burst, so the task reads
the asset's events itself and sends those that it has not sent yet; it keeps those it has sent in the asset's state.
Before Airflow 3.3 there is no such state, and it sends what its run was given: the others of a burst are sent with the
next event.

A receiver may get something twice: when a task is killed between the call and noting it. `key` is the same then.
What a receiver refuses holds up what came later to the same Dag, and is sent again by its next run.

To try a receiver, start one of the Dags for tags, aliases or models by hand, with a conf such as
`{"kind": "model_version_alias.created", "model_name": "prod.ml_team.fraud", "version": 3, "alias": "Champion"}`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, get_current_context, task

from airflow_uc_models import events
from airflow_uc_models.assets import watched_model_asset
from airflow_uc_models.events import ModelEvent
from airflow_uc_models.operators import MarkModelVersionsHandledOperator, PendingModelVersionsOperator
from airflow_uc_models.triggering_events import model_events

CONN_ID = os.environ.get("MODEL_REGISTRY_CONN_ID", "mlflow_default")
RECEIVER = os.environ.get("MODEL_WEBHOOK_CONN_ID", "model_webhook")
SCHEMA = os.environ.get("MODEL_REGISTRY_SCHEMA", "dev.ml_team")
POLL_SECONDS = float(os.environ.get("MODEL_REGISTRY_POLL_SECONDS", "30"))

# What the receiver calls a stage is an alias now.
STAGES = {"Champion": "Production", "Challenger": "Staging"}
# Events of two triggerers may be stored in another order than they have times.
OVERLAP = timedelta(minutes=10)

options: dict[str, Any] = {
    "doc_md": __doc__,
    "catchup": False,
    "is_paused_upon_creation": True,
    "default_args": {"retries": 5, "retry_delay": timedelta(seconds=10), "retry_exponential_backoff": True},
    "tags": ["airflow-uc-models", "example"],
}


def watched(webhook: str, kind: str, **filters: Any) -> Asset:
    """Return the asset of one webhook. All of them share one poll of the schema, on Airflow 3.3."""
    name = f"webhook_{webhook}"
    return watched_model_asset(f"{SCHEMA}.*", CONN_ID, name=name, kinds=kind, poll_interval=POLL_SECONDS, **filters)


# [START body]
def body_of(event: ModelEvent, at: datetime) -> dict[str, Any]:
    """Return the body that the old webhook of such an event had."""
    about = f"registered model '{event.model_name}'"
    version = {} if event.version is None else {"version": str(event.version)}
    if event.kind == events.REGISTERED_MODEL_CREATED:
        old, details, text = "REGISTERED_MODEL_CREATED", {}, f"New {about} was created."
    elif event.kind == events.MODEL_VERSION_READY:
        old, details, text = "MODEL_VERSION_CREATED", version, f"Version {event.version} of {about} was created."
    elif event.kind == events.MODEL_VERSION_TAG_SET:
        tags = [{"key": event.tag_key, "value": event.tag_value}]
        old, details = "MODEL_VERSION_TAG_SET", {**version, "tags": tags}
        text = f"Tag '{event.tag_key}' => '{event.tag_value}' was set on {about} version {event.version}."
    else:
        stage = STAGES.get(event.alias or "", event.alias)
        old, details = "MODEL_VERSION_TRANSITIONED_STAGE", {**version, "from_stage": "None", "to_stage": stage}
        text = f"R{about[1:]} version {event.version} transitioned from None to {stage}."
    stamp = int(at.timestamp() * 1000)
    common = {"event": old, "webhook_id": old.lower(), "event_timestamp": stamp, "model_name": event.model_name}
    return {**common, **details, "text": text, "key": event.key}


# [END body]


# [START post]
def post(event: ModelEvent, at: datetime) -> None:
    """Send an event to the receiver; any answer but a success is an error, which a retry of the task may mend."""
    import hashlib
    import hmac
    import json

    import httpx
    from airflow.sdk import BaseHook
    from airflow.sdk.log import mask_secret

    receiver = BaseHook.get_connection(RECEIVER)
    mask_secret(receiver.host)  # the rest of a connection is masked anyway
    body = json.dumps(body_of(event, at)).encode()
    headers = {"Content-Type": "application/json"}
    if receiver.password:
        signature = hmac.new(receiver.password.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Databricks-Signature"] = signature
    if authorization := receiver.extra_dejson.get("authorization"):
        headers["Authorization"] = authorization
    try:
        answer = httpx.post(receiver.host, content=body, headers=headers, timeout=30)
    except httpx.HTTPError as error:
        raise RuntimeError(f"The receiver did not answer: {type(error).__name__}") from None
    if not answer.is_success:
        raise RuntimeError(f"The receiver answered {answer.status_code}.")


# [END post]


# [START unsent]
def unsent(asset: Asset) -> Iterator[tuple[ModelEvent, datetime]]:
    """Yield the asset's events that were not sent yet, oldest first, each once; whoever takes the next has sent one."""
    context: Any = get_current_context()
    given = context["triggering_asset_events"].get(asset, [])
    stores = context.get("asset_state_store")
    if stores is None or not given:  # before Airflow 3.3, or started by hand
        yield from ((event, datetime.now(UTC)) for event in model_events(context))
        return
    first = min(event.timestamp for event in given).isoformat()
    state: dict[str, Any] = stores[asset].get("sent") or {"since": first, "keys": {}}
    stores[asset].set("sent", state)
    for found in context["inlet_events"][asset].after(state["since"]):
        event = model_event_of(found)
        if event is None or event.key in state["keys"]:
            continue
        yield event, found.timestamp
        keys = {**state["keys"], event.key: found.timestamp.isoformat()}
        oldest = max(map(datetime.fromisoformat, keys.values())) - OVERLAP
        since = max(oldest, datetime.fromisoformat(state["since"]))
        state = {
            "since": since.isoformat(),
            "keys": {key: at for key, at in keys.items() if datetime.fromisoformat(at) >= since},
        }
        stores[asset].set("sent", state)


def model_event_of(found: Any) -> ModelEvent | None:
    """Return what a watcher told; None for an event that somebody made by hand."""
    payload = (found.extra or {}).get("payload")
    return ModelEvent.from_json(payload) if isinstance(payload, dict) and payload.get("kind") else None


# [END unsent]


# [START created]
new_versions = watched("model_version_created", events.MODEL_VERSION_READY)

with DAG(
    dag_id="example_webhook_model_version_created",
    description="Tell the receiver of every new version.",
    schedule=[new_versions],
    max_active_runs=1,
    **options,
):
    pending = PendingModelVersionsOperator(
        task_id="pending", scope=SCHEMA, asset=new_versions, registry_conn_id=CONN_ID, missing_ok=True
    )

    @task
    def send_version(version: dict[str, Any]) -> None:
        """Tell of one version."""
        name, number, created_at = version["name"], version["version"], version["created_at"]
        at = datetime.fromtimestamp(created_at / 1000, UTC) if created_at else datetime.now(UTC)
        post(ModelEvent(events.MODEL_VERSION_READY, name, number, key=version["uri"]), at)

    MarkModelVersionsHandledOperator(
        task_id="mark", pending=pending.output, handled=send_version.expand(version=pending.output)
    )
# [END created]


# [START others]
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "registered_model_created": (events.REGISTERED_MODEL_CREATED, {}),
    "model_version_tag_set": (events.MODEL_VERSION_TAG_SET, {}),
    # For TRANSITIONED_TO_PRODUCTION alone: {"aliases": "Champion"}.
    "model_version_transitioned_stage": (events.MODEL_VERSION_ALIAS_CREATED, {}),
}

for webhook, (kind, filters) in OTHERS.items():
    changes = watched(webhook, kind, **filters)

    with DAG(
        dag_id=f"example_webhook_{webhook}",
        description=f"Tell the receiver of every {kind}.",
        schedule=[changes],
        **options,
    ):
        # One at a time, by the task and not by max_active_runs: Airflow cannot tell which events an asset has while a
        # run that one of them started is queued.
        @task(inlets=[changes], max_active_tis_per_dag=1)
        def send_changes(asset: str) -> int:
            """Tell of everything that was not told yet."""
            count = 0
            for event, at in unsent(Asset(asset)):
                post(event, at)
                count += 1
            return count

        send_changes(changes.name)
# [END others]
