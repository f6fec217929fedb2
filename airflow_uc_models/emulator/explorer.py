"""The pages that links from Airflow lead to: what Catalog Explorer shows of a model and of a version, in plain HTML."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from jinja2 import DictLoader, Environment
from starlette.responses import HTMLResponse

from airflow_uc_models.emulator.routing import Call, route
from airflow_uc_models.emulator.state import Model
from airflow_uc_models.emulator.workspace import Workspace

_MODEL = "/explore/data/models/{catalog}/{schema}/{model}"
_SOURCE = "docs.databricks.com, Manage model lifecycle in Unity Catalog; the address: links of MLflow"

_LAYOUT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 72rem; margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #d8dee4 }
th { color: #57606a; font-weight: 600 } td { overflow-wrap: anywhere }
.tag { background: #eef1f4; border-radius: .3rem; padding: .05rem .4rem; margin-right: .3rem }
.alias { background: #ddf4ff; border-radius: .3rem; padding: .05rem .4rem; margin-right: .3rem }
footer { color: #57606a; margin-top: 3rem; font-size: .85rem }
</style>
</head>
<body>
{% block content %}{% endblock %}
<footer>An emulated Databricks workspace on this machine. A real one asks for a sign-in before it shows this.</footer>
</body>
</html>
"""
_TAGS = """\
{% macro tag_table(tags) %}
{% if tags %}
<table>
{% for key, value in tags | dictsort %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% else %}<p>None.</p>{% endif %}
{% endmacro %}
"""
_MODEL_PAGE = """\
{% extends "layout" %}
{% from "tags" import tag_table %}
{% block content %}
<h1>{{ model.name }}</h1>
<p>{{ model.comment or "No description." }}</p>
<p>Registered model, owned by {{ model.owner }}, created {{ model.created_at | time }}</p>
<h2>Versions</h2>
<table>
<tr><th>Version</th><th>Status</th><th>Aliases</th><th>Created</th><th>Tags</th><th>Description</th></tr>
{% for version in versions %}
<tr>
<td><a href="{{ link(version.version) }}">Version {{ version.version }}</a></td>
<td>{{ version.status }}</td>
<td>{% for a in model.aliases_of(version.version) %}<span class="alias">{{ a }}</span>{% endfor %}</td>
<td>{{ version.created_at | time }}</td>
<td>{% for key, value in version.tags | dictsort %}<span class="tag">{{ key }}: {{ value }}</span> {% endfor %}</td>
<td>{{ version.comment or "" }}</td>
</tr>
{% else %}
<tr><td colspan="6">This model has no versions.</td></tr>
{% endfor %}
</table>
<h2>Tags</h2>
{{ tag_table(model.tags) }}
{% endblock %}
"""
_VERSION_PAGE = """\
{% extends "layout" %}
{% from "tags" import tag_table %}
{% block content %}
<p><a href="{{ link() }}">{{ model.name }}</a></p>
<h1>Version {{ version.version }}</h1>
<p>{{ version.comment or "No description." }}</p>
<table>
<tr><th>Status</th><td>{{ version.status }} {{ version.status_message or "" }}</td></tr>
<tr>
<th>Aliases</th>
<td>{% for a in model.aliases_of(version.version) %}<span class="alias">{{ a }}</span>{% else %}None{% endfor %}</td>
</tr>
<tr><th>Created</th><td>{{ version.created_at | time }} by {{ version.created_by }}</td></tr>
<tr><th>Updated</th><td>{{ version.updated_at | time }}</td></tr>
<tr><th>MLflow run</th><td>{{ version.run_id or "None" }}</td></tr>
<tr><th>Logged model</th><td>{{ version.model_id or "None" }}</td></tr>
</table>
<h2>Tags</h2>
{{ tag_table(version.tags) }}
{% endblock %}
"""
_MISSING_PAGE = """\
{% extends "layout" %}
{% block content %}
<h1>{{ title }}</h1>
<p>This workspace has no {{ what }}.</p>
{% endblock %}
"""
_TEMPLATES = Environment(
    loader=DictLoader(
        {"layout": _LAYOUT, "tags": _TAGS, "model": _MODEL_PAGE, "version": _VERSION_PAGE, "missing": _MISSING_PAGE}
    ),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["time"] = lambda ms: datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class Explorer:
    """Pages for browsers, which have no token: anybody on this machine may read them, and nobody change anything."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @route("GET", _MODEL, source=_SOURCE, anonymous=True, raw=True)
    def model(self, call: Call) -> Any:
        """Show a model with its aliases, tags and versions, to browsers; a workspace asks for a sign-in first."""
        return self._page(call)

    @route("GET", f"{_MODEL}/version/{{version}}", source=_SOURCE, anonymous=True, raw=True)
    def version(self, call: Call) -> Any:
        """Show a version of a model, likewise."""
        return self._page(call)

    def _page(self, call: Call) -> HTMLResponse:
        name = ".".join(call.path[level] for level in ("catalog", "schema", "model")).lower()
        number = call.path.get("version")
        state = self.workspace.catalog.state
        with state.lock:
            model = state.models.get(name)
            text = _text(model, number) if model else None
        if text is None:
            what = f"model {name}" if number is None else f"version {number} of a model {name}"
            text = _TEMPLATES.get_template("missing").render(title="Not found", what=what)
            return HTMLResponse(text, 404, _HEADERS)
        return HTMLResponse(text, 200, _HEADERS)


# What is shown was written by anybody who may register a model: no page runs or loads anything.
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "Cache-Control": "no-store"}


def _text(model: Model, number: str | None) -> str | None:
    """Return the page of a model or of one version; None if there is no such version."""
    path = f"/explore/data/models/{'/'.join(quote(level, safe='') for level in model.name.split('.'))}"

    def link(version: int | None = None) -> str:
        return path if version is None else f"{path}/version/{version}"

    if number is None:
        versions = sorted(model.versions.values(), key=lambda version: -version.version)
        return _TEMPLATES.get_template("model").render(title=model.name, model=model, versions=versions, link=link)
    found = model.versions.get(int(number)) if number.isascii() and number.isdecimal() else None
    if found is None:
        return None
    return _TEMPLATES.get_template("version").render(
        title=f"{model.name}, version {number}", model=model, version=found, link=link
    )
