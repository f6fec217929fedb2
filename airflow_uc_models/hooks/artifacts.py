"""Models as files: read, download, upload, load."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import ModelContentError, NotFoundError, TakenOverError
from airflow_uc_models.hooks import model_files
from airflow_uc_models.hooks.mlflow_session import mlflow_errors, mlflow_session, renew_session
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry.registration import TASK_KEY_TAG
from airflow_uc_models.scratch import scratch_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLMODEL = "MLmodel"
# As many as MLflow takes at once.
_MOST_METRICS = 1_000


def version_mlmodel(hook: ModelRegistryHook, version: ModelVersion) -> dict[str, Any]:
    """Return the parsed MLmodel file of a version; ModelContentError if there is none."""
    if not hook.registry.capabilities.uploads:
        uri = hook.run(hook.registry.get_model_version_download_uri(version.name, version.version))
        return mlmodel_at(hook, uri)
    with scratch_folder("mlmodel") as folder:
        try:
            model_files.download(hook, version, folder, MLMODEL)
        except NotFoundError as error:
            raise ModelContentError(f"{_no_mlmodel(version.uri, is_empty=False)} ({error})") from None
        return read_mlmodel(folder, version.uri)


def mlmodel_at(hook: ModelRegistryHook, artifact_uri: str) -> dict[str, Any]:
    """Return the parsed MLmodel file below an artifact URI of the hook's server."""
    with mlflow_session(hook) as tracking_uri, mlflow_errors(f"read {MLMODEL} of {artifact_uri}", hook.endpoint):
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
        model_files.renewing(repository, partial(renew_session, hook.endpoint))
        names = {item.path for item in repository.list_artifacts()}
        if MLMODEL not in names:
            raise ModelContentError(_no_mlmodel(artifact_uri, is_empty=not names))
        with scratch_folder("mlmodel") as folder:
            return read_mlmodel(Path(repository.download_artifacts(MLMODEL, str(folder))).parent, artifact_uri)


def version_size(hook: ModelRegistryHook, version: ModelVersion) -> int | None:
    """Return the bytes of all files of a version; None if the server does not tell them of each file."""
    if hook.registry.capabilities.uploads:
        sizes = model_files.sizes(hook, version)
    else:
        uri = hook.run(hook.registry.get_model_version_download_uri(version.name, version.version))
        with mlflow_session(hook) as tracking_uri, mlflow_errors(f"list the files of {uri}", hook.endpoint):
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            sizes = model_files.remote_sizes(get_artifact_repository(uri, tracking_uri=tracking_uri))
    # An MLmodel file is never empty: a server that says so tells no sizes.
    known = [size for size in sizes.values() if size is not None]
    return sum(known) if sizes.get(MLMODEL) and len(known) == len(sizes) else None


def log_texts(hook: ModelRegistryHook, run_id: str, folder: str, texts: Mapping[str, str], *, action: str) -> None:
    """Write text files into a folder of a run's artifacts, over those of an earlier try.

    :param action: what is done, for the error
    """
    with (
        scratch_folder("artifacts") as local,
        mlflow_session(hook),
        mlflow_errors(action, hook.endpoint),
    ):
        from mlflow import MlflowClient

        for name, text in texts.items():
            (local / name).write_text(text, encoding="utf-8")
        MlflowClient().log_artifacts(run_id, str(local), folder)


def log_metrics(
    hook: ModelRegistryHook, run_id: str, metrics: Mapping[str, float], model_id: str | None, *, action: str
) -> None:
    """Log metrics to a run and, if there is one, to its logged model.

    :param action: what is done, for the error
    """
    with mlflow_session(hook), mlflow_errors(action, hook.endpoint):
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        logged = [Metric(name, value, now, 0, model_id=model_id) for name, value in metrics.items()]
        client = MlflowClient()
        for first in range(0, len(logged), _MOST_METRICS):
            client.log_batch(run_id, metrics=logged[first : first + _MOST_METRICS])


