"""Engine options: checked, and turned into what they mean; templates make text of everything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from airflow_uc_models.engines.job import InferenceJob
from airflow_uc_models.exceptions import InvalidArgumentError

_UNSET = (None, "", "None")


def text(job: InferenceJob, key: str, pattern: str, meaning: str, *, needed: bool = False) -> str | None:
    """Return an option that is text; None if it is not given.

    :param pattern: regular expression of the whole text
    :param meaning: what is expected, in words that complete "... must be"
    """
    value = job.options.get(key)
    if value in _UNSET and not needed:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not re.fullmatch(pattern, str(value).strip()):
        raise _wrong(key, meaning, value)
    return str(value).strip()


def number(job: InferenceJob, key: str, default: float, *, least: float = 0.0) -> float:
    """Return an option that is a number, such as seconds."""
    value = job.options.get(key)
    if value in _UNSET:
        return default
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if isinstance(value, bool) or not least <= found < float("inf"):
        raise _wrong(key, f"a number of at least {least:g}", value)
    return found


def names(job: InferenceJob, key: str, meaning: str) -> tuple[str, ...]:
    """Return an option that is a list of texts."""
    value = job.options.get(key)
    if value in _UNSET:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise _wrong(key, meaning, value)
    return tuple(item.strip() for item in value if item.strip())


def _wrong(key: str, meaning: str, value: Any) -> InvalidArgumentError:
    return InvalidArgumentError(f"engine_options: {key} must be {meaning}, not {value!r}.")
