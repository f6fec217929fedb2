"""Whether a model says what it takes, for engines that compare its input elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_uc_models.engines.job import InferenceJob
from airflow_uc_models.exceptions import ModelContentError
from airflow_uc_models.signatures import Signature


def check_signature(mlmodel: Mapping[str, Any], job: InferenceJob, label: str) -> None:
    """Raise ModelContentError for a model without a signature, if the job asks for one.

    :param mlmodel: the model's MLmodel file
    :param label: how messages name the model
    """
    signature = Signature.of_mlmodel(mlmodel)
    if job.signature_required and not (signature and signature.inputs):
        raise ModelContentError(
            f"{label} has no signature, so the input cannot be checked before it is scored. Log the model with a "
            "signature or an input example, or set signature_required=False."
        )
