"""Conditions about model versions: a new one, and one that carries a tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from airflow_uc_models.conditions.base import Condition, Failed, Met, Outcome, Waiting, missing, registered
from airflow_uc_models.entities import ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import UCModelsError

# A version whose worker died stays pending for ever. After this long it no longer keeps newer ones waiting.
PENDING_PATIENCE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class NewModelVersion(Condition):
    """A READY version of a model that is newer than the last one handled.

    New versions are taken in order, oldest first, so that none is left out by who goes on from the last one:

    * the oldest that matches the filters is READY: that is the one;
    * it is FAILED_REGISTRATION: failed;
    * it is PENDING_REGISTRATION: newer ones wait for it, but for an hour at most from its creation.

    Where nothing has been handled yet (``after_version`` is None) the newest READY version is the one: the present
    state, not the history. Without a READY one, the newest version decides: failed or still to come.

    Tags and alias are those of the moment. A version that comes to match when a newer one has been handled is not
    seen any more.

    :param model_name: ``catalog.schema.model`` as the registry stores it
    :param after_version: the last version that was handled; 0 for the beginning
    :param tags: tags that the version must have, with these values
    :param alias: an alias that must point to the version
    :param missing_ok: wait for the model, too
    """

    kind: ClassVar[str] = "new_model_version"

    model_name: str
    after_version: int | None = None
    tags: Mapping[str, str] | None = None
    alias: str | None = None
    missing_ok: bool = False

    @property
    def after(self) -> int:
        """The version that a new one must exceed."""
        return self.after_version or 0

    def describe(self) -> str:
        """Return what is waited for."""
        text = f"a READY version of {self.model_name}"
        text += f" newer than {self.after}" if self.after else ""
        text += f" with tags {dict(self.tags)}" if self.tags else ""
        return text + (f" with alias {self.alias!r}" if self.alias else "")

    def decide(self, model: RegisteredModel | None, versions: Sequence[ModelVersion], now: float) -> Outcome:
        """Return the outcome.

        :param model: the model, or None if there is none
        :param versions: its versions, with their tags if the condition asks for tags; older ones do no harm
        :param now: seconds since the epoch
        """
        if model is None:
            return missing(f"registered model {self.model_name}", missing_ok=self.missing_ok)
        candidates = sorted((v for v in versions if self._wants(v, model)), key=lambda v: v.version)
        if self.after_version is None:
            ready = [v for v in candidates if v.is_ready]
            candidates = (ready or candidates)[-1:]
        for version in candidates:
            outcome = registered(version)
            if not (isinstance(outcome, Waiting) and _is_stalled(version, now)):
                return outcome
        return Waiting(f"There is no such version yet: {self.describe()}.")

    def _wants(self, version: ModelVersion, model: RegisteredModel) -> bool:
        if version.version <= self.after:
            return False
        if self.alias is not None and model.aliases.get(self.alias) != version.version:
            return False
        return all(version.tags.get(key) == value for key, value in (self.tags or {}).items())


def _is_stalled(version: ModelVersion, now: float) -> bool:
    """Whether a pending version has had its time; one of unknown age has."""
    return version.created_at is None or now - version.created_at / 1000 > PENDING_PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class TaggedModelVersion(Condition):
    """A READY version, named by its number or by an alias, that carries a tag.

    :param model_name: ``catalog.schema.model`` as the registry stores it
    :param version: the version; this or ``alias`` is set
    :param alias: the alias that names the version, whichever it points to when one looks
    :param tag: key of the tag
    :param values: the values of which the tag must have one; None for any value
    :param failed_values: values with which it will not be so any more
    :param missing_ok: wait for the model and the version, too
    """

    kind: ClassVar[str] = "tagged_model_version"

    model_name: str
    tag: str
    version: int | None = None
    alias: str | None = None
    values: Sequence[str] | None = None
    failed_values: Sequence[str] = ()
    missing_ok: bool = False

    @property
    def _which(self) -> str:
        if self.alias is not None:
            return f"version of {self.model_name} with alias {self.alias!r}"
        return f"version {self.version} of {self.model_name}"

    def describe(self) -> str:
        """Return what is waited for."""
        text = f"tag {self.tag!r} of the {self._which}"
        return text if self.values is None else f"{text} to be {' or '.join(map(repr, self.values))}"

    def decide(self, version: ModelVersion | None) -> Outcome:
        """Return the outcome.

        :param version: the version with its tags, or None if there is none
        """
        if version is None:
            return missing(self._which, missing_ok=self.missing_ok)
        outcome = registered(version)
        value = version.tags.get(self.tag)
        said = f"Tag {self.tag!r} of version {version.version} of {self.model_name}"
        if not isinstance(outcome, Failed) and value in self.failed_values:
            return Failed(UCModelsError(f"{said} is {value!r}, a failure value of this sensor."), version)
        if not isinstance(outcome, Met):
            return outcome
        if value is None:
            return Waiting(f"{said} is not set.")
        if self.values is not None and value not in self.values:
            return Waiting(f"{said} is {value!r}.")
        return outcome
