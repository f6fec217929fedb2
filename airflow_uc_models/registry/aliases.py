"""Moving an alias so that the move can be undone, and undoing it; each step may be repeated after a crash.

Before each move the history is reconciled with what the alias says now, so a move made by hand, or one whose
worker died before it wrote the history, is not forgotten.

No registry has a compare-and-set. So alias and history are read back after they were written, and whoever finds
there what somebody else wrote meanwhile raises AliasConflictError: of two that move an alias at the same moment,
at least one is told, or both moves are in the history. Each move writes a record that nobody else writes to
(`airflow_uc_models.alias_history`), so no late write takes a move away; whoever finds the tag for people behind the
records writes it again.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass

from airflow_uc_models.alias_history import (
    MAX_VALUE,
    AliasHistory,
    MoveRecord,
    history_of,
    move_records,
    tag_key,
)
from airflow_uc_models.entities import RegisteredModel
from airflow_uc_models.exceptions import AliasConflictError, InvalidArgumentError, NotFoundError
from airflow_uc_models.names import parse_alias, parse_version
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.registration import versions_of

_LOOKS = 5


@dataclass(frozen=True, slots=True)
class AliasMove:
    """What a move did: ``previous`` is None where the alias is new."""

    name: str
    alias: str
    version: int
    previous: int | None


def move_alias(
    registry: Registry, name: str, alias: str, version: int, *, expected_version: int | None = None
) -> Call[AliasMove]:
    """Point an alias to a version and push it onto the alias's history.

    :param expected_version: move only if the alias points there now; 0 means that it must not exist yet
    """
    registry.expect_aliases()
    name, alias, version = registry.normalize(name), parse_alias(alias), parse_version(version)
    model = yield from registry.get_registered_model(name)
    current = model.aliases.get(alias)
    if current != version and expected_version is not None and (current or 0) != expected_version:
        raise AliasConflictError(
            f"Alias {alias!r} of {name} points to {_said(current)}, not to {_said(expected_version or None)} as "
            f"expected; it was not moved to version {version}."
        )
    target = yield from registry.get_model_version(name, version)
    if not target.is_ready:
        raise InvalidArgumentError(
            f"Version {version} of {name} is {target.status}; an alias may only point to a READY version."
        )
    before = _history(model, alias).reconcile(current)
    if (yield from _write_history(registry, model, alias, before)):
        yield from _expect(registry, name, alias, current)
    model = yield from _set_and_check(registry, name, alias, version, current)
    recorded = _history(model, alias)
    if expected_version is not None and current != version and recorded.format() != before.format():
        raise AliasConflictError(
            f"Alias {alias!r} of {name} was moved to version {version}, but somebody else had moved it from "
            f"{_said(current)} at the same moment (history: {recorded.format()}). Decide which version it should "
            "have, then set it again."
        )
    history = yield from _record(registry, model, alias, recorded.push(version))
    return AliasMove(name, alias, version, history.versions[-2] if len(history.versions) > 1 else None)


def rollback_alias(
    registry: Registry, name: str, alias: str, key: str, *, steps: int = 1, to_version: int | None = None
) -> Call[AliasMove]:
    """Take back moves of an alias and pop them off its history.

    :param key: the task key; with it a retry finishes what its earlier try began, and takes back no more
    :param steps: how many moves to take back
    :param to_version: instead of steps, the version to go back to
    """
    registry.expect_aliases()
    name, alias = registry.normalize(name), parse_alias(alias)
    model = yield from registry.get_registered_model(name)
    current, before = model.aliases.get(alias), _history(model, alias)
    recorded = before.reconcile(current)
    if not recorded.versions:
        raise NotFoundError(f"Could not roll back alias {alias!r} of {name}: there is no such alias.")
    if begun := _begun(model, alias, key):
        source, history = begun
        if current not in (None, source, history.versions[-1]):
            raise AliasConflictError(
                f"Alias {alias!r} of {name} was being rolled back from version {source} to {history.versions[-1]}, and "
                f"now points to version {current}: somebody moved it meanwhile. It was left there."
            )
    else:
        # Deleting a version deletes its aliases: then the last recorded version is where the alias was.
        source = recorded.versions[-1]
        alive = [v.version for v in (yield from versions_of(registry, name)) if v.is_ready]
        try:
            history = recorded.back(steps, alive) if to_version is None else recorded.back_to(to_version, alive)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"Could not roll back alias {alias!r} of {name}: {error}") from None
        mark = f"{key} {source} {history.format(MAX_VALUE - 60)}"
        yield from registry.set_registered_model_tag(name, tag_key(alias, "rollback"), mark)
    target = history.versions[-1]
    model = yield from _set_and_check(registry, name, alias, target, current)
    alone = history_of(model.tags, alias, current) == before and _begun(model, alias, key) is not None
    if alone and (yield from _write_history(registry, model, alias, history)):
        model = yield from _expect(registry, name, alias, target)
        alone = _history(model, alias) == history and _begun(model, alias, key) is not None
    if not alone:
        raise (yield from _lost(registry, model, alias, target))
    yield from _tidy(registry, model, alias)
    return AliasMove(name, alias, target, source)


def _lost(registry: Registry, model: RegisteredModel, alias: str, target: int) -> Call[AliasConflictError]:
    """Return the error of a rollback that somebody's move came between, with the tag for people as it has to be."""
    yield from write_people_tag(registry, model.name, alias)
    return AliasConflictError(
        f"Alias {alias!r} of {model.name} was rolled back to version {target}, but somebody else moved it at the same "
        f"moment (history: {_history(model, alias).format()}). Decide which version it should have, then set it."
    )


