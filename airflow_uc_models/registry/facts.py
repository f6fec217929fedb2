"""What a registry and its tracking server know of a version that promotion rules ask for: its metrics and champion.

MLflow keeps metrics on the run and, since MLflow 3, on the logged model. The logged model's count first. Two faults
of MLflow must not open a gate:

* A run's metrics cannot be told apart by model; where a run logged several models they prove nothing about one.
* A logged model answers 0.0 for a metric that was logged as NaN (seen on MLflow 3.17; its run answers NaN), and an
  error of 0 would pass. So a 0.0 counts only if the run says so, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from airflow_uc_models.entities import LoggedModel, ModelVersion, Run
from airflow_uc_models.exceptions import InvalidArgumentError, NotFoundError
from airflow_uc_models.names import parse_alias
from airflow_uc_models.registry import wire
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call

# A missing model or alias is a first promotion; a missing schema is a slip in the name.
NO_SCHEMA = {
    "METASTORE_DOES_NOT_EXIST",
    "CATALOG_DOES_NOT_EXIST",
    "SCHEMA_DOES_NOT_EXIST",
    "CATALOG_NOT_FOUND",
    "SCHEMA_NOT_FOUND",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version came from, as far as the server still knows.

    :param model_id: the logged model behind the version
    :param metrics: newest value by metric name
    :param looked_in: where the metrics were looked for, in words
    :param run_id: the run, if the server has it
    :param has_model: the server has the logged model, too
    :param made_at: milliseconds since the epoch when the model was made: a copy is as old as its original
    """

    model_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    looked_in: str = "any run or logged model, as the version has none"
    run_id: str | None = None
    has_model: bool = False
    made_at: int | None = None


def champion_of(registry: Registry, name: str, alias: str) -> Call[ModelVersion | None]:
    """Return the version that an alias points to, None if there is no such model or alias yet.

    Raises: InvalidArgumentError if the model has the alias in other letter case; that is a slip, not a missing one.
    """
    registry.expect_aliases()
    alias = parse_alias(alias)
    try:
        model = yield from registry.get_registered_model(name)
    except NotFoundError as error:
        if error.error_code in NO_SCHEMA:
            raise
        return None
    if alias in model.aliases:
        return (yield from registry.get_model_version(name, model.aliases[alias]))
    if similar := [other for other in model.aliases if other.casefold() == alias.casefold()]:
        raise InvalidArgumentError(
            f"{name} has no alias {alias!r}, but {similar[0]!r}: letter case counts. Correct champion_alias."
        )
    return None


def origin_of(registry: Registry, version: ModelVersion) -> Call[Origin]:
    """Return the logged model behind a version, and the metrics of it and of its run."""
    run = yield from _run(registry, version.run_id)
    model_id = yield from _model_id(registry, version, run)
    model = yield from _logged_model(registry, model_id)
    if run is None and model is not None and model.source_run_id:
        run = yield from _run(registry, model.source_run_id)
    metrics, doubtful = _metrics(model, run)
    looked_in = _words(version, model_id, model, run) or Origin().looked_in
    if doubtful:
        looked_in += f", but {', '.join(doubtful)} as 0 on the logged model alone, where MLflow turns NaN into 0"
    times = [version.created_at, model.created_at if model else None, run.started_at if run else None]
    made_at = min((time for time in times if time is not None), default=None)
    return Origin(model_id, metrics, looked_in, run.run_id if run else None, model is not None, made_at)


def _metrics(model: LoggedModel | None, run: Run | None) -> tuple[dict[str, float], list[str]]:
    """Return the metrics, and the names of those that a logged model gives as 0 without its run's word for it."""
    metrics = dict(run.metrics) if run and len(run.model_ids) <= 1 else {}
    doubtful = []
    for key, value in (model.metrics if model else {}).items():
        seen = metrics.get(key)
        if value != 0.0 or seen == 0.0:
            metrics[key] = value
        elif seen is None or not math.isnan(seen):
            metrics.pop(key, None)
            doubtful.append(key)
    return metrics, doubtful


def _words(version: ModelVersion, model_id: str | None, model: LoggedModel | None, run: Run | None) -> str:
    looked = []
    if model_id:
        looked.append(f"logged model {model_id}" + ("" if model else " (which this server does not have)"))
    if run:
        several = " (which logged several models, so give model_id to log_metric)" if len(run.model_ids) > 1 else ""
        looked.append(f"run {run.run_id}{several}")
    elif version.run_id:
        looked.append(f"run {version.run_id} (which this server does not have)")
    return " or ".join(looked)


def _run(registry: Registry, run_id: str | None) -> Call[Run | None]:
    if not run_id:
        return None
    try:
        return (yield from registry.get_run(run_id))
    except NotFoundError:
        return None


def _logged_model(registry: Registry, model_id: str | None) -> Call[LoggedModel | None]:
    if not model_id:
        return None
    try:
        return (yield from registry.get_logged_model(model_id))
    except NotFoundError:
        return None


def _model_id(registry: Registry, version: ModelVersion, run: Run | None) -> Call[str | None]:
    """Find the logged model: an MLflow server keeps it in the version's source, of which a copy has another."""
    if version.model_id:
        return version.model_id
    if found := wire.logged_model_id_of_files(version.source):
        return found
    if (version.source or "").startswith("models:/"):
        uri = yield from registry.get_model_version_download_uri(version.name, version.version)
        if found := wire.logged_model_id_of_files(uri):
            return found
    return run.model_ids[0] if run and len(run.model_ids) == 1 else None
