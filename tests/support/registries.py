"""Every kind of registry behind one face, for tests that all of them must pass."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import NotFoundError, UCModelsError, UnsupportedOperationError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry.base import Capabilities, Registry
from airflow_uc_models.registry.call import Call
from support.mlflow_server import LEAVES_ALIASES

SOURCE = "s3://bucket/model"
LIVE_CONNECTION, LIVE_SCHEMA = "UC_MODELS_LIVE_CONN", "UC_MODELS_LIVE_SCHEMA"
OPEN_SOURCE_URI = "UNITY_CATALOG_URI"
MODES = ["run", "arun"]


def kinds() -> list[str]:
    """The registries to be tested; real ones only where the environment names them."""
    live = ["live workspace"] if os.environ.get(LIVE_CONNECTION) else []
    real = ["real open-source server"] if os.environ.get(OPEN_SOURCE_URI) else []
    return ["MLflow server", "Databricks", "open-source", *live, *real]


@dataclass(frozen=True)
class Declared:
    """What registries do differently, beyond their capabilities; None where nobody knows.

    :param lists_of_missing: the versions of a missing model are an empty list, not an error
    :param deletes_versions: a model is deleted along with its versions, which else must go first
    :param tracks: runs can be asked for; False refuses before any call
    :param leaves_aliases: the aliases of a deleted version are left behind
    """

    lists_of_missing: bool
    deletes_versions: bool | None
    tracks: bool
    leaves_aliases: bool = False


MLFLOW = Declared(lists_of_missing=True, deletes_versions=True, tracks=True, leaves_aliases=LEAVES_ALIASES)
OPEN_SOURCE = Declared(lists_of_missing=False, deletes_versions=True, tracks=False)
EMULATED = Declared(lists_of_missing=False, deletes_versions=False, tracks=True)
LIVE = Declared(lists_of_missing=False, deletes_versions=None, tracks=True)


@dataclass
class Subject:
    """A registry under test.

    :param schema: where models may be made
    :param take: what the registry was asked since the last look; None where that is not seen
    :param upload: put the files of a pending version there, where it cannot be finalized without
    """

    conn_id: str
    schema: str
    declared: Declared
    take: Callable[[], list[Any]] | None = None
    upload: Callable[[ModelRegistryHook, ModelVersion], None] | None = None
    mode: str = "run"
    made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hook = ModelRegistryHook(self.conn_id)

    @property
    def can(self) -> Capabilities:
        return self.hook.registry.capabilities

    def __call__(self, call: Callable[[Registry], Call[Any]]) -> Any:
        """Run a call: from a task, or from an event loop."""

        async def arun() -> Any:
            return await self.hook.arun(call((await self.hook.aendpoint()).registry))

        return self.hook.run(call(self.hook.registry)) if self.mode == "run" else asyncio.run(arun())

    def refuses(
        self, call: Callable[[Registry], Call[Any]], kind: type[UCModelsError] = UnsupportedOperationError
    ) -> str:
        """Expect an error before anything is sent; return its message."""
        self.sent()
        with pytest.raises(kind) as first:
            next(call(self.hook.registry))  # the first request would come out here
        with pytest.raises(kind) as caught:
            self(call)
        assert caught.value.permanent
        assert not self.sent()
        assert str(caught.value).startswith(str(first.value))  # the connection follows
        return str(caught.value)

    def sent(self) -> list[Any]:
        return self.take() if self.take else []

    def name(self) -> str:
        """A name for a model of this test's own."""
        self.made.append(f"{self.schema}.m{uuid.uuid4().hex[:12]}")
        return self.made[-1]

    def model(self, **options: Any) -> str:
        """Make a model and return its name."""
        name = self.name()
        self(lambda r: r.create_registered_model(name, **options))
        return name

    def version(self, name: str, source: str = SOURCE, **options: Any) -> ModelVersion:
        """Make a READY version."""
        made: ModelVersion = self(lambda r: r.create_model_version(name, source, **options))
        if not self.can.uploads:
            return made
        if self.upload:
            self.upload(self.hook, made)
        return self(lambda r: r.finalize_model_version(name, made.version))  # type: ignore[no-any-return]

    def versions(self, name: str) -> list[int]:
        """The numbers of a model's versions, ascending."""
        found = self(lambda r: r.search_model_versions(filter_string=f"name='{name}'"))
        return sorted(version.version for version in found)

    def delete_all(self) -> None:
        """Delete every model of this test, versions first."""
        for name in self.made:
            try:
                for number in self.versions(name):
                    self(lambda r, name=name, number=number: r.delete_model_version(name, number))
                self(lambda r, name=name: r.delete_registered_model(name))
            except NotFoundError:
                pass