def delete_alias(registry: Registry, name: str, alias: str) -> Call[None]:
    """Delete an alias; its history stays on the model, so that a later alias of that name can be rolled back."""
    registry.expect_aliases()
    name, alias = registry.normalize(name), parse_alias(alias)
    model = yield from registry.get_registered_model(name)
    if alias not in model.aliases:
        existing = ", ".join(sorted(model.aliases)) or "none"
        raise NotFoundError(
            f"Could not delete alias {alias!r} of {name}: there is no such alias (existing: {existing})."
        )
    yield from _write_history(registry, model, alias, _history(model, alias).reconcile(model.aliases[alias]))
    yield from registry.delete_registered_model_alias(name, alias)


def _begun(model: RegisteredModel, alias: str, key: str) -> tuple[int, AliasHistory] | None:
    """Return from where and to which history this task rolls back, if the rollback begun last is its own."""
    by, _, versions = model.tags.get(tag_key(alias, "rollback"), "").partition(" ")
    source, *kept = AliasHistory.parse(versions).versions or (0,)
    return (source, AliasHistory(tuple(kept))) if by == key and kept else None


def _history(model: RegisteredModel, alias: str) -> AliasHistory:
    return history_of(model.tags, alias, model.aliases.get(alias))


def _record(registry: Registry, model: RegisteredModel, alias: str, history: AliasHistory) -> Call[AliasHistory]:
    """Write the history after a move, with what others wrote at the same moment, and return it."""
    version = history.versions[-1]
    for _ in range(_LOOKS):
        if not (yield from _write_history(registry, model, alias, history)):
            break
        model = yield from _expect(registry, model.name, alias, version)
        history = _history(model, alias).push(version)
    yield from _tidy(registry, model, alias)
    return history


def _write_history(registry: Registry, model: RegisteredModel, alias: str, history: AliasHistory) -> Call[bool]:
    """Write the history where it differs from what the model carries; return whether it did."""
    records = move_records(model.tags, alias)
    is_recorded = _history(model, alias) == history
    if is_recorded and model.tags.get(tag_key(alias), "") == history.format():
        return False
    if not is_recorded:
        newest = max((record.generation for record in records.values()), default=0)
        key = tag_key(alias, f"move_{secrets.token_hex(4)}")
        yield from registry.set_registered_model_tag(model.name, key, MoveRecord(newest + 1, history).format())
    yield from registry.set_registered_model_tag(model.name, tag_key(alias), history.format())
    return True


def _tidy(registry: Registry, model: RegisteredModel, alias: str) -> Call[None]:
    """Delete the records of earlier moves; nobody writes to them again."""
    records = move_records(model.tags, alias)
    newest = max((record.generation for record in records.values()), default=0)
    for key in sorted(key for key, record in records.items() if record.generation < newest):
        with suppress(NotFoundError):
            yield from registry.delete_registered_model_tag(model.name, key)


def drop_last(registry: Registry, model: RegisteredModel, alias: str, version: int) -> Call[None]:
    """Take the last version off the history of an alias that is gone, if it is this one."""
    history = _history(model, alias)
    if history.versions[-1:] != (version,):
        return
    kept = AliasHistory(history.versions[:-1])
    if kept.versions:
        yield from _write_history(registry, model, alias, kept)
        yield from _tidy(registry, (yield from registry.get_registered_model(model.name)), alias)
        return
    for key in (tag_key(alias), *move_records(model.tags, alias)):
        if key in model.tags:
            with suppress(NotFoundError):
                yield from registry.delete_registered_model_tag(model.name, key)


def write_people_tag(registry: Registry, name: str, alias: str) -> Call[None]:
    """Write the tag for people again where a late write left it behind the records."""
    for _ in range(_LOOKS):
        model = yield from registry.get_registered_model(name)
        history = _history(model, alias).format()
        if not move_records(model.tags, alias) or model.tags.get(tag_key(alias)) == history:
            return
        yield from registry.set_registered_model_tag(name, tag_key(alias), history)


def _set_and_check(
    registry: Registry, name: str, alias: str, version: int, current: int | None
) -> Call[RegisteredModel]:
    """Move the alias and read it back."""
    if current != version:
        yield from registry.set_registered_model_alias(name, alias, version)
    return (yield from _expect(registry, name, alias, version))


def _expect(registry: Registry, name: str, alias: str, version: int | None) -> Call[RegisteredModel]:
    """Read the model; AliasConflictError if the alias is not where this move left it."""
    model = yield from registry.get_registered_model(name)
    seen = model.aliases.get(alias)
    if seen != version:
        yield from write_people_tag(registry, name, alias)
        raise AliasConflictError(
            f"Alias {alias!r} of {name} pointed to {_said(version)} and now points to {_said(seen)}: somebody else "
            "moved it at the same moment. Decide which version it should have, then set it again."
        )
    return model


def _said(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
