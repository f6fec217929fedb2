"""Making a version out of a source: register and copy, within one server and between two.

Both look first for the version that an earlier try of the task made, check the source before anything is changed,
and leave nothing half-made: a registered model that only they created goes again if its first version fails.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError, ModelContentError, NotFoundError, UCModelsError
from airflow_uc_models.hooks import artifacts
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.names import LocalSource, LoggedModelSource, ModelRef, ModelSource, RunSource
from airflow_uc_models.registry import registration
from airflow_uc_models.registry.call import Call

log = logging.getLogger(__name__)

COPIED_FROM_TAG = "airflow_copied_from"
COPIED_FROM_REGISTRY_TAG = "airflow_copied_from_registry"
_OWN_TAGS = (registration.TASK_KEY_TAG, COPIED_FROM_TAG, COPIED_FROM_REGISTRY_TAG)


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What the version to be made shall be.

    :param name: the registered model, created where it is missing
    :param key: the task key, carried as a tag
    """

    name: str
    key: str
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Origin:
    """A source that the tracking server knows."""

    source: str
    artifact_uri: str
    run_id: str | None = None
    model_id: str | None = None


def register(
    hook: ModelRegistryHook,
    source: ModelSource,
    new: NewVersion,
    *,
    tracking: ModelRegistryHook | None = None,
    signature_required: bool = True,
) -> ModelVersion:
    """Make a version out of a run's model, a logged model or a local folder.

    :param tracking: where runs and logged models are looked up, if not on the registry's own server
    """
    tracking = tracking or hook
    _check_tags(hook, new)
    if earlier := _earlier(hook, new):
        return earlier
    required = signature_required or hook.registry.capabilities.signature_required
    if isinstance(source, LocalSource):
        _check_signature(artifacts.read_mlmodel(source.path), source.uri, required=required)
        return _create_from_folder(hook, source.path, new)
    origin = _origin(tracking, source)
    mlmodel = artifacts.mlmodel_at(tracking, origin.artifact_uri)
    _check_signature(mlmodel, source.uri, required=required)
    if tracking.endpoint.is_same_server(hook.endpoint):
        return _create(hook, new, source=origin.source, run_id=origin.run_id, model_id=origin.model_id)
    with _downloaded(tracking, origin.artifact_uri) as folder:
        return _create_from_folder(hook, folder, new)


def copy(
    source_hook: ModelRegistryHook,
    reference: ModelRef,
    hook: ModelRegistryHook,
    new: NewVersion,
    *,
    copy_tags: bool | list[str] = True,
) -> ModelVersion:
    """Make a version out of another registered version; ``new.tags`` win over tags that are carried along.

    :param copy_tags: all tags, none, or those with these keys
    """
    _check_tags(hook, new)
    if earlier := _earlier(hook, new):
        return earlier
    version = source_hook.run(registration.resolve(source_hook.registry, reference))
    if not version.is_ready:
        raise InvalidArgumentError(
            f"{version.name}/{version.version} is {version.status}; only READY versions are copied."
        )
    is_same = source_hook.endpoint.is_same_server(hook.endpoint)
    origin_tags = {COPIED_FROM_TAG: version.uri}
    if not is_same:
        origin_tags[COPIED_FROM_REGISTRY_TAG] = source_hook.endpoint.address
    carried = _carried(hook, version, copy_tags)
    new = NewVersion(new.name, new.key, new.description or version.description, {**carried, **origin_tags, **new.tags})
    if is_same:
        return _create(hook, new, source=version.uri)
    uri = source_hook.run(source_hook.registry.get_model_version_download_uri(version.name, version.version))
    with _downloaded(source_hook, uri) as folder:
        return _create_from_folder(hook, folder, new)


def _earlier(hook: ModelRegistryHook, new: NewVersion) -> ModelVersion | None:
    earlier = hook.run(registration.settle(hook.registry, new.name, new.key))
    if earlier:
        log.info("Version %s of %s was made by an earlier try of this task", earlier.version, earlier.name)
    return earlier


