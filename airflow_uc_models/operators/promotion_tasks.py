"""The tasks of promote_model that differ from the operators they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_uc_models.approvals import cell
from airflow_uc_models.compat import AirflowFailException, AirflowSkipException
from airflow_uc_models.entities import READY, ModelVersion
from airflow_uc_models.exceptions import AliasConflictError, InvalidArgumentError, NotFoundError
from airflow_uc_models.names import ModelName, parse_version
from airflow_uc_models.operators.alias import SetRegisteredModelAliasOperator
from airflow_uc_models.operators.base import ModelRegistryOperator
from airflow_uc_models.operators.model_version import CopyModelVersionOperator
from airflow_uc_models.operators.tag import SetModelVersionTagsOperator
from airflow_uc_models.operators.validation import ValidateModelVersionOperator, reasons_tag
from airflow_uc_models.registry.approval import expect_created_at
from airflow_uc_models.registry.base import Registry, str_tags
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.retention import search_versions
from airflow_uc_models.registry.undo import undo_move
from airflow_uc_models.results import publish

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_SUCCESS, _SKIPPED = "success", "skipped"
_OF_OTHERS = "set_by_others"


class ValidateCandidate(ValidateModelVersionOperator):
    """Find the candidate and where it goes, and judge it against the champion there; skip if it is rejected."""

    custom_operator_name = "ValidateModelVersionOperator"
    template_fields: Sequence[str] = (*ValidateModelVersionOperator.template_fields, "destination_catalog")
    names_of_models = (*ValidateModelVersionOperator.names_of_models, "destination_catalog")

    def __init__(self, *, destination_catalog: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination_catalog = destination_catalog

    def perform(self, context: Context) -> Any:
        """Judge the candidate."""
        ti = context["ti"]
        # The search for a version would not refuse a registry without tags.
        self.hook.registry.tag_rules(
            "A promotion sets tags and an alias: promote in an MLflow server or in Unity Catalog on Databricks."
        )
        self.champion_model_name = self._destination()
        self.version = self.hook.run(self._candidate(self.hook.registry))
        # Also where judging fails: who comes last tells what was not promoted.
        publish(context, {"name": self.hook.registry.normalize(self.model_name), "version": self.version})
        ti.xcom_push(key="destination_model_name", value=self.champion_model_name)
        note = f"Once approved, it becomes **{cell(self.champion_alias)}** of **{cell(self.champion_model_name)}**."
        ti.xcom_push(key="note", value=note)
        verdict = super().perform(context)
        if not verdict["approved"]:
            ti.xcom_push(key="return_value", value=verdict)
            # Not by SkipMixin: of mapped task groups, Airflow 3.3 would run the tasks that it skips.
            raise AirflowSkipException(f"{verdict['name']}/{verdict['version']} is rejected.")
        return verdict

    def judge(self, context: Context) -> dict[str, Any]:
        """Judge, and leave the champion's version, also of a rejected candidate: people may let it pass in the UI."""
        verdict = super().judge(context)
        champion = verdict["champion"]
        # 0: there was none. What the alias is moved from, and rolled back to.
        context["ti"].xcom_push(key="champion_version", value=champion["version"] if champion else 0)
        return verdict

    def _destination(self) -> str:
        registry = self.hook.registry
        given = {"destination_model_name": self.champion_model_name, "destination_catalog": self.destination_catalog}
        for parameter, value in given.items():
            # Not as if it were left out: the model would become champion where it is.
            if value is not None and str(value).strip() in ("", "None"):
                raise InvalidArgumentError(f"{parameter} is {value!r}: its template rendered to nothing.")
        source = ModelName.parse(registry.normalize(self.model_name))
        if not self.destination_catalog:
            return registry.normalize(self.champion_model_name or source)
        if self.champion_model_name:
            raise InvalidArgumentError("Give destination_model_name or destination_catalog, not both.")
        return registry.normalize(ModelName(self.destination_catalog, source.schema, source.model))

    def _candidate(self, registry: Registry) -> Call[int]:
        if self.version not in (None, "", "None"):
            return parse_version(self.version)
        name = registry.normalize(self.model_name)
        found = yield from search_versions(registry, name, status=READY)
        if not found:
            raise NotFoundError(f"{name} has no READY version to promote.")
        return found[0].version


