"""The versions an alias pointed to, kept as a tag of the model: pure, so that it can be tested to the bone.

The tag ``airflow_alias_history_<alias>`` holds version numbers, oldest first, the current one last, separated by
spaces: ``"3 5 8"``. A dash in an alias is no legal character of a Unity Catalog tag key; such aliases are kept
under ``airflow_encoded_alias_history_<alias>`` with ``_`` written as ``__`` and ``-`` as ``_d``.

A tag that several writers share can lose what one of them wrote: the last write wins, and it may rest on what its
writer read long before. So each move also leaves a record of its own, ``airflow_alias_move_<id>_<alias>``, which nobody
else writes: ``"7: 3 5 8"``, the history after the move and a generation that is one more than any that its writer saw.
The newest generation is the history. A late write has an old generation and changes nothing; two of one generation
are moves at the same moment, and count both. The shared tag is for people, and for models that have no records yet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from airflow_uc_models.exceptions import InvalidArgumentError

MAX_VALUE = 1_000  # characters of a tag value in Unity Catalog
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_RECORD = re.compile(r"airflow_(?:encoded_|hashed_)?alias_(move_[0-9a-f]{8})_")
_MAX_KEY = 250  # the smaller of MLflow's 250 and Unity Catalog's 255


def tag_key(alias: str, kind: str = "history") -> str:
    """Return the tag key under which the history (or another record) of an alias is kept."""
    plain = f"airflow_alias_{kind}_{alias}"
    if "-" not in alias and alias.isascii() and len(plain) <= _MAX_KEY:
        return plain
    encoded = f"airflow_encoded_alias_{kind}_{alias.replace('_', '__').replace('-', '_d')}"
    if encoded.isascii() and len(encoded) <= _MAX_KEY:
        return encoded
    return f"airflow_hashed_alias_{kind}_{hashlib.sha256(alias.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class AliasHistory:
    """The versions that an alias pointed to, oldest first, the current one last."""

    versions: tuple[int, ...] = ()

    @classmethod
    def parse(cls, value: str | None) -> AliasHistory:
        """Read the tag's value; words that are no versions (somebody edited it) are left out."""
        return cls(tuple(int(word) for word in (value or "").split() if _VERSION.fullmatch(word)))

    def format(self, max_length: int = MAX_VALUE) -> str:
        """Return the tag's value, giving up the oldest versions where it would grow too long."""
        kept: list[str] = []
        length = -1
        for version in reversed(self.versions):
            length += 1 + len(str(version))
            if length > max_length:
                break
            kept.append(str(version))
        return " ".join(reversed(kept))

    def push(self, version: int) -> AliasHistory:
        """Return the history after the alias moved to ``version``; staying where it is changes nothing."""
        return self if self.versions[-1:] == (version,) else AliasHistory((*self.versions, version))

    def reconcile(self, current: int | None) -> AliasHistory:
        """Return the history with a move made by hand added: the alias tells the truth."""
        return self if current is None else self.push(current)

    def back(self, steps: int, existing: Iterable[int]) -> AliasHistory:
        """Return the history with ``steps`` moves taken back, skipping versions that were deleted.

        Expects a reconciled history. Raises InvalidArgumentError if it does not reach back that far.
        """
        if steps < 1:
            raise InvalidArgumentError(f"steps must be at least 1, not {steps}.")
        alive = set(existing)
        earlier = _without_repeats(v for v in self.versions[:-1] if v in alive)
        current = self.versions[-1:]
        while earlier and earlier[-1:] == current:
            earlier = earlier[:-1]
        if len(earlier) < steps:
            raise InvalidArgumentError(
                f"it has {len(earlier)} earlier version(s) that still exist "
                f"({', '.join(map(str, earlier)) or 'none'}), and {steps} step(s) back were asked for."
            )
        return AliasHistory(earlier[: len(earlier) - steps + 1])

    def back_to(self, version: int, existing: Iterable[int]) -> AliasHistory:
        """Return the history cut back to the last time the alias pointed to ``version``."""
        alive = set(existing)
        if version not in self.versions[:-1]:
            earlier = ", ".join(map(str, _without_repeats(self.versions[:-1]))) or "none"
            raise InvalidArgumentError(
                f"it never pointed to version {version} before (earlier: {earlier}). To point it to a version "
                "that it never had, set it with SetRegisteredModelAliasOperator."
            )
        if version not in alive:
            raise InvalidArgumentError(f"version {version} was deleted.")
        last = max(i for i, v in enumerate(self.versions[:-1]) if v == version)
        return AliasHistory(_without_repeats(v for v in self.versions[: last + 1] if v in alive))


def _without_repeats(versions: Iterable[int]) -> tuple[int, ...]:
    """Drop neighbours that are equal, as deletions leave them."""
    kept: list[int] = []
    for version in versions:
        if kept[-1:] != [version]:
            kept.append(version)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """What one move leaves: the history after it, and how many moves its writer saw before it, at least."""

    generation: int
    history: AliasHistory

    @classmethod
    def parse(cls, value: str) -> MoveRecord | None:
        """Read the tag's value; None if it is no record."""
        generation, colon, versions = value.partition(":")
        return cls(int(generation), AliasHistory.parse(versions)) if colon and _VERSION.fullmatch(generation) else None

    def format(self) -> str:
        """Return the tag's value."""
        return f"{self.generation}: {self.history.format(MAX_VALUE - 20)}"


def move_records(tags: Mapping[str, str], alias: str) -> dict[str, MoveRecord]:
    """Return the records of an alias's moves by their tag keys."""
    found = {}
    for key, value in tags.items():
        match = _RECORD.match(key)
        if match and key == tag_key(alias, match[1]) and (record := MoveRecord.parse(value)):
            found[key] = record
    return found


def history_of(tags: Mapping[str, str], alias: str, current: int | None) -> AliasHistory:
    """Return the history of an alias out of the tags of its model.

    :param current: the version that the alias points to
    """
    shared = AliasHistory.parse(tags.get(tag_key(alias)))
    records = move_records(tags, alias).values()
    newest = max((record.generation for record in records), default=0)
    histories = [record.history.versions for record in records if record.generation == newest]
    if not histories:
        return shared
    # Of moves at the same moment, the alias tells which came last.
    found = reduce(_joined, sorted(histories, key=lambda versions: (versions[-1:] == (current,), versions)))
    if shared.versions[: len(found)] == found and shared.versions[-1:] == (current,):
        return shared  # written by a release that left no records
    return AliasHistory(found)


def _joined(earlier: tuple[int, ...], later: tuple[int, ...]) -> tuple[int, ...]:
    """Return both moves of a moment, one after the other, upon what they have in common."""
    common = 0
    while common < min(len(earlier), len(later)) and earlier[common] == later[common]:
        common += 1
    return _without_repeats((*earlier, *later[common:]))
