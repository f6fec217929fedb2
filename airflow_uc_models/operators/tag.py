"""Operators that set and delete tags of registered models and model versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_uc_models.events import (
    MODEL_VERSION_TAG_DELETED,
    MODEL_VERSION_TAG_SET,
    REGISTERED_MODEL_TAG_DELETED,
    REGISTERED_MODEL_TAG_SET,
)
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.operators.base import ModelOperator, ModelVersionOperator

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call

_SHOWN = 100


class SetRegisteredModelTagsOperator(ModelOperator):
    """Set tags of a registered model; other tags stay. Doing it twice is the same as doing it once.

    XCom: the registered model with all its tags.

    Raises: missing model; a key or value that the registry does not take, before any tag is set.

    Privileges: Unity Catalog: APPLY TAG and EXECUTE on the model or its ownership. MLflow basic auth: EDIT.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param tags: value by key (dict, templated)
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "tags")

    def __init__(self, *, tags: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tags = tags

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Set the tags."""
        name, tags = registry.normalize(self.model_name), _checked(registry, self.tags)
        before = (yield from registry.get_registered_model(name)).tags if self.is_heard() else {}
        for key, value in tags.items():
            yield from registry.set_registered_model_tag(name, key, value)
        self.log_effect("Set tags of %s: %s", name, _listed(tags))
        self.link_to(context, name)
        self.tell(context, REGISTERED_MODEL_TAG_SET, name, *_set(tags, before, again=self.is_retry(context)))
        return (yield from registry.get_registered_model(name)).to_xcom()


class DeleteRegisteredModelTagsOperator(ModelOperator):
    """Delete tags of a registered model; a tag that is not there counts as deleted.

    XCom: the registered model with the tags left.

    Raises: missing model.

    Privileges: Unity Catalog: APPLY TAG and EXECUTE on the model or its ownership. MLflow basic auth: EDIT.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param keys: keys of the tags (list of str, templated)
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "keys")

    def __init__(self, *, keys: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keys = keys

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Delete the tags that are there."""
        name, keys = registry.normalize(self.model_name), _checked_keys(registry, self.keys)
        model = yield from registry.get_registered_model(name)
        for key in keys:
            if key in model.tags:
                yield from registry.delete_registered_model_tag(name, key)
        self.log_effect("Deleted tags of %s: %s", name, ", ".join(key for key in keys if key in model.tags) or "none")
        self.link_to(context, name)
        gone = _deleted(keys, model.tags, again=self.is_retry(context))
        self.tell(context, REGISTERED_MODEL_TAG_DELETED, name, *gone)
        return replace(model, tags=_without(model.tags, keys)).to_xcom()


class SetModelVersionTagsOperator(ModelVersionOperator):
    """Set tags of a model version; other tags stay. Doing it twice is the same as doing it once.

    An alias is resolved once, before the first tag: all tags land on one version.

    XCom: the model version with all its tags.

    Raises: missing version or alias; a key or value that the registry does not take, before any tag is set.

    Privileges: Unity Catalog: APPLY TAG and EXECUTE on the model or its ownership. MLflow basic auth: EDIT.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version; give this or ``alias`` (int or str, templated)
    :param alias: the alias that names the version (str, templated)
    :param tags: value by key (dict, templated)
    """

    template_fields: Sequence[str] = (*ModelVersionOperator.template_fields, "tags")

    def __init__(self, *, tags: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tags = tags

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Set the tags."""
        from airflow_uc_models.registry.registration import resolve

        tags = _checked(registry, self.tags)
        version = yield from resolve(registry, self.reference())
        for key, value in tags.items():
            yield from registry.set_model_version_tag(version.name, version.version, key, value)
        self.log_effect("Set tags of %s/%s: %s", version.name, version.version, _listed(tags))
        self.link_to(context, version.name, version.version)
        changes = _set(tags, version.tags, again=self.is_retry(context))
        details = [{"version": version.version, **change} for change in changes]
        self.tell(context, MODEL_VERSION_TAG_SET, version.name, *details)
        return (yield from registry.get_model_version(version.name, version.version)).to_xcom()


class DeleteModelVersionTagsOperator(ModelVersionOperator):
    """Delete tags of a model version; a tag that is not there counts as deleted.

    XCom: the model version with the tags left.

    Raises: missing version or alias.

    Privileges: Unity Catalog: APPLY TAG and EXECUTE on the model or its ownership. MLflow basic auth: MANAGE.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version; give this or ``alias`` (int or str, templated)
    :param alias: the alias that names the version (str, templated)
    :param keys: keys of the tags (list of str, templated)
    """

    template_fields: Sequence[str] = (*ModelVersionOperator.template_fields, "keys")

    def __init__(self, *, keys: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keys = keys

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Delete the tags that are there."""
        from airflow_uc_models.registry.registration import resolve

        keys = _checked_keys(registry, self.keys)
        version = yield from resolve(registry, self.reference())
        for key in keys:
            if key in version.tags:
                yield from registry.delete_model_version_tag(version.name, version.version, key)
        there = ", ".join(key for key in keys if key in version.tags) or "none"
        self.log_effect("Deleted tags of %s/%s: %s", version.name, version.version, there)
        self.link_to(context, version.name, version.version)
        gone = _deleted(keys, version.tags, again=self.is_retry(context))
        details = [{"version": version.version, **change} for change in gone]
        self.tell(context, MODEL_VERSION_TAG_DELETED, version.name, *details)
        return replace(version, tags=_without(version.tags, keys)).to_xcom()


def _set(tags: Mapping[str, str], before: Mapping[str, str], *, again: bool) -> list[dict[str, Any]]:
    """Return the changes that setting tags makes; a retry tells again of those its earlier try may have made."""
    changed = {key: value for key, value in tags.items() if again or before.get(key) != value}
    was = {key: before.get(key) if before.get(key) != value else None for key, value in changed.items()}
    return [{"tag_key": key, "tag_value": value, "from_value": was[key]} for key, value in changed.items()]


def _deleted(keys: Sequence[str], before: Mapping[str, str], *, again: bool) -> list[dict[str, Any]]:
    """Return the changes that deleting tags makes, likewise."""
    return [{"tag_key": key, "from_value": before.get(key)} for key in keys if again or key in before]


def _listed(tags: Mapping[str, str]) -> str:
    """Return tags for a log line; a long value is cut."""
    return ", ".join(
        f"{key}={value if len(value) <= _SHOWN else value[:_SHOWN] + '...'!r}" for key, value in tags.items()
    )


def _without(tags: Mapping[str, str], keys: Sequence[str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key not in keys}


def _checked(registry: Registry, tags: Mapping[str, Any]) -> dict[str, str]:
    from airflow_uc_models.registry.base import str_tags

    if not tags:
        raise InvalidArgumentError("tags is empty; give at least one tag to set.")
    checked = str_tags(tags)
    registry.tag_rules().check(checked)
    return checked


def _checked_keys(registry: Registry, keys: Sequence[str]) -> list[str]:
    if isinstance(keys, str) or not keys:
        raise InvalidArgumentError(f"keys must be a list of at least one tag key, not {keys!r}.")
    for key in keys:
        registry.tag_rules().check_key(key)
    return list(keys)
