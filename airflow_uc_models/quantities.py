"""Sizes, ages, numbers and switches as people write them: ``500MB``, ``30 days``, ``0.9599``, ``true``.

Read strictly, shown short.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from airflow_uc_models.exceptions import InvalidArgumentError

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_BYTES = {"b": 1} | {f"{letter}b": 1000**i for i, letter in enumerate("kmgt", 1)}
_BYTES |= {f"{letter}ib": 1024**i for i, letter in enumerate("kmgt", 1)}
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "min": 60, "s": 1}
_NAMES = {"w": "week", "d": "day", "h": "hour", "min": "minute", "s": "second"}
_BY_NAME = _SECONDS | {f"{_NAMES[key]}{s}": seconds for key, seconds in _SECONDS.items() for s in ("", "s")}
_LEAST_SHOWN = 10
_FEWEST_DIGITS, _MOST_DIGITS = 4, 60
# Beyond these powers of ten, a number is shown with an exponent.
_PLAIN = (-5, 15)


def parse_size(where: str, value: Any) -> int:
    """Read bytes: a whole number, or a number with a unit: B, KB, MB, GB, TB of 1,000 each, KiB ... of 1,024.

    :param where: what it is, for the error
    """
    found = _read(value, _BYTES, "b")
    if found is None or found < 1 or (found.denominator != 1 and isinstance(value, float)):
        raise InvalidArgumentError(f"{where} must be a number of bytes above 0, or like '500MB', not {value!r}.")
    return int(found)


def parse_age(where: str, value: Any) -> timedelta:
    """Read a timedelta, a number of days, or a number with a unit: weeks, days, hours, minutes (min), seconds.

    :param where: what it is, for the error
    """
    try:
        found = _read(value, _BY_NAME, "d")
        age = value if isinstance(value, timedelta) else found and timedelta(seconds=float(found))
    except OverflowError:
        age = None
    if not age or age <= timedelta(0):
        raise InvalidArgumentError(
            f"{where} must be a timedelta or a number of days above 0, or like '36 hours', not {value!r}."
        )
    return age


def as_switch(value: Any) -> Any:
    """Return True or False for a text that spells it, any other value as it is."""
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def size_text(size: int) -> str:
    """Return bytes in the largest unit that holds them as a whole number."""
    unit = next(unit for unit in ("tb", "gb", "mb", "kb", "b") if size % _BYTES[unit] == 0)
    return f"{size // _BYTES[unit]} {unit.upper()}"


def age_text(age: timedelta, other: timedelta | None = None) -> str:
    """Return a time in the largest unit that it has some of, whole unless it is short.

    :param other: a time from which it must look different, unless both are the same
    """
    seconds = age.total_seconds()
    unit = next((unit for unit in ("d", "h", "min") if seconds >= _SECONDS[unit]), "s")
    number = seconds / _SECONDS[unit]
    looks_like = None if other is None or other == age else age_text(other)
    for decimals in range(number < _LEAST_SHOWN, 12):  # of a day, that is less than a microsecond
        shown = _without_zeros(f"{number:.{decimals}f}")
        text = f"{shown} {_NAMES[unit]}{'' if shown == '1' else 's'}"
        if text != looks_like:
            break
    return text


def number_texts(*values: float | Decimal) -> list[str]:
    """Return numbers with four significant digits; with more where two that differ would look the same."""
    exact = [value if isinstance(value, Decimal) else Decimal(repr(float(value))) for value in values]
    for digits in range(_FEWEST_DIGITS, _MOST_DIGITS):
        texts = [_number_text(value, digits) for value in exact]
        if len(set(texts)) == len(set(exact)):
            return texts
    return [str(value) for value in exact]


def number_text(value: float | Decimal) -> str:
    """Return one number with four significant digits."""
    return number_texts(value)[0]


def _number_text(value: Decimal, digits: int) -> str:
    if not value.is_finite():
        return str(value).lower()
    power = value.adjusted() if value else 0
    if _PLAIN[0] <= power <= _PLAIN[1]:
        text = _without_zeros(f"{value:.{max(0, digits - 1 - power)}f}")
        return "0" if text == "-0" else text
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{_without_zeros(mantissa)}e{exponent}"


def _without_zeros(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


def _read(value: Any, units: dict[str, int], default: str) -> Fraction | None:
    """Return a number times its unit; None for what is none."""
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, int | float):
        return Fraction(value) * units[default]
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    unit = units.get(found[2].lower() or default) if found else None
    return Fraction(found[1]) * unit if found and unit else None
