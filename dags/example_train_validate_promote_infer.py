"""Train a model, judge it against the champion, promote it, score with the champion.

1. `train` fits a model on the breast cancer data that scikit-learn ships; `register` puts it into the `dev` catalog.
2. `validate` compares it with the champion: the version in `prod` that has the alias `Champion`.
3. If it is better, `copy_to_staging` and `copy_to_prod` copy it, `set_champion` moves the alias to the copy, and
   `note_promotion` writes down why.
4. If it is not, `keep_champion` says why. The run succeeds all the same: a refusal is a result, not a failure.
5. Either way, `score` scores the new data with whichever version is the champion then.

`register` and `set_champion` emit asset events for the model that the params name, so other Dags can be scheduled on
the asset aliases `example_candidate` and `example_champion`.

Everything that differs between places is a param, so the file runs unchanged on Databricks: set `registry_conn_id` to
a `databricks` connection, the catalogs and the schema to yours, and `data_folder` to a place that all workers reach,
such as `s3://aws_default@bucket/folder`.
"""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, AssetAlias, ObjectStoragePath, Param, task

from airflow_uc_models.operators import (
    BatchInferenceOperator,
    BranchOnModelValidationOperator,
    CopyModelVersionOperator,
    RegisterModelOperator,
    SetModelVersionTagsOperator,
    SetRegisteredModelAliasOperator,
)
from airflow_uc_models.policies import MetricRule, PromotionPolicy

log = logging.getLogger("airflow.task")

# The connection that runs take which name no other: set MODEL_REGISTRY_CONN_ID for a whole deployment.
CONN_ID = os.environ.get("MODEL_REGISTRY_CONN_ID", "mlflow_default")

CHAMPION = "Champion"
DEV = "{{ params.dev_catalog }}.{{ params.schema }}.{{ params.model }}"
STAGING = "{{ params.staging_catalog }}.{{ params.schema }}.{{ params.model }}"
PROD = "{{ params.prod_catalog }}.{{ params.schema }}.{{ params.model }}"
RUN_FOLDER = "{{ params.data_folder }}/{{ run_id }}"
VERDICT = "ti.xcom_pull(task_ids='validate', key='verdict')"

# [START promotion_policy]
POLICY = PromotionPolicy(
    metrics=[
        # At least this good, and better than the champion by at least this much.
        MetricRule("roc_auc", min=0.9, min_gain=0.002),
        # A smaller log loss is better, and it may not get worse.
        MetricRule("log_loss", min_gain=0.0),
    ],
)
# [END promotion_policy]

PARAMS = {
    "registry_conn_id": Param(CONN_ID, type="string", description="Connection of the model registry."),
    "dev_catalog": Param("dev", type="string", description="Catalog in which candidates are registered."),
    "staging_catalog": Param("staging", type="string", description="Catalog between dev and prod."),
    "prod_catalog": Param("prod", type="string", description="Catalog with the champion."),
    "schema": Param("ml_team", type="string", description="Schema of the model in each catalog."),
    "model": Param("breast_cancer", type="string", description="Name of the model in the schema."),
    "experiment": Param("/Shared/breast_cancer", type="string", description="MLflow experiment of the training."),
    "data_folder": Param(
        str(Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "data"),
        type="string",
        description="Where new data and predictions lie: a folder that all workers share, or an object store.",
    ),
    "n_estimators": Param(100, type="integer", minimum=1, maximum=1000, description="Trees of the forest."),
    "max_depth": Param(8, type="integer", minimum=1, maximum=50, description="Depth of each tree."),
}