def read_mlmodel(folder: Path, label: str | None = None) -> dict[str, Any]:
    """Return the parsed MLmodel file of a local model folder.

    :param label: how messages name the model; by default as the folder
    """
    import yaml

    if not folder.is_dir():
        raise ModelContentError(f"{folder} is not a folder on this worker; a model folder with an {MLMODEL} is needed.")
    file, label = folder / MLMODEL, label or str(folder)
    if not file.is_file():
        raise ModelContentError(_no_mlmodel(label, is_empty=not any(folder.iterdir())))
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelContentError(f"{MLMODEL} of {label} is not readable YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("flavors"), dict) or not content["flavors"]:
        raise ModelContentError(f"{MLMODEL} of {label} names no flavor; it was not written by mlflow.")
    return content


def download_version(hook: ModelRegistryHook, version: ModelVersion, destination: Path) -> Path:
    """Download all files of a version into a folder, which is made; returns the folder that holds MLmodel."""
    if not hook.registry.capabilities.uploads:
        uri = hook.run(hook.registry.get_model_version_download_uri(version.name, version.version))
        return download_files(hook, uri, destination)
    destination.mkdir(parents=True, exist_ok=True)
    model_files.download(hook, version, destination)
    return _checked(destination, version.uri)


def download_files(hook: ModelRegistryHook, artifact_uri: str, destination: Path) -> Path:
    """Download a model's files from an artifact URI of the hook's server."""
    destination.mkdir(parents=True, exist_ok=True)
    with mlflow_session(hook) as tracking_uri, mlflow_errors(f"download {artifact_uri}", hook.endpoint):
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
        model_files.renewing(repository, partial(renew_session, hook.endpoint))
        return _checked(Path(repository.download_artifacts("", str(destination))), artifact_uri)


def _checked(folder: Path, source: str) -> Path:
    # mlflow adds this file about where it downloaded from; it is no part of the model.
    (folder / "registered_model_meta").unlink(missing_ok=True)
    if not (folder / MLMODEL).is_file():
        raise ModelContentError(_no_mlmodel(source, is_empty=not any(folder.iterdir())))
    return folder


def upload_logged_model(hook: ModelRegistryHook, folder: Path, name: str, key: str) -> str:
    """Store a local model folder on an MLflow server as a logged model and return its id.

    A server takes no version whose source it cannot vouch for, so a folder becomes a logged model first.

    :param name: the registered model it is for; names the experiment, too
    :param key: the task key; an upload that an earlier try finished is used again, an unfinished one is deleted
    """
    with mlflow_session(hook), mlflow_errors(f"upload {folder}", hook.endpoint):
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment_id = _experiment(client, f"airflow_uc_models/{name}")
        earlier = client.search_logged_models([experiment_id], filter_string=f"tags.{TASK_KEY_TAG} = '{key}'")
        for model in earlier:
            if str(model.status) == "READY":
                return str(model.model_id)
            client.delete_logged_model(model.model_id)
        short_name = name.rpartition(".")[2].translate(str.maketrans("/:.%\"'", "______"))
        made = client.create_logged_model(experiment_id, name=short_name, tags={TASK_KEY_TAG: key})
        try:
            client.log_model_artifacts(made.model_id, str(folder))
            client.finalize_logged_model(made.model_id, "READY")
        except BaseException as error:
            if isinstance(error, Exception) and not _is_there(client, made.model_id):
                return _of_other_try(client, experiment_id, key, str(made.model_id))
            with suppress(Exception):
                client.delete_logged_model(made.model_id)
            raise
        return str(made.model_id)


def delete_logged_model(hook: ModelRegistryHook, model_id: str) -> None:
    """Delete a logged model of which no version was made."""
    with mlflow_session(hook), mlflow_errors(f"delete logged model {model_id}", hook.endpoint):
        from mlflow import MlflowClient

        MlflowClient().delete_logged_model(model_id)


def _is_there(client: MlflowClient, model_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_logged_model(model_id)
    except MlflowException as error:
        return bool(error.error_code != "RESOURCE_DOES_NOT_EXIST")
    return True


def _of_other_try(client: MlflowClient, experiment_id: str, key: str, model_id: str) -> str:
    """Return the logged model that another try of the same task finished; raise if it has not finished yet."""
    found = client.search_logged_models([experiment_id], filter_string=f"tags.{TASK_KEY_TAG} = '{key}'")
    for model in found:
        if str(model.status) == "READY":
            return str(model.model_id)
    others = ", ".join(str(model.model_id) for model in found) or "still to come"
    raise TakenOverError(
        f"Logged model {model_id} is not finished: another try of this task runs at the same time and has deleted it, "
        f"to make its own instead: {others}."
    )


def check_for_upload(folder: Path) -> list[dict[str, str]]:
    """Return what a model depends on in a workspace; refuse one that a registry with files of its own can't hold.

    That is a transformers model which refers to the Hugging Face Hub instead of having its weights, and, by mlflow's
    own rule, one that the Databricks Feature Store packaged.
    """
    mlmodel = read_mlmodel(folder)
    transformers = mlmodel["flavors"].get("transformers")
    if transformers and "source_model_revision" in transformers and not any((folder / "model").glob("*")):
        raise ModelContentError(
            f"The transformers model in {folder} was logged without its weights (save_pretrained=False). Fetch them "
            "with mlflow.transformers.persist_pretrained_model first."
        )
    loader = (mlmodel["flavors"].get("python_function") or {}).get("loader_module")
    if loader == "databricks.feature_store.mlflow_model":  # mlflow.models.model._DATABRICKS_FS_LOADER_MODULE
        raise ModelContentError(
            f"The model in {folder} was packaged by the Databricks Feature Store; it can only be registered on a "
            "Databricks cluster."
        )
    if not mlmodel.get("resources") and not mlmodel.get("auth_policy"):
        return []  # mlflow's own look may ask a tracking server for the logged model
    from mlflow.store._unity_catalog.registry.rest_store import get_model_version_dependencies

    return list(get_model_version_dependencies(str(folder)))


def _experiment(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # somebody else was faster
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _no_mlmodel(where: str, *, is_empty: bool) -> str:
    found = "is empty" if is_empty else f"holds no {MLMODEL} file"
    return f"{where} {found}; it is not a model that mlflow wrote."
