"""Outputs that cannot be written end a task before it asks the registry for anything."""

from __future__ import annotations

import pandas as pd
import pytest
from support.contexts import context

from airflow_uc_models.compat import AirflowFailException
from airflow_uc_models.operators import BatchInferenceOperator


@pytest.mark.parametrize(("engine", "name"), [("local", "out.parquet"), ("spark", "out")])
def test_batch_inference(proxy, monkeypatch, tmp_path, engine, name):
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())
    (tmp_path / "file").touch()
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "in.parquet")
    task = BatchInferenceOperator(
        task_id="score",
        model_uri="models:/a.b.c/1",
        input=str(tmp_path / "in.parquet"),
        output=str(tmp_path / "file" / name),
        engine=engine,
        registry_conn_id="through",
    )
    with pytest.raises(AirflowFailException, match=r"cannot be written.*is not a folder"):
        task.execute(context(task))
    assert proxy.take() == []
