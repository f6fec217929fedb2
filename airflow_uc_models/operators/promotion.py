"""promote_model: validate, approve, copy, set the alias and tag, as one task group that leaves nothing half done."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg, chain, task_group

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.operators.approval import ApproveModelVersionOperator
from airflow_uc_models.operators.promotion_tasks import (
    CopyToDestination,
    FinishPromotion,
    NotePromotion,
    SetPromotedAlias,
    ValidateCandidate,
)

if TYPE_CHECKING:
    from airflow_uc_models.policies import PromotionPolicy

# What tasks there are is settled when the Dag is parsed, so these are the same for all mapped models.
_SAME_FOR_ALL = ("approval", "fail_on_rejection", "registry_conn_id")
_RETRIES = 3
# Whatever the Dag's default is: a step must not run after one that was rejected, skipped or has failed.
_GATED: dict[str, Any] = {"trigger_rule": "all_success"}


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
    validate: Any = ValidateCandidate(
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
    steps: dict[str, Any] = {"validate": validate}
    if approval is not False:
        options = {"fail_on_reject": fail_on_rejection, **({} if approval is True else approval)}
        steps["approve"] = _ask(validate, {**options, **common})
    if destination_model_name is not None or destination_catalog is not None:
        steps["copy"] = _copy(validate, common)
    _promote_version(steps, alias, tags, common)


def _version(task: Any) -> dict[str, Any]:
    """Return the version that a task leaves in XCom, as parameters of another."""
    return {"model_name": task.output["name"], "version": task.output["version"]}


def _ask(validate: Any, options: dict[str, Any]) -> ApproveModelVersionOperator:
    """Make the task that asks for an approval."""
    shown = {"verdict": validate.output["verdict"], "body": validate.output["note"]}
    return ApproveModelVersionOperator(task_id="approve", **_version(validate), **{**shown, **options}, **_GATED)


def _copy(validate: Any, common: dict[str, Any]) -> CopyToDestination:
    """Make the task that copies the version; what is a default of the Dag for other copies is not for this one."""
    of_validation = {key: validate.output[key] for key in ("destination_model_name", "created_at")}
    others = dict.fromkeys(("model_uri", "alias", "destination_conn_id"))
    return CopyToDestination(task_id="copy", **others, **of_validation, **_version(validate), **common, **_GATED)


def _promote_version(steps: dict[str, Any], alias: str, tags: Mapping[str, Any] | None, common: dict[str, Any]) -> None:
    """Make the tasks that change the champion, and put all in a row."""
    validate = steps["validate"]
    promoted = _version(steps.get("copy", validate))
    steps["set_alias"] = SetPromotedAlias(
        task_id="set_alias",
        alias=alias,
        created_at=None if "copy" in steps else validate.output["created_at"],
        tags=tags,
        # Only if the champion is still the one that the candidate was compared with.
        expected_version=validate.output["champion_version"],
        **promoted,
        **common,
        **_GATED,
    )
    steps["set_tags"] = NotePromotion(
        task_id="set_tags", alias=None, tags=tags, verdict=validate.output["verdict"], **promoted, **common, **_GATED
    )
    finish = FinishPromotion(
        task_id="finish",
        steps={step: task.task_id for step, task in steps.items()},
        alias=alias,
        # Also after a failure: it is what takes the alias back.
        trigger_rule="all_done",
        **common,
    )
    # Whatever the Dag's default is: if its worker dies, nothing else takes the alias back.
    finish.retries = max(finish.retries or 0, _RETRIES)
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
    alias back to the version it had before, or deletes it if there was none, and fails; it has three retries at least.
    It leaves the alias where it is if somebody else has moved it since. Mapped models are independent of each other. To
    try again, clear the whole group: the version that is there already is found, not copied once more.

    A ``trigger_rule`` that is a default of the Dag or the group counts for ``validate`` alone.

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
