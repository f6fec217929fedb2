"""Taking back the one alias move that a promotion made, and none that somebody else made after it."""

from __future__ import annotations

from airflow_uc_models.alias_history import tag_key
from airflow_uc_models.entities import RegisteredModel
from airflow_uc_models.exceptions import AliasConflictError
from airflow_uc_models.registry.aliases import drop_last, rollback_alias
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call


def undo_move(
    registry: Registry, name: str, alias: str, key: str, *, version: int, previous: int | None
) -> Call[int | None]:
    """Take a move of an alias back, also off its history, if the alias is still where the move left it.

    It may be repeated after a crash: with the same key it finishes what it began.

    :param key: the task key
    :param version: the version that the alias was moved to
    :param previous: the version that it pointed to before; None if there was no such alias
    :return: the version that the alias points to in the end
    """
    registry.expect_aliases()
    model = yield from registry.get_registered_model(name)
    current = model.aliases.get(alias)
    if previous is None:
        return (yield from _undo_first(registry, model, alias, version))
    begun = model.tags.get(tag_key(alias, "rollback"), "").startswith(f"{key} ")
    if current != version and not (begun and current == previous):
        return current
    move = yield from rollback_alias(registry, name, alias, key, to_version=previous)
    if move.previous != version:
        raise AliasConflictError(
            f"Alias {alias!r} of {name} was rolled back to version {previous}, but somebody else had just moved it "
            f"from version {version} to {move.previous}. Decide which version it should have, then set it."
        )
    return move.version


def _undo_first(registry: Registry, model: RegisteredModel, alias: str, version: int) -> Call[int | None]:
    """Delete an alias that a move made, and the version from its history, or a later rollback would go there."""
    if alias in model.aliases:
        if model.aliases[alias] != version:
            return model.aliases[alias]
        yield from registry.delete_registered_model_alias(model.name, alias)
        model = yield from registry.get_registered_model(model.name)
        if alias in model.aliases:
            return model.aliases[alias]
    yield from drop_last(registry, model, alias, version)
    return None
