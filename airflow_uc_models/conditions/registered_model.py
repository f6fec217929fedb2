"""The condition about registered models: that one is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from airflow_uc_models.conditions.base import Condition, Met, Outcome, Waiting, missing
from airflow_uc_models.entities import RegisteredModel


@dataclass(frozen=True, slots=True)
class NewRegisteredModel(Condition):
    """A registered model: the one of this name, or one in a schema that is newer than the last one handled.

    The new models of a schema are taken in the order of their creation, oldest first, those of one moment by name.
    Where nothing has been handled yet (``after_created_at`` is None) the newest one is the one.

    :param model_name: ``catalog.schema.model`` as the registry stores it; this or ``schema`` is set
    :param schema: ``catalog.schema`` as the registry stores it
    :param after_created_at: when the last one that was handled was created, in milliseconds since the epoch
    :param after_name: its name
    :param missing_ok: wait for the schema, too
    """

    kind: ClassVar[str] = "new_registered_model"

    model_name: str | None = None
    schema: str | None = None
    after_created_at: int | None = None
    after_name: str | None = None
    missing_ok: bool = False

    def describe(self) -> str:
        """Return what is waited for."""
        if self.model_name is not None:
            return f"registered model {self.model_name}"
        after = f" newer than {self.after_name}" if self.after_created_at is not None else ""
        return f"a registered model in {self.schema}{after}"

    def decide(self, models: Sequence[RegisteredModel] | None) -> Outcome:
        """Return the outcome.

        :param models: the models of that name or schema, or None if there is no such schema
        """
        if models is None:
            schema = self.schema or (self.model_name or "").rpartition(".")[0]
            return missing(f"schema {schema}", missing_ok=self.missing_ok)
        after = None if self.after_created_at is None else (self.after_created_at, self.after_name or "")
        found = sorted((m for m in models if after is None or _age(m) > after), key=_age)
        if not found:
            return Waiting(f"There is no such model yet: {self.describe()}.")
        return Met(found[-1] if after is None else found[0])


def _age(model: RegisteredModel) -> tuple[int, str]:
    """Return what models are sorted by."""
    return model.created_at or 0, model.name
