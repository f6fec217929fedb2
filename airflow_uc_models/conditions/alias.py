"""The condition about aliases: where one points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airflow_uc_models.conditions.base import Condition, Outcome, Waiting, missing, registered
from airflow_uc_models.entities import ModelVersion, RegisteredModel


@dataclass(frozen=True, slots=True)
class AliasedModelVersion(Condition):
    """The READY version that an alias points to, if it is the right one.

    :param model_name: ``catalog.schema.model`` as the registry stores it
    :param alias: the alias
    :param version: the version that it must point to
    :param newer_than: it must point to a version newer than this one
    :param other_than: it must point to another version than this one
    :param missing_ok: wait for the model, too
    """

    kind: ClassVar[str] = "aliased_model_version"

    model_name: str
    alias: str
    version: int | None = None
    newer_than: int | None = None
    other_than: int | None = None
    missing_ok: bool = False

    def describe(self) -> str:
        """Return what is waited for."""
        asked = []
        if self.version is not None:
            asked.append(f"version {self.version}")
        if self.newer_than is not None:
            asked.append(f"a version newer than {self.newer_than}")
        if self.other_than is not None:
            asked.append(f"another version than {self.other_than}")
        return f"alias {self.alias!r} of {self.model_name} to point to {' and '.join(asked) or 'a READY version'}"

    def target(self, model: RegisteredModel) -> int | None:
        """Return the version that the alias points to, None if that is not the right one."""
        number = model.aliases.get(self.alias)
        if number is None or self.version not in (None, number):
            return None
        if number == self.other_than or (self.newer_than is not None and number <= self.newer_than):
            return None
        return number

    def decide(self, model: RegisteredModel | None, version: ModelVersion | None) -> Outcome:
        """Return the outcome.

        :param model: the model with its aliases, or None if there is none
        :param version: the version that ``target`` names, or None if there is none
        """
        if model is None:
            return missing(f"registered model {self.model_name}", missing_ok=self.missing_ok)
        if self.alias not in model.aliases:
            existing = ", ".join(sorted(model.aliases)) or "none"
            return Waiting(f"{self.model_name} has no alias {self.alias!r} yet (existing: {existing}).")
        if version is None:
            return Waiting(f"Alias {self.alias!r} of {self.model_name} points to version {model.aliases[self.alias]}.")
        return registered(version)
