"""Which READY versions a consumer has yet to handle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from airflow_uc_models.entities import FAILED_REGISTRATION, ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import InvalidArgumentError, InvalidNameError, NotFoundError
from airflow_uc_models.names import ModelName, parse_schema
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.registration import versions_of
from airflow_uc_models.watermark import Handled, Watermark, unbroken

# A number that is missing below a version this old was deleted; it is not one that the registry shows late.
_GAP_MILLISECONDS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a consumer asks for.

    :param scope: ``catalog.schema.model``, or ``catalog.schema`` or ``catalog.schema.*`` for all models of a schema
    :param created_after: milliseconds since the epoch; older versions are left out
    :param tags: tags that a version must have, with these values
    :param limit: how many versions at most, the oldest
    :param missing_ok: nothing is pending where there is no such model
    """

    scope: str
    created_after: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    missing_ok: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """What is pending.

    :param versions: what to handle now, oldest first
    :param left: how many READY versions the limit left for later
    :param unready: versions that are not READY yet
    :param failed: versions that never will be
    :param settled: the models of these versions, and the numbers of any that nobody has to look at again
    """

    versions: list[ModelVersion]
    left: int
    unready: list[ModelVersion]
    failed: list[ModelVersion]
    settled: Watermark


def find_pending(registry: Registry, wanted: Wanted, watermark: Watermark, now: float) -> Call[Pending]:
    """Return the versions that are READY and that the watermark does not know.

    :param now: seconds since the epoch
    """
    if wanted.tags:
        registry.tag_rules("Leave out the tags.").check(wanted.tags)
    models = yield from _models(registry, wanted)
    candidates: list[ModelVersion] = []
    settled = {}
    for model in models:
        handled = watermark.of(model.name, model.created_at)
        try:
            listed = yield from versions_of(registry, model.name, after=unbroken(handled))
        except NotFoundError:
            continue  # deleted since
        candidates += [version for version in listed if version.version not in handled]
        settled[model.name] = Handled(model.created_at, _settled(listed, handled, now))
    ready = sorted((v for v in candidates if v.is_ready and _is_new(v, wanted)), key=_age)
    if wanted.tags:
        ready = yield from _tagged(registry, ready, wanted.tags)
    taken = ready[: wanted.limit]
    failed = [v for v in candidates if v.status == FAILED_REGISTRATION]
    about = {v.name for v in taken}
    return Pending(
        versions=(yield from _read(registry, taken)),
        left=len(ready) - len(taken),
        unready=[v for v in candidates if not v.is_ready and v not in failed],
        failed=failed,
        settled=Watermark({name: known for name, known in settled.items() if known.versions or name in about}),
    )


def parse_time(value: datetime | str | int | None) -> int | None:
    """Return a time in milliseconds since the epoch; what a template left empty is None."""
    text = str(value).strip()
    if text in {"", "None"}:
        return None
    if text.isdecimal() and len(text) != len("20260131"):  # which ``{{ ds_nodash }}`` gives
        return int(text)
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgumentError(
            f"created_after is a time such as '2026-01-31T00:00:00+00:00' or milliseconds since 1970, not {value!r}."
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _models(registry: Registry, wanted: Wanted) -> Call[list[RegisteredModel]]:
    schema, name = _parse_scope(wanted.scope)
    try:
        if name is not None:
            return [(yield from registry.get_registered_model(name))]
        models = yield from registry.search_registered_models(schema=schema)
    except NotFoundError:
        if not wanted.missing_ok:
            raise
        return []
    if not models and not wanted.missing_ok:
        raise NotFoundError(
            f"There is no registered model in schema {schema}, or the connection's principal may see none. "
            "Check the name, or set missing_ok=True if models are still to come."
        )
    return models


def _parse_scope(scope: str) -> tuple[str, str | None]:
    """Return the schema, and the model if the scope is one."""
    levels = scope.split(".") if isinstance(scope, str) else []
    if len(levels) == 3 and levels[2] == "*":
        levels.pop()
    if len(levels) not in {2, 3} or "*" in levels:
        raise InvalidNameError(
            "scope is a model, 'catalog.schema.model', or a schema, 'catalog.schema' or 'catalog.schema.*', "
            f"not {scope!r}."
        )
    if len(levels) == 2:
        return ".".join(parse_schema(".".join(levels))), None
    name = ModelName.parse(scope)
    return name.full_schema, str(name)


def _settled(listed: Sequence[ModelVersion], handled: frozenset[int], now: float) -> frozenset[int]:
    """Return the numbers of versions that failed or are gone, so that later looks can begin after them."""
    failed = {v.version for v in listed if v.status == FAILED_REGISTRATION}
    old = [v.version for v in listed if v.created_at is not None and v.created_at < now * 1000 - _GAP_MILLISECONDS]
    gone = set(range(unbroken(handled) + 1, max(old, default=0))) - {v.version for v in listed}
    return frozenset((failed | gone) - handled)


def _is_new(version: ModelVersion, wanted: Wanted) -> bool:
    return wanted.created_after is None or version.created_at is None or version.created_at >= wanted.created_after


def _age(version: ModelVersion) -> tuple[int, str, int]:
    return version.created_at or 0, version.name, version.version


def _tagged(registry: Registry, versions: list[ModelVersion], tags: Mapping[str, str]) -> Call[list[ModelVersion]]:
    if not registry.capabilities.tag_search:  # which means that search does not give tags
        versions = yield from _read(registry, versions)
    return [version for version in versions if tags.items() <= version.tags.items()]


def _read(registry: Registry, versions: list[ModelVersion]) -> Call[list[ModelVersion]]:
    """Read versions one by one: search results lack aliases, and tags in Unity Catalog."""
    if not registry.capabilities.aliases:
        return versions
    found = []
    for version in versions:
        try:
            found.append((yield from registry.get_model_version(version.name, version.version)))
        except NotFoundError:
            continue  # deleted since
    return found
