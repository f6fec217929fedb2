"""What a Spark job of batch inference reads, and what of it the model is given.

Part of the script that is shipped to Databricks: nothing but PySpark and MLflow is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_uc_models.engines.spark_csv import NOT_DECODED, damage, reader_options, text_of, value_of
from airflow_uc_models.engines.spark_types import NEVER_NULL, SQL, fits, given, rounds, scalar

RUN_COLUMN, REASON, PREDICTION, BROKEN = "dag_run_key", "reason", "prediction", "__broken_line"
_CSV = re.compile(r"\.csv(\.\w+)?$", re.IGNORECASE)
# What nanoseconds reach, in which the model gets its times.
_TIMES = ("1677-09-21 00:12:43.145225", "2262-04-11 23:47:16.854775")


class JobError(Exception):
    """The job cannot be done as it was asked for; the message says what to do."""


class InputError(JobError):
    """The input is not what its name or its options say."""


@dataclass(frozen=True, kw_only=True)
class Params:
    """What to score; as in the engine's InferenceJob.

    :param model_uri: the model as mlflow knows it, unless its files are here
    :param model_path: the folder of the model's files
    :param result_type: Spark's type of the predictions; by default what the signature says
    :param params: parameters of inference that the model is given
    :param csv: how CSV files are written, as the fields of CsvOptions
    :param score_batch: let the Databricks feature store score
    """

    input: str
    output: str
    key: str
    model_name: str
    model_version: int
    scored_at: str
    model_uri: str | None = None
    registry_uri: str | None = None
    model_path: str | None = None
    input_format: str | None = None
    mode: str = "overwrite"
    partition_by: Sequence[str] = ()
    keep_columns: Sequence[str] | None = None
    metadata: Sequence[str] = ()
    on_bad_rows: str = "fail"
    bad_rows_output: str | None = None
    env_manager: str | None = None
    result_type: str | None = None
    params: Mapping[str, Any] | None = None
    csv: Mapping[str, Any] | None = None
    score_batch: bool = False

    @property
    def appends(self) -> bool:
        """Whether the rows of other runs stay."""
        return self.mode == "append"

    @property
    def quarantines(self) -> bool:
        """Whether bad rows are put aside."""
        return self.on_bad_rows == "quarantine"

    @property
    def uri(self) -> str:
        """Where mlflow finds the model."""
        return str(self.model_path or self.model_uri)


# -- what is read


@dataclass(frozen=True)
class Source:
    """An input.

    :param frame: its rows; columns of text if it is CSV
    :param csv: how its CSV files are written
    """

    frame: Any
    is_csv: bool = False
    csv: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The columns' names."""
        return [name for name in self.frame.columns if not (self.is_csv and name == BROKEN)]


def open_input(spark: Any, place: str, input_format: str | None, csv: Mapping[str, Any] | None = None) -> Source:
    """Open a table, or Parquet or CSV files.

    :param csv: how CSV files are written, as the fields of CsvOptions
    """
    if is_table(place):
        return Source(spark.table(quoted(place)))
    if (input_format or _format_of(spark, place)) == "parquet":
        return Source(spark.read.parquet(place))
    csv = csv or {}
    options = reader_options(csv)
    names = _csv_columns(spark, place, options)
    schema = ", ".join(f"{tick(name)} string" for name in [*names, BROKEN])
    read = spark.read.options(**options, columnNameOfCorruptRecord=BROKEN)
    return Source(read.schema(schema).csv(place), is_csv=True, csv=csv)


def _csv_columns(spark: Any, place: str, options: Mapping[str, Any]) -> list[str]:
    """Return the names in the first line; Spark itself would give columns of the same name others."""
    first = spark.read.options(**{**options, "header": False}).csv(place).head() or ()
    if not options["header"]:
        return [str(position) for position in range(len(first))]
    names = [name or "" for name in first]
    if any(name and (not name.isprintable() or NOT_DECODED in name) for name in names):
        raise InputError(f"{place} cannot be read: its header is not text in {options['encoding']}.")
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{place} has more than one column {', '.join(map(repr, doubled))}.")
    known = [name.casefold() for name in names]
    if alike := [name for name in names if known.count(name.casefold()) > 1]:
        listed = ", ".join(map(repr, alike))
        raise InputError(f"{place} has the columns {listed}, which Spark does not tell apart. Rename all but one.")
    if "" in names:
        raise InputError(f"{place} has a column without a name, which Spark cannot read: column {names.index('') + 1}.")
    return names


def _format_of(spark: Any, place: str) -> str:
    name = place.rstrip("/")
    if not _CSV.search(name) and not name.endswith(".parquet"):  # a folder: one of its files tells
        first = spark.read.format("binaryFile").load(place).select("path").head()
        name = first[0] if first else name
    return "csv" if _CSV.search(name) else "parquet"


def is_table(text: str) -> bool:
    """Whether a place is ``schema.table`` or ``catalog.schema.table``, and not a path."""
    is_file = re.search(r"\.(parquet|csv|gz|bz2|zst|json|orc|avro)$", text, re.IGNORECASE)
    return not is_file and bool(re.fullmatch(r"(?:[\w-]+|`[^`]+`)(?:\.(?:[\w-]+|`[^`]+`)){1,2}", text))


