"""Every verb in MLflow's words and in ours, and ways to compare what was sent and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_uc_models.registry.base import Registry

TAGS = {"team": "risk", "note": "two words, ümläut"}


@dataclass
class World:
    """One prepared model; the names in it differ from world to world and are written as <model> in comparisons."""

    name: str
    run_id: str
    model_id: str
    source: str

    def plain(self, value: Any) -> Any:
        return json.loads(json.dumps(value).replace(self.name, "<model>"))


@dataclass
class Case:
    """One verb with one set of arguments.

    :param theirs: the call of a user of MlflowClient
    :param ours: the same as a Call
    :param checks_for_prompt: MlflowClient first reads the model to see whether it is a prompt; it sends exactly one
        request more than we do, and before ours
    :param legacy: query parameters that MlflowClient adds for servers older than those we support
    :param server_only: what it asks for only an MLflow server has
    """

    verb: str
    theirs: Callable[[Any, World], Any]
    ours: Callable[[Registry, World], Any]
    checks_for_prompt: bool = False
    legacy: Callable[[World], list[tuple[str, str]]] = lambda _: []
    server_only: bool = False


def pages(search: Callable[..., Any], **arguments: Any) -> list[Any]:
    """Read pages to the end, as the user of MlflowClient must."""
    found, token = [], None
    while True:
        page = search(page_token=token, **arguments)
        found += page
        token = page.token
        if not token:
            return found


like = "name LIKE '{}%'".format
named = "name='{}'".format

CASES = [
    Case(
        "create_registered_model",
        lambda c, w: c.create_registered_model(w.name + "_2"),
        lambda r, w: r.create_registered_model(w.name + "_2"),
    ),
    Case(
        "create_registered_model",
        lambda c, w: c.create_registered_model(w.name + "_2", tags=TAGS, description="why\nit is"),
        lambda r, w: r.create_registered_model(w.name + "_2", tags=TAGS, description="why\nit is"),
    ),
    Case(
        "get_registered_model",
        lambda c, w: c.get_registered_model(w.name),
        lambda r, w: r.get_registered_model(w.name),
    ),
    Case(
        "update_registered_model",
        lambda c, w: c.update_registered_model(w.name, description="new ☃"),
        lambda r, w: r.update_registered_model(w.name, description="new ☃"),
        checks_for_prompt=True,
    ),
    Case(
        "rename_registered_model",
        lambda c, w: c.rename_registered_model(w.name, w.name + "_3"),
        lambda r, w: r.rename_registered_model(w.name, w.name + "_3"),
        checks_for_prompt=True,
    ),
    Case(
        "delete_registered_model",
        lambda c, w: c.delete_registered_model(w.name),
        lambda r, w: r.delete_registered_model(w.name),
        checks_for_prompt=True,
        server_only=True,
    ),
    Case(
        "search_registered_models",
        lambda c, w: pages(c.search_registered_models, filter_string=like(w.name), order_by=["name DESC"]),
        lambda r, w: r.search_registered_models(filter_string=like(w.name), order_by=["name DESC"]),
        server_only=True,
    ),
    Case(
        "search_registered_models",
        lambda c, w: c.search_registered_models(filter_string=like(w.name), max_results=1),
        lambda r, w: r.search_registered_models(filter_string=like(w.name), max_results=1),
        server_only=True,
    ),
    Case(
        "set_registered_model_tag",
        lambda c, w: c.set_registered_model_tag(w.name, "a key/with: signs", "välue"),
        lambda r, w: r.set_registered_model_tag(w.name, "a key/with: signs", "välue"),
        checks_for_prompt=True,
        server_only=True,
    ),
    Case(
        "delete_registered_model_tag",
        lambda c, w: c.delete_registered_model_tag(w.name, "team"),
        lambda r, w: r.delete_registered_model_tag(w.name, "team"),
        checks_for_prompt=True,
    ),
    Case(
        "create_model_version",
        lambda c, w: c.create_model_version(w.name, w.source, run_id=w.run_id),
        lambda r, w: r.create_model_version(w.name, w.source, run_id=w.run_id),
        server_only=True,
    ),
    Case(
        "create_model_version",
        lambda c, w: c.create_model_version(
            w.name, f"models:/{w.model_id}", run_id=w.run_id, tags=TAGS, description="d", model_id=w.model_id
        ),
        lambda r, w: r.create_model_version(
            w.name, f"models:/{w.model_id}", run_id=w.run_id, tags=TAGS, description="d", model_id=w.model_id
        ),
        server_only=True,
    ),
    Case(
        "get_model_version",
        lambda c, w: c.get_model_version(w.name, "1"),
        lambda r, w: r.get_model_version(w.name, 1),
    ),
    Case(
        "get_model_version_by_alias",
        lambda c, w: c.get_model_version_by_alias(w.name, "Champion"),
        lambda r, w: r.get_model_version_by_alias(w.name, "Champion"),
    ),
    Case(
        "get_model_version_download_uri",
        lambda c, w: c.get_model_version_download_uri(w.name, "2"),
        lambda r, w: r.get_model_version_download_uri(w.name, 2),
        checks_for_prompt=True,
    ),
    Case(
        "update_model_version",
        lambda c, w: c.update_model_version(w.name, "2", description="other"),
        lambda r, w: r.update_model_version(w.name, 2, description="other"),
        checks_for_prompt=True,
    ),
    Case(
        "delete_model_version",
        lambda c, w: c.delete_model_version(w.name, "1"),
        lambda r, w: r.delete_model_version(w.name, 1),
        checks_for_prompt=True,
    ),
    Case(
        "search_model_versions",
        lambda c, w: pages(c.search_model_versions, filter_string=named(w.name), order_by=["version_number DESC"]),
        lambda r, w: r.search_model_versions(filter_string=named(w.name), order_by=["version_number DESC"]),
        server_only=True,
    ),
    Case(
        "search_model_versions",
        lambda c, w: c.search_model_versions(f"{named(w.name)} and tags.team='risk'", max_results=5),
        lambda r, w: r.search_model_versions(filter_string=f"{named(w.name)} and tags.team='risk'", max_results=5),
        server_only=True,
    ),
    Case(
        "set_model_version_tag",
        lambda c, w: c.set_model_version_tag(w.name, "1", "k", ""),
        lambda r, w: r.set_model_version_tag(w.name, 1, "k", ""),
        checks_for_prompt=True,
    ),
    Case(
        "delete_model_version_tag",
        lambda c, w: c.delete_model_version_tag(w.name, "1", "team"),
        lambda r, w: r.delete_model_version_tag(w.name, 1, "team"),
        checks_for_prompt=True,
    ),
    Case(
        "set_registered_model_alias",
        lambda c, w: c.set_registered_model_alias(w.name, "Champion", "2"),
        lambda r, w: r.set_registered_model_alias(w.name, "Champion", 2),
        checks_for_prompt=True,
    ),
    Case(
        "delete_registered_model_alias",
        lambda c, w: c.delete_registered_model_alias(w.name, "Champion"),
        lambda r, w: r.delete_registered_model_alias(w.name, "Champion"),
        checks_for_prompt=True,
    ),
    Case(
        "get_run",
        lambda c, w: c.get_run(w.run_id),
        lambda r, w: r.get_run(w.run_id),
        legacy=lambda w: [("run_uuid", w.run_id)],
        server_only=True,
    ),
    Case(
        "get_logged_model",
        lambda c, w: c.get_logged_model(w.model_id),
        lambda r, w: r.get_logged_model(w.model_id),
        server_only=True,
    ),
]


def verbs() -> set[str]:
    return set(Registry.__abstractmethods__)


def facts(value: Any) -> Any:
    """Put what MlflowClient returns and what we return into one form; times are left out."""
    if isinstance(value, list):
        return [facts(item) for item in value]
    if value is None or isinstance(value, str):
        return value
    kind = type(value).__name__
    if kind == "Run":
        return run_facts(value)
    if kind == "LoggedModel":
        metrics = value.metrics if isinstance(value.metrics, dict) else {m.key: m.value for m in value.metrics}
        uri = getattr(value, "artifact_location", None) or value.artifact_uri
        known = {key: getattr(value, key) for key in ("model_id", "name", "source_run_id")}
        return {**known, "status": str(value.status), "uri": uri, "metrics": metrics}
    # Lists of Unity Catalog have neither; MlflowClient puts methods there, which raise.
    tags = {} if callable(value.tags) else value.tags
    aliases = value.aliases
    if callable(aliases):
        aliases = [] if hasattr(value, "version") else {}
    source = getattr(value, "source", None) or ""
    # An MLflow server leaves out the logged model behind a version; we read it from the source.
    model_id = getattr(value, "model_id", None) or (
        source[len("models:/") :] if source.startswith("models:/m-") else None
    )
    return {
        "name": value.name,
        "description": value.description or None,
        "tags": dict(tags),
        "aliases": {a: int(v) for a, v in aliases.items()} if isinstance(aliases, dict) else sorted(aliases),
        "version": int(getattr(value, "version", 0)),
        **{key: getattr(value, key, None) or None for key in ("status", "run_id", "source")},
        "model_id": model_id,
    }


def run_facts(run: Any) -> dict[str, Any]:
    info, data = getattr(run, "info", run), getattr(run, "data", run)
    ids = getattr(run, "model_ids", None) or [output.model_id for output in run.outputs.model_outputs]
    return {
        "run_id": info.run_id,
        "status": info.status,
        "uri": info.artifact_uri,
        "metrics": {key: repr(value) for key, value in data.metrics.items()},
        "model_ids": ids,
    }


def ids(case: Any) -> str:
    return str(case.verb)
