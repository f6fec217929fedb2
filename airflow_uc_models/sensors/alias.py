"""The sensor for aliases of registered models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.names import parse_alias, parse_version
from airflow_uc_models.sensors.base import RegistrySensor
from airflow_uc_models.sensors.model_version import parse_baseline

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.conditions import AliasedModelVersion
    from airflow_uc_models.sensors.handled import Handled


class RegisteredModelAliasSensor(RegistrySensor):
    """Wait until an alias of a model points where it shall, and return the version that it points to.

    Without further parameters any version will do: the wait is for the alias to exist. At most one of these says
    more:

    * ``version``: it points to this version;
    * ``newer_than``: it points to a version newer than this one;
    * ``moved``: it points to another version than the one that this task handled in an earlier run of its Dag, be
      it newer or, after a rollback, older. The first run, with nothing handled before, takes the version that the
      alias points to, or waits for the alias if there is none.

    The version must be READY, too: one in PENDING_REGISTRATION is waited for, one in FAILED_REGISTRATION fails the
    task at once. It counts as handled.

    A look sees where the alias points at that moment. An alias that was moved and moved back between two looks, or
    between two Dag runs, has not moved. Clearing a task forgets what it handled itself, as ModelVersionSensor does:
    what counts are runs before this one. Of two tries at once, the later one returns the version that the earlier one
    found. What was handled is kept in an XCom of this task's own, per model, alias
    and connection (and per map index). In ``mode="reschedule"`` before Airflow 3.3 another run that ends meanwhile
    counts, too.

    XCom: the version's dict: ``name``, ``version``, ``uri``, ``status``, ``aliases``, ``tags``, ``run_id``,
    ``source`` and more.

    Raises: a missing model, unless ``missing_ok``; a missing privilege; a version whose registration failed.

    Privileges: Unity Catalog: EXECUTE on the model, USE SCHEMA and USE CATALOG. MLflow basic auth: READ.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param alias: the alias; letter case counts (str, templated)
    :param version: wait until it points to this version (int or str, templated)
    :param newer_than: wait until it points to a version newer than this one (int or str, templated)
    :param moved: wait until it points to another version than an earlier Dag run handled (bool)
    :param missing_ok: wait for the model, too, if there is none (bool)
    """

    template_fields: Sequence[str] = (
        *RegistrySensor.template_fields,
        "model_name",
        "alias",
        "version",
        "newer_than",
    )

    def __init__(
        self,
        *,
        model_name: str,
        alias: str,
        version: int | str | None = None,
        newer_than: int | str | None = None,
        moved: bool = False,
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.alias = alias
        self.version = version
        self.newer_than = newer_than
        self.moved = moved
        self.missing_ok = missing_ok

    def condition(self, context: Context) -> AliasedModelVersion:
        """Wait for the alias to point there."""
        from airflow_uc_models.conditions import AliasedModelVersion

        name, alias = self.hook.registry.normalize(self.model_name), parse_alias(self.alias)
        version = None if self.version in (None, "", "None") else parse_version(self.version)
        newer_than = parse_baseline("newer_than", self.newer_than)
        if (version is not None) + (newer_than is not None) + self.moved > 1:
            raise InvalidArgumentError("Give one of version, newer_than and moved; they exclude each other.")
        last = self._handled(context, name).last(_run_after, hold=self.reschedule) if self.moved else None
        return AliasedModelVersion(
            model_name=name,
            alias=alias,
            version=version,
            newer_than=newer_than,
            other_than=last["version"] if last else None,
            missing_ok=self.missing_ok,
        )

    def remember(self, context: Context, found: dict[str, Any]) -> None:
        """Keep the version as handled, for later Dag runs."""
        kept = {"name": found["name"], "alias": self.alias, "version": found["version"]}
        # An alias may go back to an older version, so only the time tells which of two was handled later.
        kept["run_after"] = context["dag_run"].run_after.timestamp()
        self._handled(context, found["name"]).keep(kept)

    def _handled(self, context: Context, name: str) -> Handled:
        from airflow_uc_models.sensors.handled import Handled

        return Handled(context, "alias", (self.registry_conn_id, name, self.alias))


def _run_after(kept: dict[str, Any]) -> float:
    return float(kept["run_after"])
