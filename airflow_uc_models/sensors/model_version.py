"""Sensors for model versions: a new one, and one that carries a tag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_uc_models.exceptions import InvalidArgumentError, InvalidNameError
from airflow_uc_models.names import ModelRef, parse_alias, parse_version
from airflow_uc_models.sensors.base import RegistrySensor

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.conditions import NewModelVersion, TaggedModelVersion
    from airflow_uc_models.sensors.handled import Handled


class ModelVersionSensor(RegistrySensor):
    """Wait for a new READY version of a model and return it.

    New is what is newer than the version that this task handled in an earlier run of its Dag, or than
    ``after_version``. Each Dag run takes one version: the oldest new one, so that none is left out.

    * The first run, with nothing handled before and no ``after_version``, takes the newest READY version there is:
      the present state, not the history. If there is none it waits for one.
    * A version in FAILED_REGISTRATION fails the task at once, when its turn comes. It counts as handled: the next
      Dag run goes on to the next version.
    * A version in PENDING_REGISTRATION keeps newer ones waiting for an hour after its creation. Then it is taken
      for abandoned and passed over.
    * Clearing a task gives the same version again: what counts are runs before this one, by logical date (or by
      when they could start, for runs without one).
    * What a run handled never counts for the run itself. Two tries of one task at once, as a scheduler can start them
      after a crash or a race, return the same version: the later one takes what the earlier one found.
    * Runs that wait side by side get the same version. Set ``max_active_runs=1`` on the Dag, or
      ``depends_on_past=True``, for one version per run.
    * Filters look at the tags and the alias of the moment. A version that is tagged only after a newer one was
      handled is not seen any more; with an alias, the one version that it points to must be new.

    What was handled is kept in an XCom of this task's own, per model and connection (and per map index). Where that
    is cleaned away the next run counts as the first; templating ``after_version`` keeps it elsewhere. In
    ``mode="reschedule"`` the wait goes on from where it began even if another run ends meanwhile; before
    Airflow 3.3, which cannot keep that, from what the other run handled.

    XCom: the version's dict: ``name``, ``version``, ``uri``, ``status``, ``aliases``, ``tags``, ``run_id``,
    ``source`` and more.

    Raises: a missing model, unless ``missing_ok``; a missing privilege; a version whose registration failed.

    Privileges: Unity Catalog: EXECUTE on the model, USE SCHEMA and USE CATALOG. MLflow basic auth: READ.
    Registries: all; ``tags`` and ``alias`` where the registry has them. Unity Catalog does not list tags: with
    ``tags``, each look reads every new version.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param after_version: wait for a version newer than this one; 0 takes all from the beginning, oldest first
        (int or str, templated)
    :param tags: tags that the version must have, with these values (dict, templated)
    :param alias: an alias that must point to the version (str, templated)
    :param missing_ok: wait for the model, too, if there is none (bool)
    """

    template_fields: Sequence[str] = (*RegistrySensor.template_fields, "model_name", "after_version", "tags", "alias")

    def __init__(
        self,
        *,
        model_name: str,
        after_version: int | str | None = None,
        tags: Mapping[str, Any] | None = None,
        alias: str | None = None,
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.after_version = after_version
        self.tags = tags
        self.alias = alias
        self.missing_ok = missing_ok

    def condition(self, context: Context) -> NewModelVersion:
        """Wait for a version newer than what was handled last."""
        from airflow_uc_models.conditions import NewModelVersion
        from airflow_uc_models.registry.base import str_tags

        name = self.hook.registry.normalize(self.model_name)
        tags, alias, after = self.tags, self.alias, parse_baseline("after_version", self.after_version)
        if after is None:
            last = self._handled(context, name).last(_version_of, hold=self.reschedule)
            after = _version_of(last) if last else None
        return NewModelVersion(
            model_name=name,
            after_version=after,
            tags=str_tags(tags or None) or None,
            alias=None if alias in (None, "") else parse_alias(alias),
            missing_ok=self.missing_ok,
        )

    def remember(self, context: Context, found: dict[str, Any]) -> None:
        """Keep the version as handled, for later Dag runs."""
        name = found["name"]
        self._handled(context, name).keep({"name": name, "version": found["version"]})

    def _handled(self, context: Context, name: str) -> Handled:
        from airflow_uc_models.sensors.handled import Handled

        return Handled(context, "version", (self.registry_conn_id, name))


def _version_of(kept: dict[str, Any]) -> int:
    return int(kept["version"])


class ModelVersionTagSensor(RegistrySensor):
    """Wait until a model version carries a tag, such as one that says it is approved, and return the version.

    The version must be READY, too: one in PENDING_REGISTRATION is waited for, one in FAILED_REGISTRATION fails the
    task at once. With ``alias`` it is the version that the alias points to at the moment of each look: where the
    alias moves during the wait, the wait goes on for the other version.

    Values are compared as they are, letter case included. The approval task of a Databricks deployment job looks
    for a tag with the task's name and the value ``Approved``; ``value=["approved", "Approved"]`` takes both.

    XCom: the version's dict: ``name``, ``version``, ``uri``, ``status``, ``aliases``, ``tags``, ``run_id``,
    ``source`` and more.

    Raises: a missing model, version or alias, unless ``missing_ok``; a tag with ``failed_value``; a missing
    privilege; a version whose registration failed; a key or value that the registry does not take in tags, before
    any call.

    Privileges: Unity Catalog: EXECUTE on the model, USE SCHEMA and USE CATALOG. MLflow basic auth: READ.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version; give this or ``alias`` (int or str, templated)
    :param alias: the alias that names the version (str, templated)
    :param tag: key of the tag (str, templated)
    :param value: the value that the tag must have, or a list of which it must have one; None takes any value, also
        an empty one (str or list of str, templated)
    :param failed_value: fail at once when the tag has this value, or one of this list, such as ``rejected`` (str or
        list of str, templated)
    :param missing_ok: wait for the model, the version and the alias, too, if there is none (bool)
    """

    template_fields: Sequence[str] = (
        *RegistrySensor.template_fields,
        "model_name",
        "version",
        "alias",
        "tag",
        "value",
        "failed_value",
    )

    def __init__(
        self,
        *,
        model_name: str,
        tag: str,
        version: int | str | None = None,
        alias: str | None = None,
        value: str | Sequence[str] | None = None,
        failed_value: str | Sequence[str] | None = None,
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.tag = tag
        self.version = version
        self.alias = alias
        self.value = value
        self.failed_value = failed_value
        self.missing_ok = missing_ok

    def condition(self, context: Context) -> TaggedModelVersion:  # noqa: ARG002 - one signature for all sensors
        """Wait for the tag."""
        from airflow_uc_models.conditions import TaggedModelVersion

        name = self.hook.registry.normalize(self.model_name)
        reference = ModelRef.of(name, version=self.version, alias=self.alias)
        values, failed = _values("value", self.value), _values("failed_value", self.failed_value) or []
        if both := sorted(set(values or ()) & set(failed)):
            raise InvalidArgumentError(f"value and failed_value both name {both[0]!r}; it is one or the other.")
        return TaggedModelVersion(
            model_name=name,
            tag=str(self.tag),
            version=reference.version,
            alias=reference.alias,
            values=values,
            failed_values=failed,
            missing_ok=self.missing_ok,
        )


def _values(parameter: str, value: str | Sequence[str] | None) -> list[str] | None:
    """Return values of a tag as strings, None for any; a list with nothing in it reads as a mistake."""
    if value is None:
        return None
    if isinstance(value, str | int | float):
        return [str(value)]
    found = list(value) if isinstance(value, Iterable) and not isinstance(value, Mapping) else []
    if not found or None in found:
        raise InvalidArgumentError(f"{parameter} is a string or a list of at least one, not {value!r:.80}.")
    return [str(item) for item in found]


def parse_baseline(parameter: str, value: int | str | None) -> int | None:
    """Return a version from 0 that another one must exceed; what a template left empty is None."""
    if value in (None, "", "None"):
        return None
    try:
        return 0 if str(value).strip() == "0" else parse_version(value)
    except InvalidNameError:
        raise InvalidArgumentError(f"{parameter} is a whole number from 0, not {value!r}.") from None
