"""Sets of version numbers as short text: ``1-40,42`` stays short where versions are numbered on and on."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


def to_ranges(numbers: Iterable[int]) -> str:
    """Return whole numbers from 0 as ranges, in order: ``{1, 2, 3, 5}`` is ``"1-3,5"``."""
    ordered = sorted(set(numbers))
    if not ordered:
        return ""
    ends = [a for a, b in pairwise(ordered) if b != a + 1] + ordered[-1:]
    starts = ordered[:1] + [b for a, b in pairwise(ordered) if b != a + 1]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def from_ranges(text: str) -> set[int]:
    """Return the numbers that ``to_ranges`` wrote; ValueError for text that it did not write."""
    numbers: set[int] = set()
    for part in text.split(",") if text else []:
        first, dash, last = part.partition("-")
        numbers.update(range(int(first), int(last if dash else first) + 1))
    return numbers
