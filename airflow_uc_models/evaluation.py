"""What models are measured on before they are judged: data, target and slices. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.rules_metrics import SLICE_METRIC, check_slice_metric

MODEL_TYPES = ("classifier", "regressor", "question-answering", "text-summarization", "text", "retriever")
FORMATS = ("parquet", "csv")
# Under which metrics are logged: those of the training keep their values.
METRIC_PREFIX = "validation/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Measure candidate and champion with ``mlflow.models.evaluate`` on the same data, each in its own environment.

    ::

        Evaluation(data="s3://aws_default@data/test.parquet", targets="is_fraud", model_type="classifier",
                   slices=["country"])

    :param data: a Parquet or CSV file or folder, as a path or a URI that Airflow's ObjectStoragePath takes, or a table
        of Databricks as ``catalog.schema.table``
    :param targets: the column with the true values
    :param model_type: what ``mlflow.models.evaluate`` takes: ``classifier``, ``regressor``, ``text`` ...; it decides
        which metrics there are: ``accuracy_score``, ``roc_auc``, ``mean_absolute_error`` ...
    :param slices: columns; the metrics are also measured on the rows of each of their values
    :param slice_metric: how the metrics of slices are named, as in a MetricRule: ``accuracy_score/country_DE``
    :param evaluator_config: as ``mlflow.models.evaluate`` takes it, such as ``{"pos_label": "yes"}``
    :param input_format: ``parquet`` or ``csv``, where the file names do not tell
    :param csv_options: how CSV files are written, as ``BatchInferenceOperator`` takes it (CsvOptions, or a dict of its
        fields)
    :param max_rows: more rows than these are refused, as all of them are held in memory
    :param databricks_conn_id: the connection to the warehouse of a table; ``registry_conn_id`` by default
    :param http_path: the warehouse of a table, where the connection does not name one
    :param sql_endpoint_name: the same by the warehouse's name
    """

    data: str
    targets: str
    model_type: str
    slices: Sequence[str] | None = None
    slice_metric: str = SLICE_METRIC
    evaluator_config: Mapping[str, Any] | None = None
    input_format: str | None = None
    csv_options: CsvOptions | Mapping[str, Any] | None = None
    max_rows: int = 1_000_000
    databricks_conn_id: str | None = None
    http_path: str | None = None
    sql_endpoint_name: str | None = None

    def __post_init__(self) -> None:
        for key in ("data", "targets"):
            if not isinstance(value := getattr(self, key), str) or not value.strip():
                raise InvalidArgumentError(f"{key} of the evaluation must be a name, not {value!r}.")
        if self.model_type not in MODEL_TYPES:
            raise InvalidArgumentError(
                f"model_type of the evaluation must be one of {', '.join(MODEL_TYPES)}, not {self.model_type!r}."
            )
        self._check_slices()
        if self.input_format is not None and self.input_format not in FORMATS:
            raise InvalidArgumentError(f"input_format must be parquet or csv, not {self.input_format!r}.")
        if self.csv_options is not None:
            object.__setattr__(self, "csv_options", CsvOptions.parse(self.csv_options))
        if self.csv_options not in (None, CsvOptions()) and self.input_format == "parquet":
            raise InvalidArgumentError("csv_options of the evaluation are for CSV files; input_format is parquet.")
        if self.evaluator_config is not None and not isinstance(self.evaluator_config, Mapping):
            raise InvalidArgumentError(f"evaluator_config must be a dict, not {self.evaluator_config!r}.")
        if isinstance(self.max_rows, bool) or not isinstance(self.max_rows, int) or self.max_rows < 1:
            raise InvalidArgumentError(f"max_rows must be a whole number above 0, not {self.max_rows!r}.")

    def _check_slices(self) -> None:
        check_slice_metric("the evaluation", self.slice_metric)
        if self.slices is None:
            return
        is_list = isinstance(self.slices, Sequence) and not isinstance(self.slices, str | bytes)
        if not is_list or not self.slices or not all(isinstance(name, str) and name.strip() for name in self.slices):
            raise InvalidArgumentError(
                f"slices of the evaluation must be a list of at least one column, not {self.slices!r}."
            )
        if self.targets in self.slices or len(set(self.slices)) < len(self.slices):
            raise InvalidArgumentError(
                f"slices of the evaluation must be different columns, and not the targets: {self.slices!r}."
            )
