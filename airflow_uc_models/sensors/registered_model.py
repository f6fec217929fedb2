"""The sensor for registered models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.names import ModelName, parse_schema
from airflow_uc_models.sensors.base import RegistrySensor

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.conditions import NewRegisteredModel
    from airflow_uc_models.sensors.handled import Handled


class RegisteredModelSensor(RegistrySensor):
    """Wait for a registered model to appear, and return it.

    With ``model_name``, that model: the wait ends as soon as it is there, with or without versions.

    With ``schema``, a new model in that schema. New is what was created after the model that this task handled in
    an earlier run of its Dag. Each Dag run takes one model: the oldest new one, so that none is left out; those
    created at the same moment go by name.

    * The first run, with nothing handled before, takes the newest model there is: the present state, not the
      history. If there is none it waits for one.
    * A model that is deleted and made again is new. One that is renamed is as old as before, and so is one that the
      connection's principal may see only later: where a newer one was handled, it is not seen any more.
    * Clearing a task gives the same model again, runs that wait side by side get the same one, and what was handled
      is kept in an XCom of this task's own, all as ModelVersionSensor does.

    XCom: the model's dict: ``name``, ``uri``, ``description``, ``aliases``, ``tags``, ``created_at``, ``owner`` and
    more.

    Raises: a missing privilege; a missing catalog or schema, unless ``missing_ok``, where the registry tells it from
    an empty one: an MLflow server does not, and there it is waited for.

    Privileges: Unity Catalog: EXECUTE on the model, USE SCHEMA and USE CATALOG. MLflow basic auth: READ.
    Registries: all. With ``schema``, each look lists the models of that schema, without those that the principal
    may not read.

    :param model_name: ``catalog.schema.model``; give this or ``schema`` (str, templated)
    :param schema: ``catalog.schema`` (str, templated)
    :param missing_ok: wait for the catalog and the schema, too, if there is none (bool)
    """

    template_fields: Sequence[str] = (*RegistrySensor.template_fields, "model_name", "schema")

    def __init__(
        self,
        *,
        model_name: str | None = None,
        schema: str | None = None,
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.schema = schema
        self.missing_ok = missing_ok

    def condition(self, context: Context) -> NewRegisteredModel:
        """Wait for that model, or for one newer than what was handled last."""
        from airflow_uc_models.conditions import NewRegisteredModel

        if bool(self.model_name) == bool(self.schema):
            raise InvalidArgumentError("Name what to wait for: give either model_name or schema.")
        if self.model_name:
            name = self.hook.registry.normalize(self.model_name)
            return NewRegisteredModel(model_name=name, missing_ok=self.missing_ok)
        schema = self._normalized(self.schema or "")
        last = self._handled(context, schema).last(_age, hold=self.reschedule) or {}
        return NewRegisteredModel(
            schema=schema,
            after_created_at=last.get("created_at"),
            after_name=last.get("name"),
            missing_ok=self.missing_ok,
        )

    def remember(self, context: Context, found: dict[str, Any]) -> None:
        """Keep the model as handled, for later Dag runs."""
        if self.schema:
            kept = {"name": found["name"], "created_at": found["created_at"] or 0}
            self._handled(context, self._normalized(self.schema)).keep(kept)

    def _handled(self, context: Context, schema: str) -> Handled:
        from airflow_uc_models.sensors.handled import Handled

        return Handled(context, "model", (self.registry_conn_id, schema))

    def _normalized(self, schema: str) -> str:
        """Return the schema as the registry stores it."""
        name = self.hook.registry.normalize(ModelName(*parse_schema(schema), "any"))
        return ModelName.parse(name).full_schema


def _age(kept: dict[str, Any]) -> tuple[int, str]:
    return kept["created_at"], kept["name"]
