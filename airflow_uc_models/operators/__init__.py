"""Operators for registered models, model versions, aliases, tags, validation and inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_uc_models.lazy import lazy_names

if TYPE_CHECKING:
    from airflow_uc_models.csv_options import CsvOptions
    from airflow_uc_models.operators.alias import (
        DeleteRegisteredModelAliasOperator,
        RollbackRegisteredModelAliasOperator,
        SetRegisteredModelAliasOperator,
    )
    from airflow_uc_models.operators.approval import ApproveModelVersionOperator, SetModelVersionApprovalTagOperator
    from airflow_uc_models.operators.inference import BatchInferenceOperator
    from airflow_uc_models.operators.model_version import (
        CopyModelVersionOperator,
        DeleteModelVersionOperator,
        DownloadModelVersionOperator,
        GetModelVersionOperator,
        RegisterModelOperator,
        SearchModelVersionsOperator,
        UpdateModelVersionOperator,
    )
    from airflow_uc_models.operators.pending import MarkModelVersionsHandledOperator, PendingModelVersionsOperator
    from airflow_uc_models.operators.registered_model import (
        CreateRegisteredModelOperator,
        DeleteRegisteredModelOperator,
        GetRegisteredModelOperator,
        RenameRegisteredModelOperator,
        SearchRegisteredModelsOperator,
        UpdateRegisteredModelOperator,
    )
    from airflow_uc_models.operators.tag import (
        DeleteModelVersionTagsOperator,
        DeleteRegisteredModelTagsOperator,
        SetModelVersionTagsOperator,
        SetRegisteredModelTagsOperator,
    )
    from airflow_uc_models.operators.validation import ValidateModelVersionOperator
    from airflow_uc_models.operators.validation_branch import (
        BranchOnModelValidationOperator,
        ShortCircuitOnModelValidationOperator,
    )

_MODULES = {
    "ApproveModelVersionOperator": "approval",
    "BatchInferenceOperator": "inference",
    "BranchOnModelValidationOperator": "validation_branch",
    "CopyModelVersionOperator": "model_version",
    "CreateRegisteredModelOperator": "registered_model",
    "CsvOptions": "inference",
    "DeleteModelVersionOperator": "model_version",
    "DeleteModelVersionTagsOperator": "tag",
    "DeleteRegisteredModelAliasOperator": "alias",
    "DeleteRegisteredModelOperator": "registered_model",
    "DeleteRegisteredModelTagsOperator": "tag",
    "DownloadModelVersionOperator": "model_version",
    "GetModelVersionOperator": "model_version",
    "GetRegisteredModelOperator": "registered_model",
    "MarkModelVersionsHandledOperator": "pending",
    "PendingModelVersionsOperator": "pending",
    "RegisterModelOperator": "model_version",
    "RenameRegisteredModelOperator": "registered_model",
    "RollbackRegisteredModelAliasOperator": "alias",
    "SearchModelVersionsOperator": "model_version",
    "SearchRegisteredModelsOperator": "registered_model",
    "SetModelVersionApprovalTagOperator": "approval",
    "SetModelVersionTagsOperator": "tag",
    "SetRegisteredModelAliasOperator": "alias",
    "SetRegisteredModelTagsOperator": "tag",
    "ShortCircuitOnModelValidationOperator": "validation_branch",
    "UpdateModelVersionOperator": "model_version",
    "UpdateRegisteredModelOperator": "registered_model",
    "ValidateModelVersionOperator": "validation",
}
__all__ = [
    "ApproveModelVersionOperator",
    "BatchInferenceOperator",
    "BranchOnModelValidationOperator",
    "CopyModelVersionOperator",
    "CreateRegisteredModelOperator",
    "CsvOptions",
    "DeleteModelVersionOperator",
    "DeleteModelVersionTagsOperator",
    "DeleteRegisteredModelAliasOperator",
    "DeleteRegisteredModelOperator",
    "DeleteRegisteredModelTagsOperator",
    "DownloadModelVersionOperator",
    "GetModelVersionOperator",
    "GetRegisteredModelOperator",
    "MarkModelVersionsHandledOperator",
    "PendingModelVersionsOperator",
    "RegisterModelOperator",
    "RenameRegisteredModelOperator",
    "RollbackRegisteredModelAliasOperator",
    "SearchModelVersionsOperator",
    "SearchRegisteredModelsOperator",
    "SetModelVersionApprovalTagOperator",
    "SetModelVersionTagsOperator",
    "SetRegisteredModelAliasOperator",
    "SetRegisteredModelTagsOperator",
    "ShortCircuitOnModelValidationOperator",
    "UpdateModelVersionOperator",
    "UpdateRegisteredModelOperator",
    "ValidateModelVersionOperator",
]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
