"""What a registry holds, as frozen dataclasses that turn into plain JSON for XCom and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

PENDING_REGISTRATION = "PENDING_REGISTRATION"
READY = "READY"
FAILED_REGISTRATION = "FAILED_REGISTRATION"


class _Entity:
    """JSON in and out, shared by all entities."""

    __slots__ = ()

    def to_xcom(self) -> dict[str, Any]:
        """Return the entity as plain JSON: ``op.output["version"]`` reads one field of it."""
        return {**asdict(self), "uri": self.uri}  # type: ignore[call-overload]

    @classmethod
    def from_xcom(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild the entity; keys that this release does not know are left out."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: item for key, item in value.items() if key in known})

    @property
    def uri(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class RegisteredModel(_Entity):
    """A registered model.

    :param name: ``catalog.schema.model``
    :param aliases: version by alias
    :param created_at: milliseconds since the epoch, as MLflow and Unity Catalog give it
    :param deployment_job_id: the Databricks deployment job connected to the model
    """

    name: str
    description: str | None = None
    aliases: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    created_at: int | None = None
    updated_at: int | None = None
    owner: str | None = None
    deployment_job_id: str | None = None

    @property
    def uri(self) -> str:
        """``models:/catalog.schema.model``."""
        return f"models:/{self.name}"


@dataclass(frozen=True, slots=True)
class ModelVersion(_Entity):
    """A version of a registered model.

    :param name: ``catalog.schema.model``
    :param version: the number, always an int here whatever the registry sends
    :param status: ``PENDING_REGISTRATION``, ``READY`` or ``FAILED_REGISTRATION``
    :param aliases: aliases that point to this version; empty in search results of most registries
    :param tags: tags; empty in search results of Unity Catalog
    :param source: where the version was made from
    :param model_id: the MLflow 3 logged model behind it
    :param created_at: milliseconds since the epoch
    """

    name: str
    version: int
    status: str = READY
    status_message: str | None = None
    aliases: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    model_id: str | None = None
    source: str | None = None
    storage_location: str | None = None
    description: str | None = None
    created_at: int | None = None
    updated_at: int | None = None
    created_by: str | None = None

    @property
    def uri(self) -> str:
        """``models:/catalog.schema.model/3``."""
        return f"models:/{self.name}/{self.version}"

    @property
    def is_ready(self) -> bool:
        """Whether the version can be loaded."""
        return self.status == READY


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """An MLflow 3 logged model, as far as registration and validation need it.

    :param metrics: newest value by metric name
    :param workspace_id: the Databricks workspace that it was read from
    :param created_at: milliseconds since the epoch
    """

    model_id: str
    name: str
    source_run_id: str | None = None
    artifact_uri: str | None = None
    status: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    workspace_id: str | None = None
    created_at: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """An MLflow run, as far as registration and validation need it.

    :param metrics: newest value by metric name
    :param model_ids: logged models that the run wrote, in the order of their steps
    :param workspace_id: the Databricks workspace that it was read from
    :param started_at: milliseconds since the epoch
    :param experiment_id: the experiment of the run
    :param dataset_sources: where its input datasets came from, as MLflow describes each
    """

    run_id: str
    artifact_uri: str | None = None
    status: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    model_ids: list[str] = field(default_factory=list)
    workspace_id: str | None = None
    started_at: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    dataset_sources: list[dict[str, Any]] = field(default_factory=list)
    experiment_id: str | None = None
