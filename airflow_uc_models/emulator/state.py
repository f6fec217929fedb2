"""What a workspace holds: catalogs, schemas, models and versions, in memory and optionally in SQLite."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from airflow_uc_models.emulator.errors import missing
from airflow_uc_models.emulator.persistence import Database

PENDING, READY, FAILED = "PENDING_REGISTRATION", "READY", "FAILED_REGISTRATION"


def now() -> int:
    """Return the time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass
class Container:
    """A catalog or a schema, told apart by its name."""

    name: str
    owner: str
    comment: str | None = None
    created_at: int = field(default_factory=now)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Version:
    """A model version; ``model_id`` is that of the logged model it came from."""

    version: int
    created_by: str
    source: str | None = None
    run_id: str | None = None
    comment: str | None = None
    model_id: str | None = None
    run_tracking_server_id: str | None = None
    dependencies: Any = None
    status: str = PENDING
    status_message: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    created_at: int = field(default_factory=now)
    updated_at: int = field(default_factory=now)
    updated_by: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Model:
    """A registered model with its versions; ``last_version`` is the highest number ever given."""

    name: str
    owner: str
    created_by: str
    comment: str | None = None
    deployment_job_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, Version] = field(default_factory=dict)
    last_version: int = 0
    created_at: int = field(default_factory=now)
    updated_at: int = field(default_factory=now)
    updated_by: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def schema(self) -> str:
        """``catalog.schema``."""
        return self.name.rpartition(".")[0]

    def version(self, number: int) -> Version:
        """Return a version."""
        if number not in self.versions:
            raise missing(f"Model version '{number}' of Routine or Model '{self.name}' does not exist.")
        return self.versions[number]

    def aliases_of(self, number: int) -> list[str]:
        """Return the aliases that point to a version."""
        return sorted(alias for alias, version in self.aliases.items() if version == number)

    def touch(self, by: str) -> None:
        """Note an update."""
        self.updated_at, self.updated_by = now(), by

    @classmethod
    def load(cls, kept: dict[str, Any]) -> Model:
        """Build a model from what `asdict` made of it."""
        versions = {int(number): Version(**version) for number, version in kept.pop("versions").items()}
        return cls(versions=versions, **kept)


class State:
    """Everything by name. Hold ``lock`` while reading and writing more than one thing.

    :param database: keeps what is saved
    """

    def __init__(self, database: Database | None = None) -> None:
        self.lock = threading.RLock()
        self.containers: dict[str, Container] = {}
        self.models: dict[str, Model] = {}
        self._database = database
        for kind, _, kept in database.load() if database else ():
            if kind == "model":
                model = Model.load(kept)
                self.models[model.name] = model
            elif kind == "container":
                container = Container(**kept)
                self.containers[container.name] = container

    def save(self, thing: Model | Container) -> None:
        """Note a new or changed object."""
        if isinstance(thing, Model):
            self.models[thing.name] = thing
        else:
            self.containers[thing.name] = thing
        if self._database:
            kind = "model" if isinstance(thing, Model) else "container"
            self._database.save(kind, thing.id, asdict(thing))

    def drop(self, model: Model) -> None:
        """Forget a model."""
        self.models.pop(model.name, None)
        if self._database:
            self._database.delete("model", model.id)

    def clear(self) -> None:
        """Forget everything."""
        self.containers.clear()
        self.models.clear()
        if self._database:
            self._database.clear()

    def container(self, name: str) -> Container:
        """Return a catalog or schema."""
        if name not in self.containers:
            kind, code = ("Schema", "SCHEMA_DOES_NOT_EXIST") if "." in name else ("Catalog", "CATALOG_DOES_NOT_EXIST")
            raise missing(f"{kind} '{name}' does not exist.", code)
        return self.containers[name]

    def model(self, name: str) -> Model:
        """Return a model."""
        if name not in self.models:
            raise missing(f"Routine or Model '{name}' does not exist.")
        return self.models[name]

    def owner_of(self, name: str) -> str | None:
        """Return the owner of a catalog, schema or model, None where it does not exist."""
        thing = self.models.get(name) or self.containers.get(name)
        return thing.owner if thing else None
