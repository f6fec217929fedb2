"""Whether what a job reads and what it replaces are apart, for engines that know places by their names only."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from airflow_uc_models.engines.job import InferenceJob, is_table
from airflow_uc_models.engines.spark_plan import table_parts
from airflow_uc_models.exceptions import InvalidArgumentError

# Several names of one scheme; what has none is below the root of files.
_SCHEMES = {"file": "", "dbfs": "", "s3a": "s3", "s3n": "s3", "abfss": "abfs", "wasbs": "wasb"}


def refuse_overlap(job: InferenceJob) -> None:
    """Raise InvalidArgumentError if an output of the job is its input, lies in it, or has it in itself.

    Otherwise the next run would read its own output, or this one would replace its input.
    """
    source = _steps(job.input)
    for place in (job.output, job.bad_rows_output)[: 1 + job.quarantines]:
        target = _steps(place)
        if source == target:
            raise InvalidArgumentError(f"The output {place} is the input, too. Write elsewhere.")
        if target[: len(source)] == source:
            raise InvalidArgumentError(
                f"The output {place} lies in the input {job.input}: the next run would read it. Write elsewhere."
            )
        if source[: len(target)] == target:
            raise InvalidArgumentError(
                f"The input {job.input} lies in the output {place}, which is the job's to replace. Write elsewhere."
            )


def _steps(place: str) -> tuple[str, ...]:
    """Return the names from the root to a place, in one way of writing them."""
    if is_table(place):
        parts = [part.lower() for part in table_parts(place.strip())]
        return ("table", ".".join(parts[1:] if parts[0] == "spark_catalog" else parts))
    found = re.match(r"([A-Za-z][\w+.-]*):/+", place)
    scheme = found[1].lower() if found else ""
    path = f"/{place[found.end() :]}" if found else str(Path(place).absolute())
    return (f"{_SCHEMES.get(scheme, scheme)}:", *(name for name in posixpath.normpath(path).split("/") if name))
