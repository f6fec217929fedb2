"""``python -m airflow_uc_models.emulator.coverage`` writes docs/emulator.md: every route, switch and privilege."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute

from airflow_uc_models.emulator.app import GROUPS
from airflow_uc_models.emulator.open_source import create_app
from airflow_uc_models.emulator.privileges import NEEDS, Need, spoken
from airflow_uc_models.emulator.routing import route_infos
from airflow_uc_models.emulator.rulebook import RULES
from airflow_uc_models.emulator.settings import Settings

PAGE = Path("docs/emulator.md")

_HEAD = """\
# The emulator

A Databricks workspace on 127.0.0.1, as far as models in Unity Catalog go, for tests of your Dags. MLflow's
`databricks-uc` client (both dialects) and databricks-sdk run their whole model life cycle against it unchanged.
This page is made by `python -m airflow_uc_models.emulator.coverage`.

## In pytest

The package brings the fixture `uc_workspace`, an empty workspace for each test:

```python
def test_promotion(uc_workspace, monkeypatch):
    for variable, value in uc_workspace.env("databricks_default").items():
        monkeypatch.setenv(variable, value)
    ...  # run the Dag
    uc_workspace.requests.find("registered-models/alias", "POST")  # what it sent
```

| Attribute | What for |
|---|---|
| `url`, `token` | where it is, and the admin's token |
| `env(conn_id, principal)`, `connection_json()`, `connection_uri()` | the workspace as an Airflow connection |
| `add_principal(name, token=, client_id=, client_secret=, subject=)` | a user or service principal |
| `grant(principal, privilege, securable)`, `revoke(...)` | privileges, such as `USE CATALOG` on `dev` |
| `add_schema("dev.ml_team")` | a schema with its catalog; an admin's calls make them as named |
| `faults.add(path, status=, count=, retry_after=, when=, reset=, delay=, slow_body=)` | what shall go wrong |
| `runs.plan(result=, error=, result_state=, states=, hold=)` | what becomes of the next one-time run |
| `warehouses.add(id)`, `.answer(pattern, columns=, rows=, error=, states=, hold=)` | what becomes of SQL statements; \
iterate over `warehouses` for those that were sent |
| `endpoints.add(name, (model_name, version))`, `tables.add(name, columns)` | serving endpoints and tables to look at |
| `requests` | what came in: `find(path)`, `take()` |
| `reset()` | empties it; the fixture does so after each test |

Override the session fixture `uc_workspace_server` for other settings:

```python
import pytest

from airflow_uc_models.emulator import Emulator, Settings

@pytest.fixture(scope="session")
def uc_workspace_server():
    with Emulator(Settings(storage="presigned")) as running:
        yield running
```

## On the command line

```console
python -m airflow_uc_models.emulator --port 8765 --token secret --database workspace.db
```

prints its address and the connection to export. `--flavor open-source` runs an open-source Unity Catalog server
instead; `--help` lists the rest.
"""


def main() -> int:
    """Write the page."""
    PAGE.write_text(text())
    return 0


def text() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_settings(), *_rules(), *_privileges(), *_routes()])


def _settings() -> list[str]:
    lines = ["## Switches", "", "`Settings(...)`; what is unsettled is strict by default.", ""]
    lines += ["| Setting | Default | Meaning |", "|---|---|---|"]
    documented = dict(re.findall(r":param (\w+): (.*?)(?=\n:param|\Z)", inspect.getdoc(Settings) or "", re.DOTALL))
    for field in fields(Settings):
        meaning = re.sub(r"\s+", " ", documented[field.name]).replace("``", "`").strip()
        default: Any = field.default if field.default is not MISSING else ""
        lines.append(f"| `{field.name}` | `{default!r}` | {meaning} |")
    return [*lines, ""]


def _rules() -> list[str]:
    lines = ["## Rules", "", "| Rule | Source |", "|---|---|"]
    return [*lines, *(f"| {rule} | {source} |" for rule, source in RULES), ""]


def _privileges() -> list[str]:
    lines = ["## Privileges", "", "Each also needs USE CATALOG and USE SCHEMA. An owner has all on what is owned.", ""]
    lines += ["| Operation | Needs |", "|---|---|"]
    lines += [f"| {operation.replace('_', ' ')} | {_need(need)} |" for operation, need in NEEDS.items()]
    source = "Sources: docs.databricks.com, Unity Catalog privileges and securable objects, and Manage model lifecycle"
    return [*lines, "", f"{source} in Unity Catalog; databricks-sdk docstrings of RegisteredModelsAPI.", ""]


def _need(need: Need) -> str:
    own = [spoken(privilege) for privilege in need.model]
    own += ["ownership", "MANAGE"] if need.owner else []
    parts = [f"{' or '.join(own)} (model)"] if own else []
    parts += [f"{' or '.join(spoken(privilege) for privilege in need.schema)} (schema)"] if need.schema else []
    return " and ".join(parts)


def _routes() -> list[str]:
    lines = ["## Routes"]
    for group in GROUPS:
        heading = (inspect.getdoc(inspect.getmodule(group)) or "").replace("``", "`").rstrip(".")
        lines += ["", f"### {heading}", ""]
        lines += ["| Route | What it does | Source |", "|---|---|---|"]
        for info in route_infos(group):
            lines.append(f"| `{info.method} {info.path}` | {info.summary.replace('``', '`')} | {info.source} |")
    return [*lines, "", *_open_source()]


def _open_source() -> list[str]:
    lines = ["## Routes of the open-source flavor", ""]
    lines += ["Source of each: the server itself, as it was seen to behave when it was run.", ""]
    lines += ["| Route | What it does |", "|---|---|"]
    for item in create_app(None).routes:
        if isinstance(item, APIRoute) and item.endpoint.__doc__:
            summary = item.endpoint.__doc__.partition("\n")[0].replace("``", "`")
            lines.append(f"| `{' '.join(sorted(item.methods))} {item.path}` | {summary} |")
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
