"""The Spark job of batch inference as one script, for Spark that does not have this package."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines.job import InferenceJob
from airflow_uc_models.engines.spark_plan import JobError
from airflow_uc_models.engines.spark_stores import check_remote_folder
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError

# Each imports only what stands before it.
_MODULES = (
    "../environments/redaction",
    "../environments/frames",
    "spark_types",
    "spark_csv",
    "spark_plan",
    "spark_stores",
    "spark_places",
    "spark_function",
    "spark_job",
)
_PACKAGE = "airflow_uc_models"


def script() -> str:
    """Return the modules' source as one, with ``run(spark, params)`` and ``main()`` in it."""
    sources = [(Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in _MODULES]
    return "from __future__ import annotations\n\n" + "\n\n".join(_without_own_imports(text) for text in sources)


def refuse_remote_folder(job: InferenceJob) -> None:
    """Raise InvalidArgumentError for an output of files that ``run`` could not write over Spark Connect."""
    try:
        check_remote_folder(job)
    except JobError as error:
        raise InvalidArgumentError(str(error)) from None


def params_of(job: InferenceJob, version: ModelVersion) -> dict[str, Any]:
    """Return what ``run`` is told of the job, as plain JSON; where the model is and its packages come is left out."""
    return {
        "input": job.input,
        "input_format": job.input_format,
        "output": job.output,
        **({} if job.csv == CsvOptions() else {"csv": job.csv.to_json()}),
        **({} if job.params is None else {"params": dict(job.params)}),
        "mode": job.mode,
        "partition_by": list(job.partition_by),
        "keep_columns": None if job.keep_columns is None else list(job.keep_columns),
        "metadata": list(job.metadata_columns),
        "model_name": version.name,
        "model_version": version.version,
        "scored_at": job.scored_at.isoformat(),
        "key": job.key,
        "on_bad_rows": job.on_bad_rows,
        "bad_rows_output": job.bad_rows_output,
    }


def _without_own_imports(source: str) -> str:
    """Leave out imports of this package, and the one that may only stand first in a file."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in (_PACKAGE, "__future__"):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    return "\n".join(lines).strip() + "\n"
