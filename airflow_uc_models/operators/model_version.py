"""Operators that make, read, change and delete model versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_uc_models.events import MODEL_VERSION_DELETED, MODEL_VERSION_READY
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.links import store_link
from airflow_uc_models.names import ModelRef, parse_source, parse_version
from airflow_uc_models.operators.base import ModelOperator, ModelRegistryOperator, ModelVersionOperator
from airflow_uc_models.quantities import as_switch

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.hooks.transfer import NewVersion
    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call

# A version that a task made is not older than its Dag run, but for what the clocks differ; a day is more than enough.
_CLOCK_SKEW_SECONDS = 24 * 3600


def _new_version(operator: ModelRegistryOperator, context: Context, name: str, what: str, **fields: Any) -> NewVersion:
    """Describe the version to be made, with what lets a retry find the one of an earlier try."""
    from airflow_uc_models.hooks.transfer import NewVersion
    from airflow_uc_models.operators.task_memory import TaskMemory

    run_after = getattr(context.get("dag_run"), "run_after", None)
    since = int((run_after.timestamp() - _CLOCK_SKEW_SECONDS) * 1000) if run_after else 0
    key = operator.task_key(context, what)
    memory = TaskMemory(context, f"model_version_{key}")
    return NewVersion(name, key, since=since, is_first=not operator.is_retry(context), memory=memory, **fields)


class RegisterModelOperator(ModelOperator):
    """Make a new version out of a logged model; the registered model is created where it is missing.

    The source is checked first: it must exist, hold an MLmodel file and, unless told otherwise, have a signature. A
    local folder is uploaded as a logged model before. The version carries the tag ``airflow_task_key``, by which a
    retry finds it instead of making a second one; without tags in the registry it is the description's last line.

    Two tries of the task at once, as after a worker that only seemed lost, leave one version, too: the later try
    deletes what the earlier one is still uploading. The earlier one then returns the version of the later one or, if
    that is not finished, fails with TakenOverError, which is retried.

    XCom: the model version.

    Raises: unknown run, logged model or folder; no MLmodel; no signature; tags, or a description too long, that the
    registry does not take.

    Privileges: Unity Catalog: EXECUTE, CREATE MODEL VERSION and APPLY TAG on the model or its ownership, CREATE MODEL
    on the schema for a new model. MLflow basic auth: EDIT on the model, READ on the experiment.
    Registries: all.

    :param model_name: ``catalog.schema.model`` to register under (str, templated)
    :param model_uri: ``runs:/<run_id>/<path>``, ``models:/m-<id>`` or a folder on the worker (str, templated)
    :param description: description of the version (str, templated)
    :param tags: tags of the version (dict, templated)
    :param tracking_conn_id: connection of the run's or logged model's server, if another one (str, templated)
    :param signature_required: refuse a model without a signature; Unity Catalog always does (bool)
    """

    template_fields: Sequence[str] = (
        *ModelOperator.template_fields,
        "model_uri",
        "description",
        "tags",
        "tracking_conn_id",
    )

    def __init__(
        self,
        *,
        model_uri: str,
        description: str | None = None,
        tags: Mapping[str, Any] | None = None,
        tracking_conn_id: str | None = None,
        signature_required: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_uri = model_uri
        self.description = description
        self.tags = tags
        self.tracking_conn_id = tracking_conn_id
        self.signature_required = signature_required

    def role_of_connection(self) -> str:
        """Tell the registry's connection from ``tracking_conn_id``."""
        return "registry" if self.tracking_conn_id else ""

    def perform(self, context: Context) -> Any:
        """Register the model."""
        from airflow_uc_models.hooks.transfer import register
        from airflow_uc_models.registry.base import str_tags

        name, source = self.hook.registry.normalize(self.model_name), parse_source(self.model_uri)
        what = f"register {source.uri} as {name}"
        version = register(
            self.hook,
            source,
            _new_version(self, context, name, what, description=self.description, tags=str_tags(self.tags)),
            tracking=ModelRegistryHook(self.tracking_conn_id, role="tracking") if self.tracking_conn_id else None,
            signature_required=self.signature_required,
        )
        self.log_effect("Registered %s as version %s of %s", source.uri, version.version, version.name)
        self.link_to(context, version.name, version.version)
        self.tell(context, MODEL_VERSION_READY, version.name, {"version": version.version})
        return version.to_xcom()