def table_parts(table: str) -> list[str]:
    """Return the parts of a table's name."""
    return [part.strip("`") for part in re.findall(r"`[^`]+`|[^.]+", table)]


def tick(name: str) -> str:
    """Return a name in backticks."""
    return "`" + name.replace("`", "``") + "`"


def quoted(table: str) -> str:
    """Return a table's name as SQL takes it."""
    return ".".join(tick(part) for part in table_parts(table))


# -- what the model is given


@dataclass(frozen=True)
class Plan:
    """A job whose columns fit its model.

    :param features: columns that the model takes, and the SQL type of each; None gives it as it is
    :param kinds: MLflow's types of these columns
    :param results: the predictions' names and types
    :param as_tensor: the model takes one array
    """

    job: Params
    source: Source
    features: Mapping[str, str | None]
    results: Sequence[tuple[str, Any]]
    as_tensor: bool = False
    labels: Sequence[Any] | None = None
    inferred: Sequence[str] = ()
    kinds: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Params, source: Source) -> Plan:
        """Compare the input with the model; JobError lists what does not fit."""
        import mlflow
        from mlflow.models import Model
        from mlflow.types import DataType as MlflowType

        if job.registry_uri:
            mlflow.set_registry_uri(job.registry_uri)
        signature = Model.load(job.uri).signature
        inputs = signature.inputs if signature else None
        features = _features(inputs, source, looks_up=job.score_batch)
        results = [] if job.score_batch else _results(signature.outputs if signature else None, job.result_type)
        is_tensor = bool(inputs and inputs.is_tensor_spec())
        labels, inferred, kinds = None, [], {}
        if inputs and not is_tensor and features:
            specs = dict(zip(_column_names(inputs, source.columns), inputs.inputs, strict=True))
            labels = [name if (label := specs[name].name) is None else label for name in features]
            kinds = {name: specs[name].type for name in features}
            inferred = [name for name, kind in kinds.items() if type(kind).__name__ == "AnyType"]
        elif inputs and is_tensor:
            kinds = dict.fromkeys(features, MlflowType.from_numpy_type(inputs.inputs[0].type))
        plan = cls(job, source, features, results, is_tensor, labels, inferred, kinds)
        plan._check_names()
        return plan

    @property
    def kept(self) -> list[str]:
        """Input columns of the output."""
        columns = self.source.columns
        return columns if self.job.keep_columns is None else list(self.job.keep_columns)

    @property
    def outputs(self) -> list[Any]:
        """The kept columns as the output has them: those of CSV in the types of the model."""
        return [
            self._value(name, self.features.get(name) if self.source.is_csv else None).alias(name) for name in self.kept
        ]

    @property
    def values(self) -> dict[str, Any]:
        """What the model is given of each column."""
        return {name: self._value(name, kind) for name, kind in self.features.items()}

    @property
    def reason(self) -> Any:
        """Why a row cannot be given to the model; no value where it can."""
        from pyspark.sql import functions as F  # noqa: N812 - its usual name

        unreadable = []
        if self.source.is_csv:
            read = {name: self.source.frame[tick(name)] for name in self.source.columns}
            ragged = F.lit("The line does not have the columns of the header")
            unreadable = [F.when(F.col(BROKEN).isNotNull(), ragged), *damage(read, self.source.csv)]
        return F.coalesce(
            F.lit(None).cast("string"),
            *unreadable,
            *(found for name, kind in self.features.items() for found in self._reasons(name, kind)),
        )

    def _value(self, name: str, kind: str | None) -> Any:
        if self.source.is_csv:
            return value_of(self._text(name, kind or "string"), kind or "string", self.source.csv)
        column, found = self.source.frame[tick(name)], self.source.frame.schema[name].dataType
        if name in self.kinds:
            return given(self.kinds[name], found, column)
        return scalar(found, column, kind) if kind else column

    def _text(self, name: str, kind: str) -> Any:
        return text_of(self.source.frame[tick(name)], kind, self.source.csv)

    def _reasons(self, name: str, kind: str | None) -> Iterator[Any]:
        from pyspark.sql import functions as F  # noqa: N812

        value, found = self._value(name, kind), self.source.frame.schema[name].dataType
        unlike = f"Column '{name}' has a value that is no {kind or 'double'}"

        def told(shown: Any) -> Any:
            """Quote the value beside a row that is put aside, and not in an error, which goes to logs."""
            return F.concat(F.lit(f"{unlike}: "), shown) if self.job.quarantines else F.lit(unlike)

        if self.source.is_csv and kind and kind != "string":
            text = self._text(name, kind)
            yield F.when(text.isNotNull() & value.isNull(), told(text))
        column = self.source.frame[tick(name)]
        rounded = None if self.source.is_csv else rounds(self.kinds.get(name), found, column)
        if rounded is not None:
            yield F.when(rounded, told(column.cast("string")))
        if kind == "timestamp_ntz":
            least, most = (F.lit(time).cast(kind) for time in _TIMES)
            yield F.when(~value.between(least, most), told(value.cast("string")))
        if kind in NEVER_NULL:
            yield F.when(value.isNull(), F.lit(f"Column '{name}' has no value; the model takes {kind} there"))

    def _check_names(self) -> None:
        columns, job = self.source.columns, self.job
        if missing := [name for name in self.kept if name not in columns]:
            raise JobError(f"keep_columns names {', '.join(missing)}; the input has {', '.join(columns)}.")
        added = [*(name for name, _ in self.results), *job.metadata]
        added += [PREDICTION] * job.score_batch + [RUN_COLUMN] * job.appends
        if both := [name for name in [*added, *[REASON] * job.quarantines] if name in self.kept]:
            raise JobError(
                f"The input has the column(s) {', '.join(both)}, and the output bears these names already. "
                "Name the columns to keep with keep_columns."
            )
        names = [*self.kept, *added]
        if unknown := [name for name in job.partition_by if name not in names]:
            raise JobError(f"partition_by names {', '.join(unknown)}; the output has {', '.join(names)}.")


