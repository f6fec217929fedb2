"""The rules that the emulator keeps, each with its source, for the page of routes."""

from __future__ import annotations

_MANAGE = "docs.databricks.com, Manage model lifecycle in Unity Catalog"
_TAGS = "docs.databricks.com, Apply tags to Unity Catalog securable objects"
_STRICT = "not settled: strict by default, a switch"

# rule, source
RULES: tuple[tuple[str, str], ...] = (
    (
        "Names have three levels of 1 to 255 characters, in lower case; no period, space, slash, control character.",
        "docs.databricks.com, Securable object naming requirements; mlflow#13833 (wrong number of levels)",
    ),
    ("A model has at most 10 aliases; an alias points to one version, a version may have many.", _MANAGE),
    ("An alias is 1 to 255 letters, digits, underscores and dashes.", "mlflow/utils/validation.py; mlflow#8445"),
    (
        "The aliases `latest` and `v1`, `v2` ... are reserved.",
        f"mlflow/utils/validation.py; on Unity Catalog {_STRICT}",
    ),
    ("An object has at most 50 tags; keys have up to 255 characters, values up to 1000.", _TAGS),
    ("Keys contain none of `. , - = / :` and no space at either end; case matters.", f"{_TAGS}; recipes-examples#58"),
    ("Deleting a tag that is not there is RESOURCE_DOES_NOT_EXIST.", _STRICT),
    ("A comment has up to 65536 characters.", "docs.databricks.com/api, Registered Models"),
    ("A version is PENDING_REGISTRATION until it is finalized, and READY then.", "mlflow rest_store.py"),
    ("Finalizing looks at neither files nor signature: the client does.", "mlflow rest_store.py"),
    ("Finalizing a READY version is INVALID_STATE.", _STRICT),
    ("Files of READY versions cannot be changed.", _STRICT),
    (
        "Version numbers are one more than the highest ever given, never given again.",
        "unitycatalog ModelRepository.java",
    ),
    ("Deleting a version deletes its aliases.", "databricks-sdk, ModelVersionsAPI.delete"),
    ("A model that has versions cannot be deleted.", f"databricks/cli#1848; {_STRICT}"),
    (
        "A model can be renamed within its schema only.",
        "databricks-sdk, RegisteredModelsAPI.update (name, owner, comment)",
    ),
    ("Setting an alias or a tag does not move `updated_at`.", _STRICT),
    ("Lists have no aliases and no tags, and no order is promised.", "databricks-sdk docstrings; mlflow#9783, #16734"),
    ("A page may be empty and still carry a token.", "databricks-sdk, RegisteredModelsAPI.list"),
    ("Versions are searched by name only; models not at all.", "mlflow rest_store.py; mlflow#12217"),
    ("A catalog's and a schema's privileges hold for what is in them.", "docs.databricks.com, Privileges"),
    ("ALL PRIVILEGES does not include MANAGE, and MANAGE alone does not read.", "docs.databricks.com, Privileges"),
    ("Tags in the request that creates a version need APPLY TAG, too, unless one owns the model.", _STRICT),
    (
        'A wrong or expired token is answered with 403 and `{"error_code": 403, "message": "Invalid access token."}`.',
        "databricks-sdk-go#1046; n8n#34147 (expired)",
    ),
)
