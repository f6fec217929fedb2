"""The guide for those who had webhooks: it names every event, and what it shows works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from airflow.sdk import Asset
from support.guides import DOCS, blocks

from airflow_uc_models import events

ROOT = Path(__file__).parents[2]
GUIDE = (DOCS / "migrating-from-webhooks.md").read_text()


def block(language: str) -> str:
    [found] = blocks(GUIDE, language)
    return found


def test_every_old_event_is_named():
    from databricks.sdk.service.ml import RegistryWebhookEvent

    assert [event.value for event in RegistryWebhookEvent if f"`{event.value}`" not in GUIDE] == []


def test_every_kind_of_event_is_named():
    assert [kind for kind in events.KINDS if f"`{kind}`" not in GUIDE] == []
    kinds = re.findall(r"`((?:registered_model|model_version)\w*\.\w+)`", GUIDE)
    assert set(kinds) <= events.KINDS


def test_the_webhook_shown_and_its_watchers_say_the_same():
    webhook = json.loads(block("json"))
    found: dict = {}
    exec(block("python"), found)
    assets = [value for value in found.values() if isinstance(value, Asset)]
    triggers = [watcher.trigger for asset in assets for watcher in asset.watchers]
    assert len({str(trigger.serialize()) for trigger in triggers}) == len(webhook["events"]) == 2
    assert {trigger.model_name for trigger in triggers} == {f"prod.ml_team.{webhook['model_name']}"}
    assert {kind for trigger in triggers for kind in trigger.watch.kinds} == {
        events.MODEL_VERSION_READY,
        events.MODEL_VERSION_ALIAS_CREATED,
    }


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)]+)\)", GUIDE))))
def test_links_lead_somewhere(link):
    path, _, anchor = link.partition("#")
    target = (ROOT / "docs" / (path or "migrating-from-webhooks.md")).resolve()
    headings = [line.lstrip("# ").lower() for line in target.read_text().splitlines() if line.startswith("#")]
    assert not anchor or anchor in [re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings]


def test_references_are_defined():
    used = set(re.findall(r"\]\[(\w+)\]", GUIDE))
    assert used == set(re.findall(r"^\[(\w+)\]: https://", GUIDE, re.MULTILINE))