def _features(inputs: Any, source: Source, *, looks_up: bool) -> dict[str, str | None]:
    """Return the columns that the model takes, with their SQL types; JobError lists all that does not fit.

    :param looks_up: the model gets columns that the input does not have from elsewhere
    """
    columns = source.columns
    if looks_up and (not inputs or inputs.is_tensor_spec() or not inputs.has_input_names()):
        return {}
    if not inputs:
        return dict.fromkeys(columns)
    if inputs.is_tensor_spec():
        dtype = str(inputs.inputs[0].type)
        kinds = {"float64": "double", "float32": "float", "int64": "bigint", "int32": "int", "bool": "boolean"}
        return dict.fromkeys(columns, kinds.get(dtype))
    specs = inputs.inputs
    if not inputs.has_input_names() and len(specs) != len(columns):
        raise JobError(f"The model takes {len(specs)} columns; the input has {len(columns)}: {', '.join(columns)}.")
    names = _column_names(inputs, columns)
    wanted = {name: SQL.get(getattr(spec.type, "name", "")) for name, spec in zip(names, specs, strict=True)}
    required = {name for name, spec in zip(names, specs, strict=True) if spec.required and not looks_up}
    problems = [f"column {name!r} is missing" for name in names if name in required and name not in columns]
    for (name, kind), spec in zip(wanted.items(), specs, strict=True):
        if name in columns and not source.is_csv and not fits(spec.type, found := source.frame.schema[name].dataType):
            problems.append(f"column {name!r} is {found.simpleString()}; the model asks for {kind or spec.type}")
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise JobError(f"The input and the model do not fit:{listed}\nThe input has: {', '.join(columns)}.")
    return {name: kind for name, kind in wanted.items() if name in columns}


def _column_names(inputs: Any, columns: Sequence[str]) -> list[str]:
    """Return the input's column for each of the signature's; a model may have numbers for names, an input has not."""
    return [str(name) for name in inputs.input_names()] if inputs.has_input_names() else list(columns)


def _results(outputs: Any, result_type: str | None) -> list[tuple[str, Any]]:
    """Return names and Spark types of the predictions."""
    from pyspark.errors import PySparkException
    from pyspark.sql import types

    if result_type:
        try:
            parsed = types.DataType.fromDDL(result_type)
        except PySparkException:
            raise JobError(
                f"engine_options: result_type must be a type of Spark, such as 'double', not {result_type!r}."
            ) from None
        if isinstance(parsed, types.StructType) and len(parsed) > 1:
            return [(field.name, field.dataType) for field in parsed]
        return [(PREDICTION, parsed[0].dataType if isinstance(parsed, types.StructType) else parsed)]
    if not outputs:
        raise JobError(
            "The model's signature does not say what it returns, and Spark must know it before the first row. Log the "
            "model with a signature of its outputs, or set engine_options={'result_type': 'double'}."
        )
    if len(outputs.inputs) == 1:
        return [(PREDICTION, _result_type(outputs.inputs[0]))]
    return [(spec.name or str(position), _result_type(spec)) for position, spec in enumerate(outputs.inputs)]


def _result_type(spec: Any) -> Any:
    """Return the Spark type of one output; a tensor's rows are values or lists."""
    from mlflow.types import DataType as MlflowType
    from mlflow.types.schema import Array
    from pyspark.sql.types import ArrayType

    kind = spec.type
    if hasattr(spec, "shape"):
        base = MlflowType.from_numpy_type(kind)
        if base is not None and len(spec.shape) <= 2:
            is_list = len(spec.shape) == 2 and spec.shape[1] != 1
            return ArrayType(base.to_spark()) if is_list else base.to_spark()
    elif isinstance(kind, MlflowType):
        return kind.to_spark()
    elif isinstance(kind, Array) and isinstance(kind.dtype, MlflowType):
        return ArrayType(kind.dtype.to_spark())
    raise JobError(
        f"The model returns {spec}, which has no column type here; set engine_options={{'result_type': ...}}."
    )
