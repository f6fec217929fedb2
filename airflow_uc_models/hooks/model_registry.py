"""ModelRegistryHook: from an Airflow connection to a registry that answers calls, sync or async."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow.sdk import BaseHook

from airflow_uc_models.compat import AirflowNotFoundException, get_connection_async
from airflow_uc_models.exceptions import ConnectionConfigError, UCModelsError

if TYPE_CHECKING:
    from airflow_uc_models.hooks.endpoint import Endpoint
    from airflow_uc_models.hooks.transport import AsyncRun, Transport
    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call

T = TypeVar("T")


@contextmanager
def expect_connection(conn_id: str, role: str = "") -> Generator[None, None, None]:
    """Turn Airflow's error for a connection that it does not have into ConnectionConfigError."""
    try:
        yield
    except AirflowNotFoundException:
        what = f"{role} connection {conn_id!r}".lstrip()
        raise ConnectionConfigError(
            f"There is no {what}. Create it under Admin > Connections, with `airflow connections add`, or as the "
            f"variable AIRFLOW_CONN_{conn_id.upper()}; or name another one in the task."
        ) from None


class ModelRegistryHook(BaseHook):
    """Talk to the model registry that an Airflow connection names.

    ::

        hook = ModelRegistryHook("mlflow_default")
        version = hook.run(hook.registry.get_model_version_by_alias("prod.ml_team.fraud", "Champion"))

    In a trigger, ``registry = (await hook.aendpoint()).registry`` and ``await hook.arun(call)`` do the same; for many
    calls, ``asession`` keeps the connections to the server open.

    :param registry_conn_id: the connection; its type decides which registry it is
    :param role: what it is for where a task uses two, such as ``source``; messages say so
    """

    conn_name_attr = "registry_conn_id"
    default_conn_name: ClassVar[str] = "databricks_default"
    hook_name = "Model registry"

    def __init__(self, registry_conn_id: str = default_conn_name, *, role: str = "") -> None:
        super().__init__()
        self.registry_conn_id = registry_conn_id
        self._role = role
        self._endpoint: Endpoint | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The registry and the way to it; read once."""
        from airflow_uc_models.hooks.endpoint import endpoint_of

        if self._endpoint is None:
            with expect_connection(self.registry_conn_id, self._role):
                connection = self.get_connection(self.registry_conn_id)
            self._endpoint = endpoint_of(connection, connection.extra_dejson, self._role)
        return self._endpoint

    async def aendpoint(self) -> Endpoint:
        """Return the same without blocking the event loop."""
        from airflow_uc_models.hooks.endpoint import endpoint_of

        if self._endpoint is None:
            with expect_connection(self.registry_conn_id, self._role):
                connection, extra = await get_connection_async(self, self.registry_conn_id)
            self._endpoint = endpoint_of(connection, extra, self._role)
        return self._endpoint

    @property
    def registry(self) -> Registry:
        """The registry's verbs."""
        return self.endpoint.registry

    def get_conn(self) -> Registry:
        """Return the registry's verbs, as hooks do."""
        return self.registry

    def run(self, call: Call[T], *, quiet: bool = False) -> T:
        """Carry out a call and return what it returns.

        :param quiet: log repeated tries at DEBUG only
        """
        return self._transport(self.endpoint, quiet).run(call)

    def run_all(self, calls: Sequence[Call[T]]) -> list[T]:
        """Carry out calls, a few at the same time, and return what each returns; the first error ends it."""
        return self.endpoint.transport.run_all(calls)

    async def arun(self, call: Call[T], *, quiet: bool = False) -> T:
        """Carry out a call on the event loop."""
        return await self._transport(await self.aendpoint(), quiet).arun(call)

    @staticmethod
    def _transport(endpoint: Endpoint, quiet: bool) -> Transport:
        return replace(endpoint.transport, retry_log_level=logging.DEBUG) if quiet else endpoint.transport

    @asynccontextmanager
    async def asession(self, *, max_connections: int = 20) -> AsyncGenerator[tuple[Registry, AsyncRun], None]:
        """Keep connections to the registry open for many calls; yields its verbs and what carries calls out.

        ::

            async with hook.asession() as (registry, arun):
                models = await asyncio.gather(*(arun(registry.get_registered_model(name)) for name in names))

        :param max_connections: connections to the server, and so calls under way, at most
        """
        endpoint = await self.aendpoint()
        async with endpoint.transport.asession(max_connections=max_connections) as arun:
            yield endpoint.registry, arun

    def test_connection(self) -> tuple[bool, str]:
        """Ask the registry for one model: proves address, credentials and the right to read."""
        try:
            # Airflow's form tests under an id of its own making, which would tell nobody anything.
            transport = replace(self.endpoint.transport, connection="")
            models = transport.run(self.registry.search_registered_models(max_results=1))
        except UCModelsError as error:
            return False, str(error)
        seen = "it has registered models" if models else "no registered model is visible yet"
        return True, f"{self.registry.capabilities.label} at {self.endpoint.address} answers; {seen}."


class _FormHook(ModelRegistryHook):
    """Base of hooks on connection types of our own."""

    conn_type: ClassVar[str]

    def __init__(self, registry_conn_id: str | None = None, *, role: str = "") -> None:
        super().__init__(registry_conn_id or self.default_conn_name, role=role)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Airflow 3.1 looks for these in the hook class itself, not in its bases.
        for method in ("get_connection_form_widgets", "get_ui_field_behaviour"):
            setattr(cls, method, vars(_FormHook)[method])

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra form fields, for Airflow 3.1; later ones read provider_info."""
        from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
        from wtforms import PasswordField, StringField

        widgets = {}
        for key, field in cls._form()["conn-fields"].items():
            told = {"description": field["description"], "default": field["schema"].get("default")}
            if field["schema"].get("format") == "password":
                widgets[key] = PasswordField(field["label"], widget=BS3PasswordFieldWidget(), **told)
            else:
                widgets[key] = StringField(field["label"], widget=BS3TextFieldWidget(), **told)
        return widgets

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return which standard fields show, and how, for Airflow 3.1."""
        keys = {"hidden-fields": "hidden_fields"}
        return {keys.get(key, key): value for key, value in cls._form()["ui-field-behaviour"].items()}

    @classmethod
    def _form(cls) -> dict[str, Any]:
        from airflow_uc_models.provider_info import CONNECTION_TYPES

        return next(form for form in CONNECTION_TYPES if form["connection-type"] == cls.conn_type)


class MlflowHook(_FormHook):
    """The hook of connections of type ``mlflow``: an MLflow server."""

    conn_type = "mlflow"
    default_conn_name = "mlflow_default"
    hook_name = "MLflow"


class UnityCatalogHook(_FormHook):
    """The hook of connections of type ``unity_catalog``: an open-source Unity Catalog server."""

    conn_type = "unity_catalog"
    default_conn_name = "unity_catalog_default"
    hook_name = "Unity Catalog (open source)"
