"""Templates that cannot be rendered, in operators and sensors, mapped or not: they fail once, and say which it is."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_uc_models.operators import (
    GetModelVersionOperator,
    GetRegisteredModelOperator,
    ValidateModelVersionOperator,
)
from airflow_uc_models.sensors import RegisteredModelSensor

POLICY = {"metrics": [{"name": "accuracy", "min": 0.5}]}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ nothing }}", "UndefinedError: 'nothing' is undefined"),
        ("{{ params.name", "TemplateSyntaxError"),
        ("{{ params['none'] }}", "KeyError"),
        ("{{ params.name + 1 }}", "TypeError"),
    ],
)
def test_it_fails_once_and_names_the_field(dag_runner, connection, template, said):
    def define():
        common = {"registry_conn_id": connection, "retries": 2, "retry_delay": timedelta(0)}
        GetRegisteredModelOperator(task_id="plain", model_name=template, **common)
        RegisteredModelSensor(task_id="sensor", model_name=template, **common)
        ValidateModelVersionOperator(task_id="judge", model_name=template, version=1, policy=POLICY, **common)
        mapped = GetModelVersionOperator.partial(task_id="mapped", model_name=template, **common)
        mapped.expand(version=[1])

    result = dag_runner.run(define, params={"name": "a.b.c"})
    for task, index in (("plain", -1), ("sensor", -1), ("judge", -1), ("mapped", 0)):
        ti = result.ti(task, index)
        assert (str(ti.state), ti.try_number) == ("failed", 1), task
    assert result.output.count("The template of 'model_name' cannot be rendered: ") >= 4
    assert said in result.output
