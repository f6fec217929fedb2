"""Operators that set, delete and roll back aliases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow_uc_models.events import MODEL_VERSION_ALIAS_CREATED, MODEL_VERSION_ALIAS_DELETED
from airflow_uc_models.exceptions import InvalidArgumentError, NotFoundError
from airflow_uc_models.names import parse_alias, parse_version
from airflow_uc_models.operators.base import ModelOperator

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.registry.aliases import AliasMove
    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call


class _AliasOperator(ModelOperator):
    """An operator on one alias of one model."""

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "alias")

    def __init__(self, *, alias: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alias = alias

    def report(self, context: Context, move: AliasMove, *, moved: bool = True) -> dict[str, Any]:
        """Log a move, link to its version, tell of it, and return it for XCom."""
        before = "no version" if move.previous is None else f"version {move.previous}"
        what = f"{before} -> {move.version}" if move.previous != move.version else f"stays at version {move.version}"
        self.log_effect("Set alias %r of %s: %s", move.alias, move.name, what)
        self.link_to(context, move.name, move.version)
        details = {"version": move.version, "alias": move.alias, "from_version": move.previous}
        self.tell(context, MODEL_VERSION_ALIAS_CREATED, move.name, *([details] if moved else []))
        return asdict(move)


class SetRegisteredModelAliasOperator(_AliasOperator):
    """Point an alias to a version, creating or moving it, in such a way that the move can be rolled back.

    The version must be READY. The model's tag ``airflow_alias_history_<alias>`` keeps where the alias pointed
    before, also if it was moved by hand. Each move also leaves a record, ``airflow_alias_move_<id>_<alias>``, which no
    other task writes to. After the move the alias is read back: if somebody else moved it at the same moment, the task
    fails. Idempotent.

    XCom: ``{"name", "alias", "version", "previous"}``; ``previous`` is None for a new alias.

    Raises: missing model or version; an alias that is not where ``expected_version`` wants it; a lost race.

    Privileges: Unity Catalog: MANAGE on the model and EXECUTE, or its ownership. MLflow basic auth: EDIT.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param alias: the alias (str, templated)
    :param version: the version it shall point to (int or str, templated)
    :param expected_version: move only if the alias points to this version now; 0 if it must not exist yet
        (int or str, templated)
    """

    template_fields: Sequence[str] = (*_AliasOperator.template_fields, "version", "expected_version")

    def __init__(self, *, version: int | str, expected_version: int | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.expected_version = expected_version

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Move the alias."""
        from airflow_uc_models.registry.aliases import move_alias

        name, current = registry.normalize(self.model_name), None
        if self.is_heard() and not self.is_retry(context) and registry.capabilities.aliases:
            current = (yield from registry.get_registered_model(name)).aliases.get(self.alias)
        move = yield from move_alias(
            registry,
            name,
            self.alias,
            parse_version(self.version),
            expected_version=_expected(self.expected_version),
        )
        return self.report(context, move, moved=current != move.version)


class RollbackRegisteredModelAliasOperator(_AliasOperator):
    """Take back the last moves of an alias: point it to the version it had before, by its recorded history.

    Versions that were deleted meanwhile are skipped; moves made by hand since the last recorded one count as moves.
    A retry finishes what its earlier try began and takes back nothing more.

    XCom: ``{"name", "alias", "version", "previous"}``; ``previous`` is the version rolled back from.

    Raises: no such alias; a history that does not reach back that far; somebody moving the alias meanwhile.

    Privileges: Unity Catalog: MANAGE on the model and EXECUTE, or its ownership. MLflow basic auth: EDIT.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param alias: the alias (str, templated)
    :param steps: how many moves to take back (int or str, templated; default 1)
    :param to_version: instead of ``steps``: the version to go back to; the alias must have pointed to it before
        (int or str, templated)
    """

    template_fields: Sequence[str] = (*_AliasOperator.template_fields, "steps", "to_version")

    def __init__(self, *, steps: int | str | None = None, to_version: int | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps
        self.to_version = to_version

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Roll the alias back."""
        from airflow_uc_models.registry.aliases import rollback_alias

        steps, to_version = _given(self.steps), _given(self.to_version)
        if steps is not None and to_version is not None:
            raise InvalidArgumentError("Give steps or to_version, not both.")
        name = registry.normalize(self.model_name)
        key = self.task_key(context, f"rollback {name}@{self.alias} {steps} {to_version}")
        move = yield from rollback_alias(
            registry,
            name,
            self.alias,
            key,
            steps=1 if steps is None else parse_version(steps),
            to_version=None if to_version is None else parse_version(to_version),
        )
        return self.report(context, move)


class DeleteRegisteredModelAliasOperator(_AliasOperator):
    """Delete an alias. Its history stays with the model.

    XCom: ``{"name", "alias", "deleted"}``; ``deleted`` is False where it was missing and ``missing_ok`` is set.

    Raises: no such model or alias, unless ``missing_ok``.

    Privileges: Unity Catalog: MANAGE on the model and EXECUTE, or its ownership. MLflow basic auth: MANAGE.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param alias: the alias (str, templated)
    :param missing_ok: succeed if there is no such alias (bool)
    """

    def __init__(self, *, missing_ok: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.missing_ok = missing_ok

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Delete the alias."""
        from airflow_uc_models.registry.aliases import delete_alias

        name, alias = registry.normalize(self.model_name), parse_alias(self.alias)
        try:
            yield from delete_alias(registry, name, alias)
            deleted = True
        except NotFoundError:
            if not (self.missing_ok or self.is_retry(context)):
                raise
            deleted = False
        self.log_effect("%s alias %r of %s", "Deleted" if deleted else "Did not find", alias, name)
        self.link_to(context, name)
        gone = deleted or self.is_retry(context)
        self.tell(context, MODEL_VERSION_ALIAS_DELETED, name, *([{"alias": alias}] if gone else []))
        return {"name": name, "alias": alias, "deleted": deleted}


def _given(value: int | str | None) -> int | str | None:
    """Return None for what a template left empty."""
    return None if value in (None, "", "None") else value


def _expected(value: int | str | None) -> int | None:
    value = _given(value)
    if value is None:
        return None
    return 0 if str(value).strip() == "0" else parse_version(value)
