"""promote_model: validate, approve, copy, set the alias and tag, as one task group that leaves nothing half done."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg, chain, task_group

from airflow_uc_models.approvals import cell
from airflow_uc_models.compat import AirflowFailException, AirflowSkipException
from airflow_uc_models.entities import READY, ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError, NotFoundError
from airflow_uc_models.names import ModelName, parse_version
from airflow_uc_models.operators.alias import SetRegisteredModelAliasOperator
from airflow_uc_models.operators.approval import ApproveModelVersionOperator
from airflow_uc_models.operators.base import ModelRegistryOperator
from airflow_uc_models.operators.model_version import CopyModelVersionOperator
from airflow_uc_models.operators.tag import SetModelVersionTagsOperator
from airflow_uc_models.operators.validation import ValidateModelVersionOperator
from airflow_uc_models.policies import PromotionPolicy
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.retention import search_versions
from airflow_uc_models.registry.undo import undo_move
from airflow_uc_models.results import publish

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_MAX_TAG = 1_000
_SUCCESS, _SKIPPED = "success", "skipped"
# What tasks there are is settled when the Dag is parsed, so these are the same for all mapped models.
_SAME_FOR_ALL = ("approval", "fail_on_rejection", "registry_conn_id")


class _ValidateCandidate(ValidateModelVersionOperator):
    """Find the candidate and where it goes, and judge it against the champion there; skip if it is rejected."""

    custom_operator_name = "ValidateModelVersionOperator"
    template_fields: Sequence[str] = (*ValidateModelVersionOperator.template_fields, "destination_catalog")

    def __init__(self, *, destination_catalog: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination_catalog = destination_catalog

    def perform(self, context: Context) -> Any:
        """Judge the candidate."""
        ti = context["ti"]
        self.champion_model_name = self._destination()
        self.version = self.hook.run(self._candidate(self.hook.registry))
        # Also where judging fails: who comes last tells what was not promoted.
        publish(context, {"name": self.hook.registry.normalize(self.model_name), "version": self.version})
        ti.xcom_push(key="destination_model_name", value=self.champion_model_name)
        note = f"Once approved, it becomes **{cell(self.champion_alias)}** of **{cell(self.champion_model_name)}**."
        ti.xcom_push(key="note", value=note)
        verdict = super().perform(context)
        champion = verdict["champion"]
        # 0: there was none. What the alias is moved from, and rolled back to.
        ti.xcom_push(key="champion_version", value=champion["version"] if champion else 0)
        if not verdict["approved"]:
            ti.xcom_push(key="return_value", value=verdict)
            # Not by SkipMixin: of mapped task groups, Airflow 3.3 would run the tasks that it skips.
            raise AirflowSkipException(f"{verdict['name']}/{verdict['version']} is rejected.")
        return verdict

    def _destination(self) -> str:
        registry = self.hook.registry
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


class _CopyToDestination(CopyModelVersionOperator):
    """Copy the version, unless it is to become champion where it is."""

    custom_operator_name = "CopyModelVersionOperator"

    def perform(self, context: Context) -> Any:
        """Copy the version."""
        if self.model_name != self.destination_model_name:
            return super().perform(context)
        version: ModelVersion = self.hook.run(
            self.hook.registry.get_model_version(str(self.model_name), parse_version(self.version or ""))
        )
        return version.to_xcom()


class _NotePromotion(SetModelVersionTagsOperator):
    """Tag the new champion with who promoted it and why, and with what the user wants."""

    custom_operator_name = "SetModelVersionTagsOperator"
    template_fields: Sequence[str] = (*SetModelVersionTagsOperator.template_fields, "verdict")

    def __init__(self, *, verdict: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Set the tags."""
        ti = context["ti"]
        because = "; ".join(self.verdict["reasons"])[:_MAX_TAG]
        own = {"promoted_by": ti.dag_id, "promoted_in_run": ti.run_id, "promoted_because": because}
        self.tags = {**own, **(self.tags or {})}
        return (yield from super().call(registry, context))


class _FinishPromotion(ModelRegistryOperator):
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


