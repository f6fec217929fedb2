"""Unity Catalog's rules for names, tags, aliases and comments.

Sources: docs.databricks.com "Securable object naming requirements", "Apply tags to Unity Catalog securable
objects", "Manage model lifecycle in Unity Catalog" (10 aliases), the API reference of registered models (comments),
and ``mlflow/utils/validation.py`` (aliases).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_uc_models.emulator.errors import invalid

MAX_ALIASES = 10
MAX_TAGS = 50
MAX_NAME = 255
MAX_COMMENT = 65_536
_PART = re.compile(r"[^.\s/\x00-\x1f\x7f]+")
_ALIAS = re.compile(r"[\w-]{1,255}", re.ASCII)
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)
_RESERVED_IN_KEYS = (".", ",", "-", "=", "/", ":")
_TAG_KEY, _TAG_VALUE = 255, 1000


def part(name: Any, what: str) -> str:
    """Return one level of a name in lower case."""
    text = str(name or "").lower()
    if not text or len(text) > MAX_NAME or not _PART.fullmatch(text):
        raise invalid(f"{what} name {name!r} is not valid: 1 to {MAX_NAME} characters, no period, space or slash.")
    return text


def schema_name(name: Any) -> str:
    """Return ``catalog.schema`` in lower case."""
    levels = str(name or "").split(".")
    if len(levels) != 2:
        raise invalid(f"{name!r} is not a valid schema name: <catalog>.<schema> is expected.")
    return f"{part(levels[0], 'Catalog')}.{part(levels[1], 'Schema')}"


def model_name(name: Any) -> str:
    """Return a model's three-level name in lower case."""
    levels = str(name or "").split(".")
    if len(levels) != 3:
        raise invalid(
            f"{name!r} is not a valid name for a registered model in Unity Catalog. Please specify all three levels "
            "of the model name, in the form <catalog>.<schema>.<model>"
        )
    return ".".join(part(level, what) for level, what in zip(levels, ("Catalog", "Schema", "Model"), strict=True))


def alias_name(alias: Any, *, reserved: bool) -> str:
    """Return a valid alias.

    :param reserved: refuse the reserved ones, too
    """
    if not isinstance(alias, str) or not _ALIAS.fullmatch(alias):
        raise invalid(f"Alias {alias!r} is not valid: 1 to 255 letters, digits, underscores and dashes.")
    if reserved and _RESERVED_ALIAS.fullmatch(alias):
        raise invalid(f"Alias {alias!r} is reserved.")
    return alias


def tag_key(key: Any) -> str:
    """Return a valid tag key."""
    if not isinstance(key, str) or not key or len(key) > _TAG_KEY:
        raise invalid(f"Tag name {key!r} is not valid: 1 to {_TAG_KEY} characters.")
    if any(char in key for char in _RESERVED_IN_KEYS):
        listed = ", ".join(_RESERVED_IN_KEYS)
        raise invalid(f"Tag name {key} contains one or more of the reserved characters: List({listed})")
    if key != key.strip():
        raise invalid(f"Tag name {key!r} begins or ends with a space.")
    return key


def tag(key: Any, value: Any) -> tuple[str, str]:
    """Return a valid tag."""
    value = "" if value is None else value
    if not isinstance(value, str):
        raise invalid(f"The value of tag {key!r} must be a string.")
    if len(value) > _TAG_VALUE:
        raise invalid(f"The value of tag {key!r} has {len(value)} characters; at most {_TAG_VALUE} are allowed.")
    if value != value.strip():
        raise invalid(f"The value of tag {key!r} begins or ends with a space.")
    return tag_key(key), value


def tags(given: Any) -> dict[str, str]:
    """Return the tags of a create request, ``[{"key": ..., "value": ...}]``, as a dict."""
    if given is None:
        return {}
    if not isinstance(given, list) or not all(isinstance(item, Mapping) for item in given):
        raise invalid("tags must be a list of objects with key and value.")
    found = dict(tag(item.get("key"), item.get("value")) for item in given)
    limit_tags(found)
    return found


def limit_tags(found: Mapping[str, str]) -> None:
    """Refuse more tags than an object may carry."""
    if len(found) > MAX_TAGS:
        raise invalid(f"An object can have at most {MAX_TAGS} tags; this would make {len(found)}.")


def comment(text: Any) -> str | None:
    """Return a valid comment; an empty one is none."""
    if text is None or text == "":
        return None
    if not isinstance(text, str) or len(text) > MAX_COMMENT:
        raise invalid(f"A comment must be a string of at most {MAX_COMMENT} characters.")
    return text


def version_number(value: Any) -> int:
    """Return a version's number; int64 fields arrive as numbers or as strings."""
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(r"[0-9]{1,18}", str(value)):
        raise invalid(f"{value!r} is not a valid model version.")
    return int(value)
