"""What a consumer has handled of a registry: sets of version numbers, so that a late one is never passed over.

A highest number would not do: versions become READY out of order, and work on an older one may fail while work on a
newer one succeeds. Nothing here does I/O or knows Airflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from airflow_uc_models.ranges import from_ranges, to_ranges


@dataclass(frozen=True, slots=True)
class Handled:
    """What was handled of one model.

    :param created_at: when the model was created, in milliseconds since the epoch: one that is deleted and made again
        under the same name numbers its versions from 1 again
    """

    created_at: int | None
    versions: frozenset[int]

    def merge(self, other: Handled) -> Handled:
        """Return what both know; of two models of the same name, the younger one counts."""
        if self.created_at == other.created_at:
            return Handled(self.created_at, self.versions | other.versions)
        return max(self, other, key=lambda handled: -1 if handled.created_at is None else handled.created_at)


@dataclass(frozen=True, slots=True)
class Watermark:
    """What a consumer has handled.

    Watermarks that different runs wrote can be merged in any order, any number of times.
    """

    models: Mapping[str, Handled] = field(default_factory=dict)

    def of(self, name: str, created_at: int | None) -> frozenset[int]:
        """Return the versions handled of a model; none where another model of the name was meant."""
        handled = self.models.get(name)
        return handled.versions if handled and handled.created_at == created_at else frozenset()

    def merge(self, other: Watermark) -> Watermark:
        """Return what either knows to be handled."""
        merged = dict(self.models)
        for name, handled in other.models.items():
            merged[name] = merged[name].merge(handled) if name in merged else handled
        return Watermark(merged)

    def without(self, other: Watermark) -> Watermark:
        """Return what this one knows to be handled and the other does not."""
        return Watermark(
            {
                name: Handled(handled.created_at, handled.versions - other.of(name, handled.created_at))
                for name, handled in self.models.items()
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the watermark as plain JSON, short however many versions there are."""
        return {
            name: {"created_at": handled.created_at, "versions": to_ranges(handled.versions)}
            for name, handled in sorted(self.models.items())
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Watermark:
        """Rebuild a watermark that ``to_json`` wrote."""
        return cls(
            {
                name: Handled(handled["created_at"], frozenset(from_ranges(handled["versions"])))
                for name, handled in value.items()
            }
        )


def unbroken(numbers: Iterable[int]) -> int:
    """Return up to which number all are there from 1 on; 0 if 1 is missing."""
    known = set(numbers)
    return next(number for number in count(1) if number not in known) - 1
