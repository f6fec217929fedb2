"""What the emulator does where workspaces differ, or where nobody outside has seen what they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The switches. What is unsettled is strict by default: who passes here passes on a milder workspace, too.

    :param storage: how clients move files: the Files API, presigned URLs, or credentials of a cloud
    :param multipart: how large files go up through the Files API; ``off`` answers 404, which databricks-sdk
        does not survive
    :param download_urls: whether ``create-download-url`` exists; databricks-sdk falls back to the Files API
    :param url_seconds: how long presigned URLs are good
    :param token_seconds: how long OAuth tokens are good
    :param token_requests: of how many requests an OAuth token is good for; then it is refused like an expired one
    :param rejected_token_status: for unknown and expired tokens; workspaces were seen to answer 403
    :param auto_create_schemas: make catalogs and schemas that an admin names
    :param delete_nonempty_models: delete the versions of a model along with it
    :param reserved_aliases: refuse the aliases ``latest`` and ``v1``, ``v2`` ...
    :param ready_seconds: how long a finalized version stays PENDING_REGISTRATION
    :param refinalize: finalize a READY version again without complaint
    :param missing_tags_fail: answer 404 when a tag to be deleted is not there
    :param tags_on_create_need_apply_tag: ask for APPLY TAG when a version is created with tags by someone who is
        not the model's owner
    :param alias_moves_updated_at: count setting an alias or a tag as an update of the model
    :param new_name: the form of ``new_name`` in the legacy dialect: the model's ``bare`` name, the ``full`` one,
        or ``either``
    :param write_ready_versions: let files of READY versions be changed
    :param empty_pages: send an empty page with a token between two pages
    :param page_limit: let no page be longer than this
    :param notebook_environments: let notebook tasks on serverless compute have an environment; earlier, workspaces
        refused that
    :param tracking_uri: an MLflow server to which calls about runs, experiments and logged models are passed on
    :param workspace_id: the workspace's number
    :param database: a SQLite file that keeps the state; files are kept in a folder beside it
    """

    storage: Literal["files", "presigned", "vended"] = "files"
    multipart: Literal["parts", "off"] = "parts"
    download_urls: bool = True
    url_seconds: float = 900
    token_seconds: float = 3600
    token_requests: int | None = None
    rejected_token_status: Literal[401, 403] = 403
    auto_create_schemas: bool = True
    delete_nonempty_models: bool = False
    reserved_aliases: bool = True
    ready_seconds: float = 0
    refinalize: bool = False
    missing_tags_fail: bool = True
    tags_on_create_need_apply_tag: bool = True
    alias_moves_updated_at: bool = False
    new_name: Literal["bare", "full", "either"] = "either"
    write_ready_versions: bool = False
    empty_pages: bool = True
    page_limit: int | None = None
    notebook_environments: bool = True
    tracking_uri: str | None = None
    workspace_id: int = 1234567890123456
    database: Path | None = None
