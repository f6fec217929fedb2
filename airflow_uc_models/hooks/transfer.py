"""Making a version out of a source: register and copy, within one server and between two.

Both look first for the version that an earlier try of the task made, check the source before anything is changed,
and leave nothing half-made: a registered model that only they created goes again if its first version fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow_uc_models.entities import PENDING_REGISTRATION, ModelVersion
from airflow_uc_models.exceptions import (
    ConflictError,
    InvalidArgumentError,
    ModelContentError,
    ModelVersionFailedError,
    NotFoundError,
    TakenOverError,
)
from airflow_uc_models.hooks import artifacts
from airflow_uc_models.hooks.earlier_tries import EarlierTries, Memory
from airflow_uc_models.hooks.lineage import lineage_headers, note_on_logged_model
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.uploads import clean_quietly, upload
from airflow_uc_models.names import LocalSource, LoggedModelSource, ModelRef, ModelSource, RunSource
from airflow_uc_models.registry import registration
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.comments import COPIED_FROM_REGISTRY_TAG, COPIED_FROM_TAG, OWN_TAGS
from airflow_uc_models.registry.lineage import with_headers
from airflow_uc_models.scratch import scratch_folder

log = logging.getLogger(__name__)

_TRIES = 3  # where a version number can turn out to be somebody else's, too


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What the version to be made shall be.

    :param name: the registered model, created where it is missing
    :param key: the task key, carried as a tag
    :param since: milliseconds since the epoch before which no try of the task can have made a version
    :param is_first: this is the first try of the task
    :param memory: what the tries of the task know of each other
    """

    name: str
    key: str
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    since: int = 0
    is_first: bool = False
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where the files come from, as the version will say.

    :param run_id: the run, where the registry can look it up; the same goes for ``model_id``
    """

    source: str
    artifact_uri: str = ""
    run_id: str | None = None
    model_id: str | None = None
    workspace_id: str | None = None


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
    _check_texts(hook, new, source.uri if isinstance(source, LocalSource) else "")
    is_same = tracking.endpoint.is_same_server(hook.endpoint)
    has_run = is_same or hook.registry.capabilities.keeps_run_ids
    tries = _earlier_tries(hook, new, _came_from(source, has_run=has_run))
    if earlier := _earlier(tries):
        return earlier
    required = signature_required or hook.registry.capabilities.signature_required
    if isinstance(source, LocalSource):
        _check_signature(artifacts.read_mlmodel(source.path), source.uri, required=required)
        return _create_from_folder(hook, source.path, new, _Origin(source.uri), tries)
    origin = _as_known(hook, _origin(tracking, source), is_same=is_same)
    _check_texts(hook, new, origin.source)
    mlmodel = artifacts.mlmodel_at(tracking, origin.artifact_uri)
    _check_signature(mlmodel, source.uri, required=required)
    if is_same and not hook.registry.capabilities.uploads:
        return _create(hook, new, origin)
    with scratch_folder("model") as folder:
        files = artifacts.download_files(tracking, origin.artifact_uri, folder)
        return _create_from_folder(hook, files, new, origin, tries)


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
    _check_texts(hook, new)
    if reference.alias is not None:
        source_hook.registry.expect_aliases()
    if not isinstance(copy_tags, bool) and copy_tags:
        hook.registry.tag_rules("Leave out copy_tags.")
    tries = _earlier_tries(hook, new, _copied_from(source_hook.registry.normalize(reference.name), reference.version))
    if earlier := _earlier(tries):
        return earlier
    version = source_hook.run(registration.resolve(source_hook.registry, reference))
    if version.status == PENDING_REGISTRATION:  # a retry of the task may find it READY
        raise ConflictError(f"{version.name}/{version.version} is {version.status}; only READY versions are copied.")
    if not version.is_ready:
        raise ModelVersionFailedError(f"{version.name}/{version.version} is {version.status}; it cannot be copied.")
    is_same = source_hook.endpoint.is_same_server(hook.endpoint)
    origin_tags = {COPIED_FROM_TAG: version.uri}
    if not is_same:
        origin_tags[COPIED_FROM_REGISTRY_TAG] = source_hook.endpoint.address
    carried = _carried(hook, version, copy_tags)
    carried = _as_many_as_fit(hook, carried, {**origin_tags, **new.tags})
    new = replace(new, description=new.description or version.description, tags={**carried, **origin_tags, **new.tags})
    origin = _as_known(hook, _Origin(version.uri, "", version.run_id, version.model_id), is_same=is_same)
    _check_texts(hook, new, origin.source)
    if is_same and not hook.registry.capabilities.uploads:
        # The server checks the run, and finds the logged model behind the version itself.
        return _create(hook, new, replace(origin, model_id=None))
    if hook.registry.capabilities.signature_required and not source_hook.registry.capabilities.signature_required:
        _check_signature(artifacts.version_mlmodel(source_hook, version), version.uri, required=True)
    with scratch_folder("model") as folder:
        files = artifacts.download_version(source_hook, version, folder)
        return _create_from_folder(hook, files, new, origin, tries)


def _earlier_tries(hook: ModelRegistryHook, new: NewVersion, may_be: Callable[[ModelVersion], bool]) -> EarlierTries:
    return EarlierTries(
        hook, new.name, new.key, since=new.since, is_first=new.is_first, memory=new.memory, may_be=may_be
    )


def _came_from(source: ModelSource, *, has_run: bool) -> Callable[[ModelVersion], bool]:
    """Return whether a listed version can be made from a source; where a list does not say, it can.

    :param has_run: the version has the run's id, if it is from one
    """
    if isinstance(source, RunSource):  # whose files may be those of a logged model
        run_id = source.run_id if has_run else None
        return lambda version: version.run_id in (None, "", run_id)
    return lambda version: version.source in (None, "", source.uri)


def _copied_from(name: str, version: int | None) -> Callable[[ModelVersion], bool]:
    """Return whether a listed version can be a copy of a version, or of any one of a model."""
    start = f"models:/{name}/"
    uri = f"{start}{version}" if version is not None else None
    return lambda listed: not listed.source or (listed.source == uri if uri else listed.source.startswith(start))


def _earlier(tries: EarlierTries) -> ModelVersion | None:
    earlier = tries.settle()
    if earlier:
        log.info("Version %s of %s was made by an earlier try of this task", earlier.version, earlier.name)
    return earlier


def _origin(tracking: ModelRegistryHook, source: RunSource | LoggedModelSource) -> _Origin:
    """Look the source up, as mlflow.register_model does."""
    registry = tracking.registry
    if isinstance(source, LoggedModelSource):
        model = tracking.run(registry.get_logged_model(source.model_id))
        return _Origin(source.uri, model.artifact_uri or "", model.source_run_id, model.model_id, model.workspace_id)
    run = tracking.run(registry.get_run(source.run_id))
    for model_id in reversed(run.model_ids):
        model = tracking.run(registry.get_logged_model(model_id))
        if model.name == source.path:
            return _Origin(f"models:/{model_id}", model.artifact_uri or "", run.run_id, model_id, run.workspace_id)
    # Before MLflow 3 a model was a folder among the run's artifacts.
    uri = f"{(run.artifact_uri or '').rstrip('/')}/{source.path}"
    return _Origin(uri, uri, run.run_id, None, run.workspace_id)


def _as_known(hook: ModelRegistryHook, origin: _Origin, *, is_same: bool) -> _Origin:
    """Return what may be said of an origin to a registry that is perhaps another server than the origin's."""
    if is_same:
        return origin
    run_id = origin.run_id if hook.registry.capabilities.keeps_run_ids else None
    return _Origin(origin.source, origin.artifact_uri, run_id)


