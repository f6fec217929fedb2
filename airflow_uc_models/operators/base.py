"""What all operators share: the connection, the run of one call, the answer to XCom, and how they fail."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_uc_models.compat import AirflowFailException
from airflow_uc_models.events import ModelEvent
from airflow_uc_models.exceptions import UCModelsError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.links import ModelVersionLink, store_link
from airflow_uc_models.names import ModelRef
from airflow_uc_models.operators.text_fields import TextFieldsMixin
from airflow_uc_models.results import publish
from airflow_uc_models.scratch import scratch_of_task
from airflow_uc_models.writing import full_disk

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.operators.outlets import Told
    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call


class TaskStopped(BaseException):
    """Raised out of a signal handler; no Exception, or whoever waits for a file would take it for a failed file."""


@contextmanager
def fail_without_retry(conn_id: str | None = None) -> Generator[None, None, None]:
    """Turn errors that a retry of the task cannot mend into AirflowFailException.

    :param conn_id: the connection to name in errors that name none yet
    """
    try:
        yield
    except UCModelsError as error:
        if conn_id is not None:
            error.used(f"connection {conn_id!r}")
        full = full_disk(error)
        if full or error.permanent:
            raise AirflowFailException(str(full or error)) from error
        raise
    except Exception as error:
        if full := full_disk(error):
            raise AirflowFailException(str(full)) from error
        raise


class ModelRegistryOperator(TextFieldsMixin):
    """Base of all operators that work on a model registry.

    Fails without using up its retries where a retry cannot help: a bad name or parameter, a missing model, a
    missing privilege, refused credentials. Passing faults (429, 5xx, resets, timeouts) are retried inside the task
    first, then left to Airflow's retries.

    ``outlets``: operators that change a model tell Dags that wait for its asset what they did. A ``model_asset`` of the
    model or its schema, with the same connection, carries it as ``model_events`` in the asset event's extra, where
    ``model_event`` reads it; where nothing was to be changed the list is empty. Airflow then starts those Dags
    nevertheless. An AssetAlias gets the model's asset, also where the model's name is templated, and starts nothing
    where nothing was changed. A retry tells again what its earlier try may have done, under the same key.

    :param registry_conn_id: connection of the registry (str, templated)
    """

    template_fields: Sequence[str] = ("registry_conn_id",)
    operator_extra_links = (ModelVersionLink(),)
    ui_color = "#e8f4fa"
    _executing = False
    _told: list[Told] | None = None

    def __init__(self, *, registry_conn_id: str = ModelRegistryHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.registry_conn_id = registry_conn_id

    @cached_property
    def hook(self) -> ModelRegistryHook:
        """The hook of ``registry_conn_id``."""
        return ModelRegistryHook(self.registry_conn_id, role=self.role_of_connection())

    def role_of_connection(self) -> str:
        """Return what ``registry_conn_id`` is for, where the task uses a second connection; messages say so."""
        return ""

    def execute(self, context: Context) -> Any:
        """Do the work once; what it returns goes to XCom, as a whole and by field."""
        from airflow_uc_models.operators.outlets import tells

        self._executing, self._told = True, None
        try:
            with fail_without_retry(self.registry_conn_id), scratch_of_task(self.task_key(context, "")):
                self.check_text()
                tells(self.outlets)  # a wrong one is found before the work
                result = publish(context, self.perform(context))
                self._emit(context)
                return result
        finally:
            self._executing = False

    def on_kill(self) -> None:
        """Leave the work at once, cleaning up on the way: Airflow kills the process a few seconds later."""
        if self._executing:
            self._executing = False
            raise TaskStopped("Airflow told the task to stop.")

    def perform(self, context: Context) -> Any:
        """Run this operator's call; operators that also move files override this."""
        return self.hook.run(self.call(self.hook.registry, context))

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Return the call that does the work."""
        raise NotImplementedError

    def is_heard(self) -> bool:
        """Whether the task has outlets that carry what it does to a model."""
        from airflow_uc_models.operators.outlets import tells

        return tells(self.outlets)

    def tell(
        self, context: Context, kind: str, name: str, *details: dict[str, Any], hook: ModelRegistryHook | None = None
    ) -> None:
        """Note what was done to a model, for the outlets: one event for each of ``details``, so none for none."""
        hook = hook or self.hook
        if self._told is None:
            self._told = []
        for detail in details:
            # Where something came from is no part of the key: a retry may no longer see it.
            about = [f"{key}={value}" for key, value in detail.items() if not key.startswith("from_")]
            key = f"{kind}/{name}/{self.task_key(context, ' '.join([kind, name, *about]))}"
            event = ModelEvent(kind, name, key=key, **detail)
            self._told.append((event, hook.registry_conn_id, hook.registry.normalize))

    def _emit(self, context: Context) -> None:
        from airflow_uc_models.operators.outlets import emit

        if self._told is not None:
            for uri in emit(context, self.outlets, self._told):
                self.log.warning("Outlet %s is not of the model and connection that this task changed", uri)

    def log_effect(self, message: str, *args: object, conn_id: str | None = None) -> None:
        """Log something that was done, or found, in one line that ends with the connection.

        :param conn_id: the connection, if not ``registry_conn_id``
        """
        self.log.info("%s, on connection %r", message % args, conn_id or self.registry_conn_id)

    def link_to(self, context: Context, name: str, version: int | None = None) -> None:
        """Point the task's extra link to a model version, or to the model."""
        store_link(context, self.hook.endpoint.model_version_url(name, version))

    def task_key(self, context: Context, source: str) -> str:
        """Return the key that all tries of this task instance share for this source."""
        from airflow_uc_models.registry.registration import task_key

        ti = context["ti"]
        return task_key(ti.dag_id, ti.run_id, ti.task_id, ti.map_index if ti.map_index is not None else -1, source)

    def is_retry(self, context: Context) -> bool:
        """Whether an earlier try of this task instance may have done the work already."""
        return context["ti"].try_number > 1


class ModelOperator(ModelRegistryOperator):
    """Base of operators on one registered model.

    :param model_name: ``catalog.schema.model`` (str, templated)
    """

    template_fields: Sequence[str] = (*ModelRegistryOperator.template_fields, "model_name")

    def __init__(self, *, model_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name


class ModelVersionOperator(ModelOperator):
    """Base of operators on one version, named by its number or by an alias.

    :param version: the version; give this or ``alias`` (int or str, templated)
    :param alias: the alias that names the version (str, templated)
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "version", "alias")

    def __init__(self, *, version: int | str | None = None, alias: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.alias = alias

    def reference(self) -> ModelRef:
        """Return the version this operator is about."""
        return ModelRef.of(self.model_name, version=self.version, alias=self.alias)
