"""Writing the state of an approval onto a model version, so that a reader never sees more than was decided."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_uc_models.approvals import ANSWER_TAGS, APPROVED, STATUS_TAG
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call


def note_approval(
    registry: Registry, name: str, version: int, status: str, answer: Mapping[str, str] | None = None
) -> Call[ModelVersion]:
    """Write the status of an approval, who answered and when; delete what is left of an earlier answer.

    The status says approved only after the rest is written, and anything else before: whoever reads between two of
    these calls, or after a crash, sees no approval too much.

    :param status: ``pending``, ``approved`` or ``rejected``
    :param answer: tags with who and when
    :return: the version as it was before
    """
    answer = dict(answer or {})
    registry.tag_rules().check({STATUS_TAG: status, **answer})
    found = yield from registry.get_model_version(name, version)
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