def _origin(tracking: ModelRegistryHook, source: RunSource | LoggedModelSource) -> _Origin:
    """Look the source up, as mlflow.register_model does."""
    registry = tracking.registry
    if isinstance(source, LoggedModelSource):
        model = tracking.run(registry.get_logged_model(source.model_id))
        return _Origin(source.uri, model.artifact_uri or "", model.source_run_id, model.model_id)
    run = tracking.run(registry.get_run(source.run_id))
    for model_id in reversed(run.model_ids):
        model = tracking.run(registry.get_logged_model(model_id))
        if model.name == source.path:
            return _Origin(f"models:/{model_id}", model.artifact_uri or "", run.run_id, model_id)
    # Before MLflow 3 a model was a folder among the run's artifacts.
    uri = f"{(run.artifact_uri or '').rstrip('/')}/{source.path}"
    return _Origin(uri, uri, run.run_id)


def _create(hook: ModelRegistryHook, new: NewVersion, **origin: Any) -> ModelVersion:
    registry = hook.registry
    tags = {**new.tags, registration.TASK_KEY_TAG: new.key}

    def create() -> Call[ModelVersion]:
        return registry.create_model_version(new.name, description=new.description, tags=tags, **origin)

    _, made_model = hook.run(registration.ensure_registered_model(registry, new.name, new.key))
    try:
        version, made = hook.run(registration.create_version_once(registry, new.name, new.key, create))
    except BaseException:
        if made_model:
            _drop_quietly(hook, new.name)
        raise
    log.info("%s version %s of %s", "Created" if made else "Found", version.version, version.name)
    return version


def _create_from_folder(hook: ModelRegistryHook, folder: Path, new: NewVersion) -> ModelVersion:
    model_id = artifacts.upload_logged_model(hook, folder, new.name, new.key)
    return _create(hook, new, source=f"models:/{model_id}", model_id=model_id)


def _drop_quietly(hook: ModelRegistryHook, name: str) -> None:
    """Clean up without hiding the error that made it necessary."""
    try:
        hook.run(registration.drop_if_empty(hook.registry, name))
    except UCModelsError as error:
        log.warning("Registered model %s was left empty: %s", name, error)


@contextmanager
def _downloaded(hook: ModelRegistryHook, artifact_uri: str) -> Generator[Path, None, None]:
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        yield artifacts.download_files(hook, artifact_uri, Path(folder))


def _check_tags(hook: ModelRegistryHook, new: NewVersion) -> None:
    if new.tags:
        hook.registry.tag_rules().check(new.tags)


def _check_signature(mlmodel: Mapping[str, Any], source: str, *, required: bool) -> None:
    signature = mlmodel.get("signature") or {}
    missing = [part for part in ("inputs", "outputs") if not signature.get(part)]
    if not missing:
        return
    what = "no signature" if len(missing) == 2 else f"a signature without {missing[0]}"
    advice = "log it with signature=infer_signature(inputs, outputs) or an input_example"
    if required:
        raise ModelContentError(f"The model at {source} has {what}; {advice}. Unity Catalog takes no model without.")
    log.warning("The model at %s has %s; Unity Catalog would not take it: %s", source, what, advice)


def _carried(hook: ModelRegistryHook, version: ModelVersion, copy_tags: bool | list[str]) -> dict[str, str]:
    """Return the tags to carry along; those that the destination's rules forbid are left out, and told."""
    if copy_tags is False:
        return {}
    wanted = set(version.tags) if copy_tags is True else set(copy_tags)
    if missing := wanted - set(version.tags):
        raise NotFoundError(f"{version.name}/{version.version} has no tag {', '.join(map(repr, sorted(missing)))}.")
    carried = {}
    for key in sorted(wanted - set(_OWN_TAGS)):
        try:
            hook.registry.tag_rules().check({key: version.tags[key]})
        except InvalidArgumentError as error:
            log.warning("Tag %r is not carried along: %s", key, error)
        else:
            carried[key] = version.tags[key]
    return carried
