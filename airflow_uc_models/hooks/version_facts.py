"""What a policy's rules ask of a version, gathered from its registry; nothing else is asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.flavors import flavors_of
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.policies import Facts, PromotionPolicy
from airflow_uc_models.registry.facts import Origin, origin_of
from airflow_uc_models.signatures import Signature


def candidate_facts(
    hook: ModelRegistryHook, version: ModelVersion, policy: PromotionPolicy, now: datetime
) -> tuple[Facts, Origin]:
    """Return what the rules ask of the candidate, and where it came from."""
    origin = hook.run(origin_of(hook.registry, version))
    mlmodel: dict[str, Any] = {}
    if policy.needs_signature or policy.allowed_flavors is not None:
        mlmodel = _mlmodel(hook, version)
    return Facts(
        metrics=origin.metrics,
        tags=version.tags,
        signature=Signature.of_mlmodel(mlmodel) if policy.needs_signature else None,
        model=origin.model_id or version.uri,
        metrics_from=origin.looked_in,
        description=version.description,
        size=_size(hook, version) if policy.max_size is not None else None,
        flavors=flavors_of(mlmodel),
        made_at=None if origin.made_at is None else datetime.fromtimestamp(origin.made_at / 1000, UTC),
        as_of=now,
    ), origin


def champion_facts(
    hook: ModelRegistryHook, version: ModelVersion, policy: PromotionPolicy, *, needs_metrics: bool
) -> Facts:
    """Return what the rules ask of the champion.

    :param needs_metrics: also where no rule compares them
    """
    origin = Origin()
    if needs_metrics or policy.needs_champion_metrics:
        origin = hook.run(origin_of(hook.registry, version))
    return Facts(
        metrics=origin.metrics,
        signature=Signature.of_mlmodel(_mlmodel(hook, version)) if policy.compatible_signature else None,
        model=origin.model_id or version.uri,
        metrics_from=origin.looked_in,
    )


def _mlmodel(hook: ModelRegistryHook, version: ModelVersion) -> dict[str, Any]:
    from airflow_uc_models.hooks.artifacts import version_mlmodel

    return version_mlmodel(hook, version)


def _size(hook: ModelRegistryHook, version: ModelVersion) -> int | None:
    from airflow_uc_models.hooks.artifacts import version_size

    return version_size(hook, version)
