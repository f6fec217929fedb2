"""The condition of a wait that is over: another try of the same task has ended it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airflow_uc_models.conditions.base import Condition, Failed, Met, Outcome, registered
from airflow_uc_models.entities import ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import NotFoundError


@dataclass(frozen=True, slots=True)
class FoundAlready(Condition):
    """The model version, or the registered model, that another try of the same task instance has found.

    It is met as that try met it, whatever has changed about the version since. There is nothing to wait for: where it
    has been deleted, the condition has failed.

    :param model_name: ``catalog.schema.model`` as the registry stores it
    :param version: the version; None where the model itself was waited for
    """

    kind: ClassVar[str] = "found_already"

    model_name: str
    version: int | None = None

    def describe(self) -> str:
        """Return what is waited for."""
        found = self.model_name if self.version is None else f"version {self.version} of {self.model_name}"
        return f"{found}, which another try of this task found"

    def decide(self, found: ModelVersion | RegisteredModel | None) -> Outcome:
        """Return the outcome.

        :param found: the version or model, or None if it has been deleted
        """
        if found is None:
            error = f"Could not find {self.describe()}: it has been deleted since. Clear the task to wait anew."
            return Failed(NotFoundError(error))
        return registered(found) if isinstance(found, ModelVersion) else Met(found)
