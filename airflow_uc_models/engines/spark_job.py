"""The Spark job of batch inference: score a table or files with a model, and put the result in place as a whole.

Joined with the modules that it imports from this package, this is the script that runs on Databricks (see
spark_script.py). On Spark Connect and serverless compute it uses DataFrames and SQL only.

In the environment of Spark, the model predicts in a function of this package: it gives the model the values that the
engine ``local`` does, tells of errors without values, halves a batch that fails until the bad rows are alone, and takes
the model from an archive that Spark brings to its workers. Elsewhere, and on Databricks, ``mlflow.pyfunc.spark_udf``
predicts.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from airflow_uc_models.engines.spark_csv import charsets
from airflow_uc_models.engines.spark_function import Given, bring_model, predicting
from airflow_uc_models.engines.spark_places import Places, is_remote, places_of
from airflow_uc_models.engines.spark_plan import BROKEN, REASON, JobError, Params, Plan, open_input, tick
from airflow_uc_models.environments.redaction import safe_text

_GIVEN = "__given_"
_MOST_REASON = 1_000


def main() -> None:
    """Score as the first argument says, a JSON object of Params; the last line of output is the result, as JSON."""
    from pyspark.sql import SparkSession

    print(json.dumps(run(SparkSession.builder.getOrCreate(), json.loads(sys.argv[1]))))  # noqa: T201


def run(spark: Any, params: Mapping[str, Any]) -> dict[str, int]:
    """Score, and return the numbers of rows written and of bad rows put aside."""
    job = Params(**params)
    with charsets(spark, job.csv):
        return _run(spark, job)


def _run(spark: Any, job: Params) -> dict[str, int]:
    places = places_of(spark, job)
    plan = Plan.of(job, open_input(spark, job.input, job.input_format, job.csv))
    for output in _outputs(job):
        places.recover(output)
    try:
        good, bad = _scored(spark, plan, places)
        if bad is not None:
            places.check(bad, _outputs(job)[1])  # before the output is replaced
        rows = places.replace(good, job.output)
        if bad is None:
            return {"rows": rows, "bad_rows": 0}
        bad_output = _outputs(job)[1]
        if bad.isEmpty():
            places.remove(bad_output)
            return {"rows": rows, "bad_rows": 0}
        return {"rows": rows, "bad_rows": places.replace(bad, bad_output)}
    finally:
        places.close()


def clean(spark: Any, params: Mapping[str, Any]) -> None:
    """Remove what an unfinished job of these parameters has written."""
    job = Params(**params)
    places = places_of(spark, job)
    for output in _outputs(job):
        places.recover(output)


def _outputs(job: Params) -> tuple[str, ...]:
    return (job.output, job.bad_rows_output or f"{job.output}_bad_rows") if job.quarantines else (job.output,)


def _scored(spark: Any, plan: Plan, places: Places) -> tuple[Any, Any]:
    """Return the rows of the output, and the bad ones if they are put aside."""
    from pyspark.sql import functions as F  # noqa: N812

    job, frame, reason = plan.job, plan.source.frame, plan.reason
    kept = [frame[tick(name)] for name in plan.kept]
    if not job.quarantines:
        fits = F.when(reason.isNull(), F.lit(True)).otherwise(F.raise_error(reason).cast("boolean"))
        frame = frame.where(fits)
        return _described(plan, _predicted(spark, plan, frame)), None
    bad = frame.where(reason.isNotNull()).select(*kept, reason.alias(REASON))
    frame = frame.where(reason.isNull())
    if not _predicts_here(spark, plan):
        _refuse_only_bad(frame, bad)
        return _described(plan, _predicted(spark, plan, frame)), bad
    every = places.draft(_predicted(spark, plan, frame, aside=True))
    good = every.where(every[REASON].isNull()).drop(REASON)
    failed = every.where(every[REASON].isNotNull())
    as_read = [failed[tick(name)].cast(bad.schema[name].dataType).alias(name) for name in plan.kept]
    bad = bad.unionByName(failed.select(*as_read, REASON))
    _refuse_only_bad(good, bad)
    return _described(plan, good), bad


def _refuse_only_bad(good: Any, bad: Any) -> None:
    """Raise JobError if there are rows and none can be scored: then it is no matter of single rows."""
    if good.isEmpty() and (first := bad.head()) is not None:
        told = safe_text(first[REASON], list(first.asDict().values())[:-1], bad.columns)
        raise JobError(f"None of the {bad.count():,} rows of the input could be scored. The first one: {told}")


def _described(plan: Plan, frame: Any) -> Any:
    """Add what tells of the rows' origin."""
    from pyspark.sql import functions as F  # noqa: N812

    job = plan.job
    columns = {
        "model_name": F.lit(job.model_name),
        "model_version": F.lit(job.model_version).cast("bigint"),
        "scored_at": F.lit(job.scored_at).cast("timestamp"),
    }
    return frame.withColumns({name: columns[name] for name in job.metadata}) if job.metadata else frame