def _create_call(
    hook: ModelRegistryHook, new: NewVersion, origin: _Origin, dependencies: Sequence[Mapping[str, str]] = ()
) -> Callable[[], Call[ModelVersion]]:
    description, tags = registration.keyed(hook.registry, new.key, new.description, new.tags)
    headers = lineage_headers(hook, origin.run_id)

    def once() -> Call[ModelVersion]:
        call = hook.registry.create_model_version(
            new.name,
            origin.source,
            run_id=origin.run_id,
            description=description,
            tags=tags,
            model_id=origin.model_id,
            dependencies=dependencies,
            run_workspace_id=origin.workspace_id,
        )
        return with_headers(call, headers) if headers else call

    def create() -> Call[ModelVersion]:
        try:
            return (yield from once())
        except NotFoundError:
            # Another try of this task, whose version failed, may have taken the model away that it had made.
            yield from registration.ensure_registered_model(hook.registry, new.name, new.key)
            return (yield from once())

    return create


def _create(hook: ModelRegistryHook, new: NewVersion, origin: _Origin) -> ModelVersion:
    """Make a version that refers to files which the server can reach."""
    create = _create_call(hook, new, origin)
    with _model_ensured(hook, new):
        version, made = hook.run(registration.create_version_once(hook.registry, new.name, new.key, create))
    log.debug("%s version %s of %s", "Created" if made else "Found", version.version, version.name)
    return version


