"""The environment in which a model runs: this worker's packages, or those that the model's own files pin.

::

    environment = environment_of(folder, env_manager, label)   # decides; environment.manager, environment.reason
    with environment.process(folder) as model:                 # builds it once, into a cache; starts a process there
        predictions = model.predict(rows)                      # a RecordBatch in, a RecordBatch of predictions out
        answer = model.call("name", {"plain": "JSON"})         # a function of worker.FUNCTIONS, by its name; JSON back

``env_manager`` is ``local``, ``uv``, ``virtualenv`` or None, which chooses. A new function is a line in
``worker.FUNCTIONS`` and a function ``f(model: LoadedModel, arguments: dict, batches) -> dict`` (or ``dict, batches``),
in a module that imports nothing of Airflow: it runs in the model's environment, on any Python from 3.10. Errors of
this package arrive as they were raised, others as PredictionError with their text; a process that dies is a
ModelEnvironmentError with its last lines. What the model prints goes to the task's log.
"""

from __future__ import annotations

from airflow_uc_models.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, {"Environment": "environment", "environment_of": "environment"})