def _predicted(spark: Any, plan: Plan, frame: Any, *, aside: bool = False) -> Any:
    """Return the kept columns with the predictions.

    :param aside: with a column that says why the model failed on the row, too
    """
    if plan.job.score_batch:
        return _by_feature_store(plan, frame)
    if _predicts_here(spark, plan):
        return _by_function(spark, plan, frame, aside=aside)
    return _by_udf(spark, plan, frame)


def _predicts_here(spark: Any, plan: Plan) -> bool:
    """Whether this module's own function predicts, and not mlflow's."""
    if plan.job.score_batch or "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return False
    if (plan.job.env_manager or "local") == "local":
        # A model that is not here is brought to the workers by mlflow.
        return plan.job.quarantines or is_remote(spark) or plan.job.model_path is not None
    if is_remote(spark):
        raise JobError(
            f"Over Spark Connect, env_manager={plan.job.env_manager!r} is not possible: the model runs in the "
            "environment of the cluster. Leave it out, or use engine='databricks'."
        )
    return False


def _by_udf(spark: Any, plan: Plan, frame: Any) -> Any:
    import mlflow.pyfunc
    from pyspark.sql import functions as F  # noqa: N812
    from pyspark.sql.types import StructField, StructType

    names = [name for name, _ in plan.results]
    kind = plan.results[0][1] if len(names) == 1 else StructType([StructField(*pair) for pair in plan.results])
    predict = mlflow.pyfunc.spark_udf(
        spark,
        plan.job.uri,
        result_type=kind,
        env_manager=plan.job.env_manager or "local",
        params=None if plan.job.params is None else dict(plan.job.params),
    )
    given = F.struct(*(value.alias(name) for name, value in plan.values.items()))
    scored = frame.select(*plan.outputs, predict(given).alias(_GIVEN))
    found = {name: F.col(_GIVEN) if len(names) == 1 else F.col(f"{_GIVEN}.{tick(name)}") for name in names}
    return scored.select(*map(tick, plan.kept), *(value.alias(name) for name, value in found.items()))


def _by_feature_store(plan: Plan, frame: Any) -> Any:
    client = importlib.import_module("databricks.feature_engineering").FeatureEngineeringClient()
    job = plan.job
    given = frame.drop(BROKEN).withColumns(
        {name: value for name, value in plan.values.items() if name in frame.columns}
    )
    options = {name: value for name in ("result_type", "env_manager") if (value := getattr(job, name))}
    scored = client.score_batch(model_uri=job.uri, df=given, **options)
    return scored.select(*map(tick, plan.kept), "prediction")


def _by_function(spark: Any, plan: Plan, frame: Any, *, aside: bool) -> Any:
    from pyspark.sql.pandas.types import to_arrow_schema
    from pyspark.sql.types import StringType, StructField, StructType

    results = [StructField(name, kind) for name, kind in plan.results]
    reason = [StructField(REASON, StringType())] if aside else []
    given = [value.alias(f"{_GIVEN}{position}") for position, value in enumerate(plan.values.values())]
    function = predicting(
        bring_model(spark, plan.job.uri, is_remote=is_remote(spark)),
        list(plan.features),
        to_arrow_schema(StructType(results)),
        given=Given(plan.as_tensor, plan.labels, plan.inferred, plan.job.params),
        reason=REASON if aside else None,
    )
    kept = frame.select(*plan.outputs).schema.fields
    return frame.select(*plan.outputs, *given).mapInArrow(function, StructType([*kept, *results, *reason]))