@task_group(group_id="promote_model")
def _promote(
    *,
    model_name: str,
    policy: PromotionPolicy | Mapping[str, Any] | str,
    version: int | str | None = None,
    destination_model_name: str | None = None,
    destination_catalog: str | None = None,
    alias: str = "Champion",
    approval: bool | Mapping[str, Any] = False,
    tags: Mapping[str, Any] | None = None,
    fail_on_rejection: bool = True,
    registry_conn_id: str | None = None,
) -> None:
    """Make the tasks of the group.

    Returns no task: Airflow would hang what comes before the group onto that one, and the gates would stand open.
    """
    if not isinstance(approval, bool | Mapping):
        raise InvalidArgumentError(f"approval is True, False or a dict of options, not {approval!r:.80}.")
    if not isinstance(fail_on_rejection, bool):
        raise InvalidArgumentError(f"fail_on_rejection is True or False, not {fail_on_rejection!r:.80}.")
    common: dict[str, Any] = {} if registry_conn_id is None else {"registry_conn_id": registry_conn_id}
    validate: Any = _ValidateCandidate(
        task_id="validate",
        model_name=model_name,
        version=version,
        policy=policy,
        champion_alias=alias,
        champion_model_name=destination_model_name,
        destination_catalog=destination_catalog,
        fail_on_rejection=fail_on_rejection,
        **common,
    )
    candidate = {"model_name": validate.output["name"], "version": validate.output["version"]}
    steps: dict[str, Any] = {"validate": validate}
    if approval is not False:
        steps["approve"] = ApproveModelVersionOperator(
            task_id="approve",
            verdict=validate.output["verdict"],
            **candidate,
            **{
                "body": validate.output["note"],
                "fail_on_reject": fail_on_rejection,
                **(approval if isinstance(approval, Mapping) else {}),
            },
            **common,
        )
    promoted = candidate
    if destination_model_name is not None or destination_catalog is not None:
        steps["copy"] = _CopyToDestination(
            task_id="copy", destination_model_name=validate.output["destination_model_name"], **candidate, **common
        )
        promoted = {"model_name": steps["copy"].output["name"], "version": steps["copy"].output["version"]}
    steps["set_alias"] = SetRegisteredModelAliasOperator(
        task_id="set_alias",
        alias=alias,
        # Only if the champion is still the one that the candidate was compared with.
        expected_version=validate.output["champion_version"],
        **promoted,
        **common,
    )
    steps["set_tags"] = _NotePromotion(
        task_id="set_tags", tags=tags, verdict=validate.output["verdict"], **promoted, **common
    )
    _finish(steps, alias, common)


def _finish(steps: dict[str, Any], alias: str, common: dict[str, Any]) -> None:
    """Make the last task and put all in a row."""
    finish = _FinishPromotion(
        task_id="finish",
        steps={step: task.task_id for step, task in steps.items()},
        alias=alias,
        # Also after a failure: it is what takes the alias back.
        trigger_rule="all_done",
        **common,
    )
    chain(*steps.values(), finish)


_PARAMETERS = inspect.signature(_promote.function).parameters
_DEFAULTS = {name: p.default for name, p in _PARAMETERS.items() if p.default is not p.empty}


