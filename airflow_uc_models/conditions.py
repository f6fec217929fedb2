"""What a sensor waits for: a condition decides from observed facts, and travels to a trigger as plain JSON.

Nothing here does I/O or knows Airflow. ``registry/watch.py`` gathers the facts; sensors and triggers act on the
outcome. That a poke and a deferred wait come to the same end follows from both asking the same object.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from airflow_uc_models.entities import FAILED_REGISTRATION, ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import InvalidArgumentError, ModelVersionFailedError, NotFoundError, UCModelsError

# A version whose worker died stays pending for ever. After this long it no longer keeps newer ones waiting.
PENDING_PATIENCE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """It is not yet so.

    :param reason: what is missing, as a sentence
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Met:
    """It is so.

    :param version: the version that met the condition
    """

    version: ModelVersion

    def to_event(self) -> dict[str, Any]:
        """Return the outcome as plain JSON, the payload of a trigger's event."""
        return {"outcome": "met", "version": self.version.to_xcom()}


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not be so, however long one waits.

    :param error: why
    :param version: the version that failed, if it is one
    """

    error: UCModelsError
    version: ModelVersion | None = None

    def to_event(self) -> dict[str, Any]:
        """Return the outcome as plain JSON, the payload of a trigger's event."""
        version = self.version.to_xcom() if self.version else None
        return {"outcome": "failed", "message": str(self.error), "version": version}


Outcome = Waiting | Met | Failed


class Condition(ABC):
    """Base of all conditions; each is a frozen dataclass of plain JSON values about one model."""

    kind: ClassVar[str]
    model_name: str

    def describe(self) -> str:
        """Return what is waited for, in words that complete "Waiting for ..."."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the condition as plain JSON."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


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
            return self._missing()
        candidates = sorted((v for v in versions if self._wants(v, model)), key=lambda v: v.version)
        if self.after_version is None:
            ready = [v for v in candidates if v.is_ready]
            candidates = (ready or candidates)[-1:]
        for version in candidates:
            if version.is_ready:
                return Met(version)
            if version.status == FAILED_REGISTRATION:
                return Failed(_failure(version), version)
            if not _is_stalled(version, now):
                return Waiting(f"Version {version.version} of {self.model_name} is {version.status}.")
        return Waiting(f"There is no such version yet: {self.describe()}.")

    def _missing(self) -> Outcome:
        if self.missing_ok:
            return Waiting(f"There is no registered model {self.model_name} yet.")
        return Failed(
            NotFoundError(
                f"There is no registered model {self.model_name}, or the connection's principal may not see it. "
                "Create it, or set missing_ok=True to wait for it, too."
            )
        )

    def _wants(self, version: ModelVersion, model: RegisteredModel) -> bool:
        if version.version <= self.after:
            return False
        if self.alias is not None and model.aliases.get(self.alias) != version.version:
            return False
        return all(version.tags.get(key) == value for key, value in (self.tags or {}).items())


def _failure(version: ModelVersion) -> ModelVersionFailedError:
    said = f": {version.status_message.rstrip('.')}" if version.status_message else ""
    return ModelVersionFailedError(
        f"Version {version.version} of {version.name} ended in {FAILED_REGISTRATION}{said}. "
        "Register the model again; the failed version can be deleted."
    )


def _is_stalled(version: ModelVersion, now: float) -> bool:
    """Whether a pending version has had its time; one of unknown age has."""
    return version.created_at is None or now - version.created_at / 1000 > PENDING_PATIENCE_SECONDS


_KINDS: dict[str, type[Condition]] = {kind.kind: kind for kind in (NewModelVersion,)}


def condition_from_json(value: Mapping[str, Any]) -> Condition:
    """Rebuild a condition; keys that this release does not know are left out.

    Deferred tasks outlive upgrades: what an earlier release stored must still be read, so a kind or a field is
    never renamed, and a new field has a default.
    """
    kind = _KINDS.get(str(value.get("kind")))
    if kind is None:
        raise InvalidArgumentError(f"Unknown condition {value.get('kind')!r}; known are {', '.join(sorted(_KINDS))}.")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: item for key, item in value.items() if key in known})