class CopyToDestination(CopyModelVersionOperator):
    """Copy the version, unless it is to become champion where it is.

    :param created_at: when the version was created that was judged (int, templated)
    """

    custom_operator_name = "CopyModelVersionOperator"
    template_fields: Sequence[str] = (*CopyModelVersionOperator.template_fields, "created_at")

    def __init__(self, *, created_at: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.created_at = created_at

    def perform(self, context: Context) -> Any:
        """Copy the version."""
        version: ModelVersion = self.hook.run(
            self.hook.registry.get_model_version(str(self.model_name), parse_version(self.version or ""))
        )
        expect_created_at(version, self.created_at)
        return version.to_xcom() if self.model_name == self.destination_model_name else super().perform(context)


class SetPromotedAlias(SetRegisteredModelAliasOperator):
    """Set the alias, if nothing has changed that the version was judged by.

    :param created_at: when the version was created that was judged; None for a copy of it (int, templated)
    :param tags: tags for the version; wrong ones would else be found after the alias has moved (dict, templated)
    """

    custom_operator_name = "SetRegisteredModelAliasOperator"
    template_fields: Sequence[str] = (*SetRegisteredModelAliasOperator.template_fields, "created_at", "tags")

    def __init__(self, *, created_at: int | None, tags: Mapping[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.created_at = created_at
        self.tags = tags

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Move the alias from the champion that the candidate was compared with, and from no other."""
        registry.tag_rules().check(str_tags(self.tags))
        if self.expected_version is None:
            raise InvalidArgumentError(
                "validate did not get as far as the champion, though it was marked as succeeded. Clear the whole group."
            )
        name, version = registry.normalize(self.model_name), parse_version(self.version)
        if self.created_at is not None:
            expect_created_at((yield from registry.get_model_version(name, version)), self.created_at)
        current = (yield from registry.get_registered_model(name)).aliases.get(self.alias)
        if current == version != int(self.expected_version) and not self.is_retry(context):
            context["ti"].xcom_push(key=_OF_OTHERS, value=True)
            raise AliasConflictError(
                f"Alias {self.alias!r} of {name} points to version {version} already: somebody else has set it since "
                "the validation. It stays there."
            )
        return (yield from super().call(registry, context))


class NotePromotion(SetModelVersionTagsOperator):
    """Tag the new champion with who promoted it and why, and with what the user wants."""

    custom_operator_name = "SetModelVersionTagsOperator"
    template_fields: Sequence[str] = (*SetModelVersionTagsOperator.template_fields, "verdict")

    def __init__(self, *, verdict: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Set the tags."""
        ti = context["ti"]
        own = {"promoted_by": ti.dag_id, "promoted_in_run": ti.run_id, "promoted_because": reasons_tag(self.verdict)}
        self.tags = {**own, **(self.tags or {})}
        return (yield from super().call(registry, context))


class FinishPromotion(ModelRegistryOperator):
    """Confirm a promotion, or take the alias back and fail; skip where the candidate was refused.

    :param steps: task ids of the group by what they do, in their order
    :param alias: the alias (str, templated)
    """

    custom_operator_name = "FinishPromotion"
    template_fields: Sequence[str] = (*ModelRegistryOperator.template_fields, "steps", "alias")

    def __init__(self, *, steps: Mapping[str, str], alias: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps
        self.alias = alias

    def perform(self, context: Context) -> Any:
        """Look at what became of the other tasks."""
        states = self._states(context)
        verdict = self._xcom(context, "validate", "verdict") or {}
        outcome = {
            "promoted": False,
            "model_name": self._xcom(context, "validate", "name"),
            "version": self._xcom(context, "validate", "version"),
            "alias": self.alias,
            "destination_model_name": self._xcom(context, "copy", "name"),
            "destination_version": self._xcom(context, "copy", "version"),
            "previous_version": self._xcom(context, "validate", "champion_version") or None,
        }
        if set(states.values()) == {_SUCCESS}:
            return self._confirm(context, outcome)
        broken = [step for step, state in states.items() if state not in (_SUCCESS, _SKIPPED)]
        moved = states["set_alias"] not in (None, "upstream_failed", _SKIPPED)
        moved = moved and not self._xcom(context, "set_alias", _OF_OTHERS)
        what = "; ".join(verdict.get("reasons", [])) if not verdict.get("approved", True) else ""
        label = f"{outcome['model_name']}/{outcome['version']}" if outcome["model_name"] else "The model"
        what = f"{label} was not promoted: {what or _told(states)}."
        if moved:
            what = f"{what} {self._undo(context, outcome)}"
        outcome["reason"] = what
        context["ti"].xcom_push(key="return_value", value=outcome)
        raise AirflowFailException(what) if broken or moved else AirflowSkipException(what)

    def _confirm(self, context: Context, outcome: dict[str, Any]) -> dict[str, Any]:
        """Make sure that consumers get the version: an earlier try of the group may have taken the alias back."""
        name, version = outcome["destination_model_name"], outcome["destination_version"]
        model = self.hook.run(self.hook.registry.get_registered_model(name))
        current = model.aliases.get(self.alias)
        if current in (outcome["previous_version"], None) and current != version:
            raise AirflowFailException(
                f"Alias {self.alias!r} of {name} is back at version {current or 'none'}, not at {version}: the "
                "promotion was taken back. Clear the whole group to try again."
            )
        if current != version:
            self.log.warning("Alias %r of %s points to version %s by now", self.alias, name, current)
        before = f"version {outcome['previous_version']}" if outcome["previous_version"] else "no version"
        source = f"{outcome['model_name']}/{outcome['version']}"
        self.log_effect("Promoted %s: alias %r of %s, %s -> %s", source, self.alias, name, before, version)
        self.link_to(context, name, version)
        return {**outcome, "promoted": True}

    def _undo(self, context: Context, outcome: Mapping[str, Any]) -> str:
        """Take the alias back if it is where this group moved it; return what was done."""
        name, version, previous = (
            outcome[key] for key in ("destination_model_name", "destination_version", "previous_version")
        )
        label = f"Alias {self.alias!r} of {name}"
        if previous == version:
            return f"{label} pointed to version {version} before already and stays there."
        key = self.task_key(context, f"undo {name}@{self.alias} {previous} {version}")
        undo = undo_move(self.hook.registry, name, self.alias, key, version=version, previous=previous)
        current = self.hook.run(undo)
        if current == previous:
            return f"{label} points to version {previous} as before." if previous else f"{label} is gone as before."
        return f"{label} points to version {current}, to which this run did not move it, and stays there."

    def _states(self, context: Context) -> dict[str, str | None]:
        ti = context["ti"]
        mapped = ti.map_index is not None and ti.map_index >= 0
        found = ti.get_task_states(
            ti.dag_id,
            map_index=ti.map_index if mapped else None,
            task_ids=list(self.steps.values()),
            run_ids=[ti.run_id],
        ).get(ti.run_id, {})
        suffix = f"_{ti.map_index}" if mapped else ""
        states = {step: found.get(f"{task_id}{suffix}") for step, task_id in self.steps.items()}
        return {step: None if state is None else str(getattr(state, "value", state)) for step, state in states.items()}

    def _xcom(self, context: Context, step: str, key: str) -> Any:
        ti = context["ti"]
        step = step if step in self.steps else "validate"
        map_index = -1 if ti.map_index is None else ti.map_index
        return ti.xcom_pull(task_ids=self.steps[step], key=key, map_indexes=map_index)


def _told(states: Mapping[str, str | None]) -> str:
    """Return the states that tell what went wrong; the others follow from them."""
    odd = {step: state for step, state in states.items() if state not in (_SUCCESS, "upstream_failed", _SKIPPED)}
    return ", ".join(f"{step} is {state}" for step, state in (odd or states).items() if state != _SUCCESS)