def _create_from_folder(
    hook: ModelRegistryHook, folder: Path, new: NewVersion, origin: _Origin, tries: EarlierTries
) -> ModelVersion:
    if not hook.registry.capabilities.uploads:
        model_id = artifacts.upload_logged_model(hook, folder, new.name, new.key)
        version = _create(hook, new, _Origin(f"models:/{model_id}", model_id=model_id))
        if version.model_id not in (None, model_id):
            log.info("Deleting logged model %s: another try of this task made %s", model_id, version.uri)
            artifacts.delete_logged_model(hook, model_id)
        return version
    create = _create_call(hook, new, origin, artifacts.check_for_upload(folder))
    with _model_ensured(hook, new):
        version = _uploaded_once(hook, folder, create, tries)
    note_on_logged_model(hook, origin.model_id, version)
    return version


def _uploaded_once(
    hook: ModelRegistryHook, folder: Path, create: Callable[[], Call[ModelVersion]], tries: EarlierTries
) -> ModelVersion:
    for tries_left in reversed(range(1 if hook.registry.capabilities.unique_versions else _TRIES)):
        pending = tries.create(create)
        try:
            return upload(hook, folder, pending, tries)
        except TakenOverError as lost:
            if not (finished := tries.finished(pending)):
                raise
            log.warning("%s It is %s", lost, finished.uri)
            return finished
        except ConflictError as error:
            if not tries_left:
                raise
            log.warning("Making another version: %s", error)
    raise AssertionError("unreachable")


@contextmanager
def _model_ensured(hook: ModelRegistryHook, new: NewVersion) -> Generator[None, None, None]:
    """Create the registered model where it is missing; it goes again if its first version fails.

    It stays where another try of this task makes the version.
    """
    _, made = hook.run(registration.ensure_registered_model(hook.registry, new.name, new.key))
    try:
        yield
    except BaseException as error:
        if made and not isinstance(error, TakenOverError):
            clean_quietly(hook, registration.drop_if_empty(hook.registry, new.name), new.name)
        raise


def _check_tags(hook: ModelRegistryHook, new: NewVersion) -> None:
    if new.tags:
        hook.registry.tag_rules().check(new.tags)


def _check_texts(hook: ModelRegistryHook, new: NewVersion, source: str = "") -> None:
    """Raise for texts that the registry would refuse as too long, before anything is made or moved."""
    registration.keyed(hook.registry, new.key, new.description, new.tags)
    hook.registry.check_texts(source=source)


def _check_signature(mlmodel: Mapping[str, Any], source: str, *, required: bool) -> None:
    signature = mlmodel.get("signature") or {}
    missing = [part for part in ("inputs", "outputs") if not signature.get(part)]
    if not missing:
        return
    what = "no signature" if len(missing) == 2 else f"a signature without {missing[0]}"
    advice = "log it with signature=infer_signature(inputs, outputs) or an input_example"
    if required:
        raise ModelContentError(f"The model at {source} has {what}; {advice}.")
    log.warning("The model at %s has %s; Unity Catalog would not take it: %s", source, what, advice)


def _carried(hook: ModelRegistryHook, version: ModelVersion, copy_tags: bool | list[str]) -> dict[str, str]:
    """Return the tags to carry along; those that the destination's rules forbid are left out, and told."""
    if copy_tags is False:
        return {}
    wanted = set(version.tags) if copy_tags is True else set(copy_tags)
    if missing := wanted - set(version.tags):
        raise NotFoundError(f"{version.name}/{version.version} has no tag {', '.join(map(repr, sorted(missing)))}.")
    if hook.registry.capabilities.tags is None and wanted:
        log.warning("The %s has no tags; not carried along: %s", hook.registry.capabilities.label, sorted(wanted))
        return {}
    carried = {}
    for key in sorted(wanted - set(OWN_TAGS)):
        try:
            hook.registry.tag_rules().check({key: version.tags[key]})
        except InvalidArgumentError as error:
            log.warning("Tag %r is not carried along: %s", key, error)
        else:
            carried[key] = version.tags[key]
    return carried


def _as_many_as_fit(hook: ModelRegistryHook, carried: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Leave out, and tell, the carried tags for which the destination has no room beside its own and the task key."""
    most = hook.registry.capabilities.tags.max_per_object if hook.registry.capabilities.tags else None
    keys = sorted(set(carried) - set(own))
    room = len(keys) if most is None else max(0, most - len(own) - 1)
    if left_out := keys[room:]:
        log.warning("At most %s tags are possible; not carried along: %s", most, ", ".join(left_out))
    return {key: carried[key] for key in keys[:room]}