class CopyModelVersionOperator(ModelRegistryOperator):
    """Copy a model version to another model, in the same registry or in another one.

    Name the source by ``model_uri``, or by ``model_name`` with ``version`` or ``alias``. An alias is resolved once.
    Description and tags go along. The copy says where it came from in the tag ``airflow_copied_from`` (and
    ``airflow_copied_from_registry``, if that is another server), and carries ``airflow_task_key``, by which a retry
    finds it instead of making a second one; without tags in the registry these are the last lines of the
    description. Within one MLflow server the copy refers to the same files; between servers they are moved.

    XCom: the new model version.

    Raises: missing source; a source that is not READY; tags that the destination does not take.

    Privileges: Unity Catalog: EXECUTE on the source; EXECUTE, CREATE MODEL VERSION and APPLY TAG on the destination or
    its ownership, CREATE MODEL on the schema for a new one. MLflow basic auth: READ on the source, EDIT on the
    destination.
    Registries: all.

    :param model_uri: the source as ``models:/c.s.m/3`` or ``models:/c.s.m@alias`` (str, templated)
    :param model_name: the source's ``catalog.schema.model`` (str, templated)
    :param version: the source's version (int or str, templated)
    :param alias: the alias that names the source's version (str, templated)
    :param destination_model_name: ``catalog.schema.model`` to copy to, created where it is missing (str, templated)
    :param destination_conn_id: connection of the destination, if another registry (str, templated)
    :param copy_tags: carry all tags, none, or those with these keys (bool, its text, or list of str, templated)
    """

    template_fields: Sequence[str] = (
        *ModelRegistryOperator.template_fields,
        "model_uri",
        "model_name",
        "version",
        "alias",
        "destination_model_name",
        "destination_conn_id",
        "copy_tags",
    )

    def __init__(
        self,
        *,
        destination_model_name: str,
        model_uri: str | None = None,
        model_name: str | None = None,
        version: int | str | None = None,
        alias: str | None = None,
        destination_conn_id: str | None = None,
        copy_tags: bool | Sequence[str] = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.destination_model_name = destination_model_name
        self.model_uri = model_uri
        self.model_name = model_name
        self.version = version
        self.alias = alias
        self.destination_conn_id = destination_conn_id
        self.copy_tags = copy_tags

    def role_of_connection(self) -> str:
        """Tell the source's connection from ``destination_conn_id``."""
        return "source" if self.destination_conn_id else ""

    def perform(self, context: Context) -> Any:
        """Copy the version."""
        from airflow_uc_models.hooks.transfer import copy

        reference = self._reference()
        destination = self.hook
        if self.destination_conn_id:
            destination = ModelRegistryHook(self.destination_conn_id, role="destination")
        name = destination.registry.normalize(self.destination_model_name)
        wanted = as_switch(self.copy_tags)
        if not isinstance(wanted, bool | list | tuple):
            raise InvalidArgumentError(f"copy_tags is True, False or a list of tag keys, not {self.copy_tags!r}.")
        new = _new_version(self, context, name, f"copy {reference.uri} to {name}")
        tags = wanted if isinstance(wanted, bool) else list(wanted)
        version = copy(self.hook, reference, destination, new, copy_tags=tags)
        conn_id = destination.registry_conn_id
        self.log_effect("Copied %s -> version %s of %s", reference.uri, version.version, name, conn_id=conn_id)
        store_link(context, destination.endpoint.model_version_url(version.name, version.version))
        self.tell(context, MODEL_VERSION_READY, version.name, {"version": version.version}, hook=destination)
        return version.to_xcom()

    def _reference(self) -> ModelRef:
        if not self.model_uri:
            if not self.model_name:
                raise InvalidArgumentError("Name the source: model_uri, or model_name with version or alias.")
            return ModelRef.of(self.model_name, version=self.version, alias=self.alias)
        if self.model_name or self.version or self.alias:
            raise InvalidArgumentError("Give model_uri, or model_name with version or alias, not both.")
        return ModelRef.parse(self.model_uri)


class GetModelVersionOperator(ModelVersionOperator):
    """Read a model version with its aliases and tags.

    XCom: the model version.

    Raises: missing model, version or alias.

    Privileges: Unity Catalog: EXECUTE on the model. MLflow basic auth: READ.
    Registries: all; by ``alias`` where the registry has aliases.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version; give this or ``alias`` (int or str, templated)
    :param alias: the alias that names the version (str, templated)
    """

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Get the version."""
        from airflow_uc_models.registry.registration import resolve

        version = yield from resolve(registry, self.reference())
        self.log_effect("Read version %s of %s", version.version, version.name)
        self.link_to(context, version.name, version.version)
        return version.to_xcom()


class UpdateModelVersionOperator(ModelVersionOperator):
    """Replace the description of a model version.

    Where the registry has no tags, lines ``airflow_...: ...`` at its end stay, by which tasks know their versions.

    XCom: the model version.

    Raises: missing model, version or alias.

    Privileges: Unity Catalog: MANAGE on the model and EXECUTE, or its ownership. MLflow basic auth: EDIT.
    Registries: all; by ``alias`` where the registry has aliases.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version; give this or ``alias`` (int or str, templated)
    :param alias: the alias that names the version (str, templated)
    :param description: the new description (str, templated)
    """

    template_fields: Sequence[str] = (*ModelVersionOperator.template_fields, "description")

    def __init__(self, *, description: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.description = description

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Update the version."""
        from airflow_uc_models.registry.registration import redescribed, resolve

        registry.check_texts(description=self.description)
        found = yield from resolve(registry, self.reference())
        description = redescribed(registry, found, self.description)
        yield from registry.update_model_version(found.name, found.version, description=description)
        self.log_effect("Updated the description of version %s of %s", found.version, found.name)
        self.link_to(context, found.name, found.version)
        return (yield from registry.get_model_version(found.name, found.version)).to_xcom()


class DownloadModelVersionOperator(ModelVersionOperator):
    """Download the files of a model version into a folder, which is complete or not there.

    The files are fetched into a temporary folder first. A folder that holds a model already is replaced; any other
    folder with files in it is refused.

    XCom: the model version, and ``path``: the folder.

    Raises: missing model, version or alias; a version that is not READY; a destination with other files in it.

    Privileges: Unity Catalog: EXECUTE on the model. MLflow basic auth: READ.
    Registries: all.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version; give this or ``alias`` (int or str, templated)
    :param alias: the alias that names the version (str, templated)
    :param destination: a folder on the worker, or an object-store URI that ObjectStoragePath takes, such as
        ``s3://aws_default@bucket/models/fraud`` (str, templated)
    """

    template_fields: Sequence[str] = (*ModelVersionOperator.template_fields, "destination")

    def __init__(self, *, destination: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination = destination

    def perform(self, context: Context) -> Any:
        """Download the files."""
        from airflow_uc_models.hooks.folders import download_to
        from airflow_uc_models.registry.registration import resolve

        version = self.hook.run(resolve(self.hook.registry, self.reference()))
        path = download_to(self.hook, version, self.destination)
        self.log_effect("Downloaded version %s of %s -> %s", version.version, version.name, path)
        self.link_to(context, version.name, version.version)
        return {**version.to_xcom(), "path": path}


class SearchModelVersionsOperator(ModelOperator):
    """List the versions of a model, newest first.

    XCom: list of model versions, ready for ``.expand``. Aliases are filled in; tags where the registry's search gives
    them or ``tags`` asks for them.

    Raises: missing model.

    Privileges: Unity Catalog: EXECUTE on the model. MLflow basic auth: READ.
    Registries: all; ``tags`` where the registry has tags.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param tags: only versions with these tags (dict, templated)
    :param status: only versions of this status, such as ``READY`` (str, templated)
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "tags", "status")

    def __init__(self, *, tags: Mapping[str, Any] | None = None, status: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tags = tags
        self.status = status

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Search for versions."""
        from airflow_uc_models.registry.base import str_tags
        from airflow_uc_models.registry.retention import search_versions

        name = registry.normalize(self.model_name)
        found = yield from search_versions(registry, name, tags=str_tags(self.tags), status=self.status or None)
        self.log_effect("Found %d versions of %s", len(found), name)
        self.link_to(context, name)
        return [version.to_xcom() for version in found]


class DeleteModelVersionOperator(ModelOperator):
    """Delete one version, or all but the newest. There is no way back.

    With ``version``: refuses a version that an alias points to, unless ``even_if_aliased``; its aliases go with it. A
    retry takes a missing version for its earlier try's work.
    With ``keep_last``: keeps the newest that many READY versions, every version with an alias, and whatever is
    still being registered.

    XCom: ``{"name", "deleted"}``; ``deleted`` lists the versions deleted by this try.

    Raises: missing model or version; a version with an alias.

    Privileges: Unity Catalog: MANAGE on the model and EXECUTE, or its ownership. MLflow basic auth: MANAGE.
    Registries: all.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version to delete (int or str, templated)
    :param keep_last: instead of ``version``: how many versions to keep (int or str, templated)
    :param even_if_aliased: delete ``version`` together with the aliases that point to it (bool)
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "version", "keep_last")

    def __init__(
        self,
        *,
        version: int | str | None = None,
        keep_last: int | str | None = None,
        even_if_aliased: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.keep_last = keep_last
        self.even_if_aliased = even_if_aliased

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Delete the version or the older ones."""
        from airflow_uc_models.registry.retention import delete_older, delete_one

        name = registry.normalize(self.model_name)
        if (self.version is None) == (self.keep_last is None):
            raise InvalidArgumentError("Give version or keep_last, one of the two.")
        if self.keep_last is not None:
            if self.even_if_aliased:
                raise InvalidArgumentError("keep_last always keeps versions with an alias; leave even_if_aliased out.")
            deleted = yield from delete_older(registry, name, parse_version(self.keep_last))
        else:
            number = parse_version(self.version or "")
            options = {"even_if_aliased": self.even_if_aliased, "missing_ok": self.is_retry(context)}
            deleted = yield from delete_one(registry, name, number, **options)
        self.log_effect("Deleted versions of %s: %s", name, ", ".join(map(str, deleted)) or "none")
        self.link_to(context, name)
        gone = deleted or ([parse_version(self.version)] if self.version and self.is_retry(context) else [])
        self.tell(context, MODEL_VERSION_DELETED, name, *({"version": version} for version in gone))
        return {"name": name, "deleted": deleted}
