"""Operators that create, read, change and delete registered models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow_uc_models.events import REGISTERED_MODEL_CREATED, REGISTERED_MODEL_DELETED
from airflow_uc_models.exceptions import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    RegistryError,
    UnknownEffectError,
)
from airflow_uc_models.names import ModelName
from airflow_uc_models.operators.base import ModelOperator, ModelRegistryOperator

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call


class CreateRegisteredModelOperator(ModelOperator):
    """Create a registered model, or make sure that there is one.

    An existing model is left as it is. A retry knows the model that its earlier try created by the tag
    ``airflow_task_key`` and does not take it for somebody else's. An open-source Unity Catalog server has no tags:
    there the last line of the description is ``airflow_task_key: <key>``.

    XCom: the registered model.

    Raises: with ``if_exists="fail"``, a model of that name that this task did not create.

    Privileges: Unity Catalog: CREATE MODEL on the schema, EXECUTE on a model that exists. MLflow basic auth: any user
    may create.
    Registries: all; description and tags where the registry has them.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param description: description (str, templated)
    :param tags: value by key (dict, templated)
    :param if_exists: ``"ignore"`` or ``"fail"`` (str)
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "description", "tags")

    def __init__(
        self,
        *,
        description: str | None = None,
        tags: Mapping[str, Any] | None = None,
        if_exists: Literal["ignore", "fail"] = "ignore",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.description = description
        self.tags = tags
        self.if_exists = if_exists

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Create the model."""
        from airflow_uc_models.registry.base import str_tags
        from airflow_uc_models.registry.registration import create_model_once

        if self.if_exists not in {"ignore", "fail"}:
            raise InvalidArgumentError(f"if_exists is 'ignore' or 'fail', not {self.if_exists!r}.")
        name = registry.normalize(self.model_name)
        key = self.task_key(context, f"create {name}")
        model, made = yield from create_model_once(
            registry, name, key, description=self.description, tags=str_tags(self.tags)
        )
        if not made and self.if_exists == "fail":
            raise AlreadyExistsError(f"Registered model {name} exists already; if_exists='ignore' would accept it.")
        self.log_effect("%s registered model %s", "Created" if made else "Found", name)
        self.link_to(context, name)
        self.tell(context, REGISTERED_MODEL_CREATED, name, *([{"created_at": model.created_at}] if made else []))
        return model.to_xcom()


class UpdateRegisteredModelOperator(ModelOperator):
    """Replace the description of a registered model.

    Where the registry has no tags, lines ``airflow_...: ...`` at its end stay, by which tasks know their models.

    XCom: the registered model.

    Raises: missing model.

    Privileges: Unity Catalog: MANAGE on the model and EXECUTE, or its ownership. MLflow basic auth: EDIT.
    Registries: all.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param description: the new description (str, templated)
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "description")

    def __init__(self, *, description: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.description = description

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Update the model."""
        from airflow_uc_models.registry.registration import redescribed

        registry.check_texts(description=self.description)
        name = registry.normalize(self.model_name)
        description = self.description
        if registry.capabilities.tags is None:
            description = redescribed(registry, (yield from registry.get_registered_model(name)), description)
        yield from registry.update_registered_model(name, description=description)
        self.log_effect("Updated the description of registered model %s", name)
        self.link_to(context, name)
        return (yield from registry.get_registered_model(name)).to_xcom()


class RenameRegisteredModelOperator(ModelOperator):
    """Give a registered model another name; versions, aliases and tags stay with it.

    A retry that finds the old name gone and the new one there takes the rename for done.

    XCom: the registered model under its new name.

    Raises: missing model; a model that has the new name already; a second model of the old name.

    Privileges: Unity Catalog: MANAGE on the model and EXECUTE, or its ownership, and CREATE MODEL on the schema. MLflow
    basic auth: EDIT.
    Registries: all. Unity Catalog renames within one schema only.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param new_name: the new ``catalog.schema.model`` (str, templated)
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "new_name")

    def __init__(self, *, new_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.new_name = new_name

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Rename the model."""
        name, new_name = registry.normalize(self.model_name), registry.normalize(self.new_name)
        stays = ModelName.parse(name).full_schema == ModelName.parse(new_name).full_schema
        if not stays and not registry.capabilities.moves_between_schemas:
            raise InvalidArgumentError(
                f"A rename in {registry.capabilities.label} stays within its schema: {name} cannot become {new_name}. "
                "Copy its versions with CopyModelVersionOperator instead."
            )
        unsure = self.is_retry(context)
        try:
            yield from registry.rename_registered_model(name, new_name)
        except UnknownEffectError:
            unsure = True
            yield from self._expect_renamed(registry, name, new_name)
        except NotFoundError:
            if not unsure:
                raise
            yield from self._expect_renamed(registry, name, new_name)
        if not registry.capabilities.unique_versions and (yield from registry.registered_models_named(name)):
            raise RegistryError(
                f"{name} was renamed to {new_name}, and there is a model named {name} all the same: two had that name, "
                "or it was made again meanwhile. Delete or rename it, too."
            )
        self.log_effect("Renamed registered model %s -> %s", name, new_name)
        self.link_to(context, new_name)
        self.tell(context, REGISTERED_MODEL_DELETED, name, {})
        self.tell(context, REGISTERED_MODEL_CREATED, new_name, {})
        return (yield from registry.get_registered_model(new_name)).to_xcom()

    def _expect_renamed(self, registry: Registry, name: str, new_name: str) -> Call[None]:
        """Find out whether a rename without an answer happened, and do it if not."""
        try:
            yield from registry.get_registered_model(name)
        except NotFoundError:
            return
        yield from registry.rename_registered_model(name, new_name)


class DeleteRegisteredModelOperator(ModelOperator):
    """Delete a registered model with all its versions, aliases and tags. There is no way back.

    Unity Catalog may refuse to delete a model that has versions; they are deleted first there.

    XCom: ``{"name", "deleted"}``; ``deleted`` is False where it was missing and ``missing_ok`` is set.

    Raises: missing model, unless ``missing_ok``. A retry takes a missing model for its earlier try's work. On an
    open-source Unity Catalog server, where two models can have one name, both are deleted; if one is left, the task
    fails.

    Privileges: Unity Catalog: MANAGE on the model, EXECUTE if it has versions, or its ownership. MLflow basic auth:
    MANAGE.
    Registries: all.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param missing_ok: succeed if there is no such model (bool)
    """

    def __init__(self, *, missing_ok: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.missing_ok = missing_ok

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Delete the model."""
        from airflow_uc_models.registry.retention import delete_model

        name = registry.normalize(self.model_name)
        try:
            yield from delete_model(registry, name)
            deleted = True
        except NotFoundError:
            if not (self.missing_ok or self.is_retry(context)):
                raise
            deleted = False
        self.log_effect("%s registered model %s", "Deleted" if deleted else "Did not find", name)
        self.tell(context, REGISTERED_MODEL_DELETED, name, *([{}] if deleted or self.is_retry(context) else []))
        return {"name": name, "deleted": deleted}


class GetRegisteredModelOperator(ModelOperator):
    """Read a registered model with its aliases and tags.

    XCom: the registered model, or None where it is missing and ``missing_ok`` is set.

    Raises: missing model, unless ``missing_ok``.

    Privileges: Unity Catalog: EXECUTE on the model. MLflow basic auth: READ.
    Registries: all; aliases and tags where the registry has them.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param missing_ok: return None if there is no such model (bool)
    """

    def __init__(self, *, missing_ok: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.missing_ok = missing_ok

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Get the model."""
        name = registry.normalize(self.model_name)
        try:
            model = yield from registry.get_registered_model(name)
        except NotFoundError:
            if not self.missing_ok:
                raise
            self.log_effect("Did not find registered model %s", name)
            return None
        self.log_effect("Read registered model %s", name)
        self.link_to(context, name)
        return model.to_xcom()


class SearchRegisteredModelsOperator(ModelRegistryOperator):
    """List registered models, reading all pages, sorted by name.

    XCom: list of registered models, ready for ``.expand``.

    Privileges: Unity Catalog: EXECUTE or BROWSE; other models are left out. MLflow basic auth: READ, likewise.
    Registries: all; ``filter_string`` on MLflow servers only.

    :param schema: only models of this ``catalog.schema`` (str, templated)
    :param filter_string: MLflow's filter, such as ``tags.team = 'fraud'`` (str, templated)
    """

    template_fields: Sequence[str] = (*ModelRegistryOperator.template_fields, "schema", "filter_string")

    def __init__(self, *, schema: str | None = None, filter_string: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.filter_string = filter_string

    def call(self, registry: Registry, context: Context) -> Call[Any]:  # noqa: ARG002 - one signature for all calls
        """Search for models."""
        models = yield from registry.search_registered_models(
            filter_string=self.filter_string or None, schema=self.schema or None
        )
        found = sorted(models, key=lambda m: m.name)
        where = f" in {self.schema}" if self.schema else ""
        self.log_effect("Found %d registered models%s", len(found), where)
        return [model.to_xcom() for model in found]
