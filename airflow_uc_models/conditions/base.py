"""What all conditions share: the three outcomes, and what comes out alike for each of them."""

from __future__ import annotations

from abc import ABC
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from airflow_uc_models.entities import FAILED_REGISTRATION, ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import ModelVersionFailedError, NotFoundError, UCModelsError


@dataclass(frozen=True, slots=True)
class Waiting:
    """It is not yet so.

    :param reason: what is missing, as a sentence
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Met:
    """It is so.

    :param entity: the version, or the registered model, that met the condition
    """

    entity: ModelVersion | RegisteredModel

    @property
    def version(self) -> ModelVersion:
        """The entity of a condition that is about versions."""
        if not isinstance(self.entity, ModelVersion):
            raise TypeError(f"{self.entity.uri} is no model version")
        return self.entity

    def to_event(self, connection: str = "") -> dict[str, Any]:  # noqa: ARG002 - one signature for all outcomes
        """Return the outcome as plain JSON, the payload of a trigger's event."""
        key = "version" if isinstance(self.entity, ModelVersion) else "model"
        return {"outcome": "met", key: self.entity.to_xcom()}


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not be so, however long one waits.

    :param error: why
    :param version: the version that failed, if it is one
    """

    error: UCModelsError
    version: ModelVersion | None = None

    def to_event(self, connection: str = "") -> dict[str, Any]:
        """Return the outcome as plain JSON, the payload of a trigger's event.

        :param connection: how the message names the connection that was used
        """
        self.error.used(connection)
        version = self.version.to_xcom() if self.version else None
        return {"outcome": "failed", "message": str(self.error), "version": version}


Outcome = Waiting | Met | Failed


class Condition(ABC):
    """Base of all conditions; each is a frozen dataclass of plain JSON values."""

    kind: ClassVar[str]
    model_name: str | None

    def describe(self) -> str:
        """Return what is waited for, in words that complete "Waiting for ..."."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the condition as plain JSON."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


def missing(what: str, *, missing_ok: bool) -> Outcome:
    """Return what comes of a thing that is not there: a wait where that was allowed, else a failure."""
    if missing_ok:
        return Waiting(f"There is no {what} yet.")
    return Failed(
        NotFoundError(
            f"There is no {what}, or the connection's principal may not see it. "
            "Create it, or set missing_ok=True to wait for it, too."
        )
    )


def registered(version: ModelVersion) -> Outcome:
    """Return how far the registration of a version has come: met when it is READY."""
    if version.is_ready:
        return Met(version)
    if version.status == FAILED_REGISTRATION:
        said = f": {version.status_message.rstrip('.')}" if version.status_message else ""
        error = ModelVersionFailedError(
            f"Version {version.version} of {version.name} ended in {FAILED_REGISTRATION}{said}. "
            "Register the model again; the failed version can be deleted."
        )
        return Failed(error, version)
    return Waiting(f"Version {version.version} of {version.name} is {version.status}.")