class PromoteModel:
    """Promote a model version, or many: validate, approve, copy, set the alias, tag; all of it or nothing.

    ::

        promote_model(model_name="dev.ml_team.fraud", destination_catalog="prod", policy=POLICY)
        promote_model.partial(destination_catalog="prod", policy=POLICY).expand(model_name=["dev.a.b", "dev.a.c"])
        promote_model.partial(policy=POLICY).expand_kwargs(list_models())

    The group's tasks are ``validate``, ``approve`` (with ``approval``), ``copy`` (with a destination), ``set_alias``,
    ``set_tags`` and ``finish``. If one of them fails after the alias moved, or its worker dies, ``finish`` takes the
    alias back to the version it had before, or deletes it if there was none, and fails. It leaves the alias where it
    is if somebody else has moved it since. Mapped models are independent of each other. To try again, clear the whole
    group: the version that is there already is found, not copied once more.

    A rejected model, by the policy or by an approver, fails ``finish`` and so what comes after the group; with
    ``fail_on_rejection=False`` all of that is skipped.

    Tags of the new champion: ``promoted_by`` (the Dag), ``promoted_in_run``, ``promoted_because`` and ``tags``.

    Calls return the task group: ``approved >> promote_model(...) >> score``. The XCom of its task ``finish``, elsewhere
    ``group.get_child_by_label("finish").output``, is ``{"promoted", "model_name", "version", "alias",
    "destination_model_name", "destination_version", "previous_version"}``, and ``reason`` where ``promoted`` is False.

    Raises: InvalidArgumentError, when the Dag is parsed, for parameters that contradict each other.

    Privileges: those of the operators named so; ``finish`` needs what RollbackRegisteredModelAliasOperator and
    DeleteRegisteredModelAliasOperator need.
    Registries: MLflow server, Unity Catalog on Databricks.

    Parameters; those marked "mapped" may also be given to ``expand`` and ``expand_kwargs``, the others are the same
    for all models:

    * model_name: ``catalog.schema.model`` of the candidate (str, templated, mapped)
    * policy: a PromotionPolicy, or the same as a dict or JSON text (templated, mapped unless it is a PromotionPolicy)
    * version: the candidate; by default the newest READY version (int or str, templated, mapped)
    * destination_model_name: the model to copy to and to set the alias of; by default the candidate's, without a copy
      (str, templated, mapped)
    * destination_catalog: instead, the catalog of a model with the same schema and name (str, templated, mapped)
    * alias: the alias to set; who has it is the champion to beat (str, templated, mapped)
    * approval: ask for an approval in the Airflow UI; a dict gives options of ApproveModelVersionOperator, such as
      ``{"response_timeout": timedelta(days=2)}`` (bool or dict)
    * tags: tags for the new champion (dict, templated, mapped)
    * fail_on_rejection: a rejection fails; if off, it skips (bool)
    * registry_conn_id: connection of the registry; by default that of the Dag's ``default_args`` (str, templated)
    """

    __signature__ = inspect.signature(_promote.function)

    def __init__(self, *, factory: Any, given: Mapping[str, Any]) -> None:
        self._factory = factory
        self._given = given

    def __call__(self, **parameters: Any) -> Any:
        """Make the group and return it."""
        return self._factory(**parameters)

    def override(self, **group: Any) -> PromoteModel:
        """Change the task group itself, such as its ``group_id``."""
        return PromoteModel(factory=self._factory.override(**group), given=self._given)

    def partial(self, **parameters: Any) -> PromoteModel:
        """Fix parameters that are the same for all models."""
        return PromoteModel(factory=self._factory.partial(**parameters), given={**self._given, **parameters})

    def expand(self, **parameters: Any) -> Any:
        """Make the group once for each value of a list, or of an upstream task's result."""
        _only_mappable(parameters)
        return self._factory.expand(**parameters)

    def expand_kwargs(self, parameters: Any) -> Any:
        """Make the group once for each dict of parameters in a list, or in an upstream task's result."""
        same = {name: _DEFAULTS[name] for name in _SAME_FOR_ALL if name not in self._given}
        if not isinstance(parameters, XComArg):
            for item in parameters:
                _only_mappable({} if isinstance(item, XComArg) else item)
            filled: Any = [item if isinstance(item, XComArg) else _with_defaults(item) for item in parameters]
            return self._factory.partial(**same).expand_kwargs(filled)
        return self._factory.partial(**same).expand_kwargs(parameters.map(_with_defaults))


def _with_defaults(item: Any) -> dict[str, Any]:
    """Fill what a dict of parameters leaves out: Airflow asks for each of them."""
    if not isinstance(item, Mapping):
        raise InvalidArgumentError(f"expand_kwargs of promote_model takes a list of dicts, not of {item!r:.80}.")
    _only_mappable(item)
    return {**_DEFAULTS, **item}


def _only_mappable(parameters: Mapping[str, Any]) -> None:
    if unknown := sorted(set(parameters) - set(_PARAMETERS)):
        raise InvalidArgumentError(f"promote_model has no parameter {', '.join(map(repr, unknown))}.")
    if fixed := sorted(set(parameters) & set(_SAME_FOR_ALL)):
        raise InvalidArgumentError(f"{', '.join(fixed)} is the same for all mapped models: give it to partial().")


promote_model = PromoteModel(factory=_promote, given={})
