"""What a model or version carries in its comment, where the registry has no tags.

The last lines of the comment are then ``airflow_task_key: <key>`` and, of a copy, ``airflow_copied_from: <uri>``: what
are tags elsewhere, for everybody to read. They belong to the one version; whoever copies its description leaves them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

TASK_KEY_TAG = "airflow_task_key"
COPIED_FROM_TAG = "airflow_copied_from"
COPIED_FROM_REGISTRY_TAG = "airflow_copied_from_registry"
# On a version that one try of a task is about to delete, as another try may still be uploading it.
TAKEN_OVER_TAG = "airflow_taken_over"
OWN_TAGS = (COPIED_FROM_TAG, COPIED_FROM_REGISTRY_TAG, TASK_KEY_TAG)

_LINE = re.compile(rf"({'|'.join(OWN_TAGS)}): (\S.*)")


def split(description: str | None) -> tuple[str | None, dict[str, str]]:
    """Return what people wrote, and what the last lines carry."""
    lines = (description or "").split("\n")
    carried: dict[str, str] = {}
    while lines and (found := _LINE.fullmatch(lines[-1])):
        lines.pop()
        carried.setdefault(found[1], found[2])  # the last one counts
    return "\n".join(lines) or None, carried


def join(description: str | None, carried: Mapping[str, str]) -> str:
    """Return a comment that carries this below what people wrote; the task key comes last."""
    lines = [f"{key}: {carried[key]}" for key in OWN_TAGS if key in carried]
    return "\n".join([description, *lines] if description else lines)
