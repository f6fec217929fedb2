"""Writing the state of an approval onto a model version, so that a reader never sees more than was decided."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_uc_models.approvals import ANSWER_TAGS, APPROVED, STATUS_TAG
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call

NO_TAGS = "An approval is a set of tags: approve in an MLflow server or in Unity Catalog on Databricks."


def note_approval(
    registry: Registry,
    name: str,
    version: int,
    status: str,
    answer: Mapping[str, str] | None = None,
    *,
    created_at: int | None = None,
) -> Call[ModelVersion]:
    """Write the status of an approval, who answered and when; delete what is left of an earlier answer.

    The status says approved only after the rest is written, and anything else before: whoever reads between two of
    these calls, or after a crash, sees no approval too much.

    :param status: ``pending``, ``approved`` or ``rejected``
    :param answer: tags with who and when
    :param created_at: what ``expect_created_at`` wants
    :return: the version as it was before
    """
    answer = dict(answer or {})
    registry.tag_rules(NO_TAGS).check({STATUS_TAG: status, **answer})
    found = yield from registry.get_model_version(name, version)
    expect_created_at(found, created_at)
    if status != APPROVED:
        yield from registry.set_model_version_tag(name, version, STATUS_TAG, status)
    for key, value in answer.items():
        yield from registry.set_model_version_tag(name, version, key, value)
    for key in ANSWER_TAGS:
        if key in found.tags and key not in answer:
            yield from registry.delete_model_version_tag(name, version, key)
    if status == APPROVED:
        yield from registry.set_model_version_tag(name, version, STATUS_TAG, status)
    return found


def keep_answer(registry: Registry, name: str, version: int, status: str, answer: Mapping[str, str]) -> Call[None]:
    """Write an answer again where another try of the task, which was about to ask, has taken it off the version."""
    found = yield from registry.get_model_version(name, version)
    if {STATUS_TAG: status, **answer}.items() - found.tags.items():
        yield from note_approval(registry, name, version, status, answer)


def expect_created_at(version: ModelVersion, created_at: int | None) -> None:
    """Raise if a version is not the one that was looked at before: a model that is deleted and made anew counts from 1.

    :param created_at: when that one was created; None if it is not known
    """
    if created_at is not None and version.created_at != created_at:
        raise InvalidArgumentError(
            f"{version.name}/{version.version} is not the version that was judged: the model was deleted meanwhile, "
            "and another one has its name and number. Let the new one be validated, and approved, from the beginning."
        )
