# One image for Airflow and for the MLflow server: the versions of constraints.txt, which the tests ran with.
FROM python:3.11-slim

RUN useradd --uid 50000 --home-dir /opt/airflow --create-home airflow \
    && install --directory --owner airflow \
        /opt/airflow/auth /opt/airflow/dags /opt/airflow/data /opt/airflow/logs /mlartifacts

COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY airflow_uc_models /src/airflow_uc_models
RUN pip install --no-cache-dir --disable-pip-version-check --constraint /src/constraints.txt uv \
    && uv pip install --system --no-cache --compile-bytecode --constraint /src/constraints.txt \
        '/src[postgres]'

ENV AIRFLOW_HOME=/opt/airflow \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    PYTHONUNBUFFERED=1
WORKDIR /opt/airflow
USER airflow