with DAG(
    dag_id="example_train_validate_promote_infer",
    description="Train, validate against the champion, promote from dev to prod, score.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    # Two candidates at once would be judged against the same champion.
    max_active_runs=1,
    params=PARAMS,
    default_args={
        "registry_conn_id": "{{ params.registry_conn_id }}",
        # Passing faults only: what a retry cannot mend fails at once, and a retry makes no second version.
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
    },
    tags=["airflow-uc-models", "example"],
) as dag:
    # [START train]
    @task(multiple_outputs=True)
    def train(params: dict[str, Any] | None = None, run_id: str | None = None) -> dict[str, Any]:
        """Fit a forest, log it to MLflow with what it achieves on held-out data, and lay the new data down."""
        import mlflow
        from mlflow.models import infer_signature
        from sklearn.datasets import load_breast_cancer
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.metrics import log_loss, roc_auc_score
        from sklearn.model_selection import train_test_split

        from airflow_uc_models.hooks.mlflow_session import mlflow_session

        assert params is not None
        features, target = load_breast_cancer(return_X_y=True, as_frame=True)
        features.columns = features.columns.str.replace(" ", "_")  # as tables like it
        fit_x, new_x, fit_y, new_y = train_test_split(features, target, test_size=0.4, stratify=target, random_state=7)

        settings = {key: params[key] for key in ("n_estimators", "max_depth")}
        model = RandomForestClassifier(random_state=7, **settings).fit(fit_x, fit_y)
        probability = model.predict_proba(new_x)
        metrics = {
            "roc_auc": round(float(roc_auc_score(new_y, probability[:, 1])), 4),
            "log_loss": round(float(log_loss(new_y, probability)), 4),
        }

        with mlflow_session(params["registry_conn_id"]):
            mlflow.set_experiment(params["experiment"])
            with mlflow.start_run(run_name=run_id):
                mlflow.log_params(settings)
                logged = mlflow.sklearn.log_model(
                    model,
                    name="model",
                    signature=infer_signature(fit_x, model.predict(fit_x)),
                    input_example=fit_x.head(3),
                    # Every MLflow from 3.4 on can load this. Loading runs code that is in the file: load models only
                    # from registries that you trust.
                    serialization_format="cloudpickle",
                    # Named, because finding them out would load the model once more in another process.
                    pip_requirements=mlflow.sklearn.get_default_pip_requirements(include_cloudpickle=True),
                )
                mlflow.log_metrics(metrics, model_id=logged.model_id)

        # The data that waits to be scored. In real life it comes from somewhere else.
        folder = ObjectStoragePath(params["data_folder"]) / str(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "new_data.parquet").open("wb") as file:
            new_x.to_parquet(file, index=False)
        return {"model_uri": logged.model_uri, **metrics}

    # [END train]

    # [START promote]
    trained = train()

    candidate = RegisterModelOperator(
        task_id="register",
        model_name=DEV,
        model_uri=trained["model_uri"],
        description="A forest of {{ params.n_estimators }} trees of depth {{ params.max_depth }}.",
        # Which model it is depends on the params, so the outlet is an alias, which becomes the model's asset.
        outlets=[AssetAlias("example_candidate")],
    )
    validate = BranchOnModelValidationOperator(
        task_id="validate",
        model_name=DEV,
        version=candidate.output["version"],
        champion_model_name=PROD,
        champion_alias=CHAMPION,
        policy=POLICY,
        follow_if_approved="copy_to_staging",
        follow_if_rejected="keep_champion",
    )
    staged = CopyModelVersionOperator(
        task_id="copy_to_staging",
        model_name=DEV,
        version=candidate.output["version"],
        destination_model_name=STAGING,
    )
    released = CopyModelVersionOperator(
        task_id="copy_to_prod",
        model_name=STAGING,
        version=staged.output["version"],
        destination_model_name=PROD,
    )
    set_champion = SetRegisteredModelAliasOperator(
        task_id="set_champion",
        model_name=PROD,
        alias=CHAMPION,
        version=released.output["version"],
        # Only if the champion is still the one that the candidate has beaten; 0: only if there is still none.
        expected_version=f"{{{{ ({VERDICT}['champion'] or {{}}).get('version', 0) }}}}",
        outlets=[AssetAlias("example_champion")],
    )
    note_promotion = SetModelVersionTagsOperator(
        task_id="note_promotion",
        model_name=PROD,
        version=released.output["version"],
        tags={
            "promoted_by": "{{ dag.dag_id }}",
            "promoted_in_run": "{{ run_id }}",
            "promoted_because": f"{{{{ {VERDICT}['reasons'] | join('; ') }}}}",
        },
    )
    # [END promote]

    # [START score]
    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def keep_champion(verdict: dict[str, Any]) -> bool:
        """Say why nothing changes; without a champion there is nobody to score with either."""
        log.info("%s/%s is not promoted: %s", verdict["name"], verdict["version"], "; ".join(verdict["reasons"]))
        return verdict["champion"] is not None

    kept = keep_champion(validate.output["verdict"])
    score = BatchInferenceOperator(
        task_id="score",
        model_uri=f"models:/{PROD}@{CHAMPION}",
        input=f"{RUN_FOLDER}/new_data.parquet",
        output=f"{RUN_FOLDER}/predictions.parquet",
        trigger_rule="none_failed_min_one_success",
    )
    # [END score]

    validate >> [staged, kept]
    released >> set_champion >> note_promotion
    [note_promotion, kept] >> score
