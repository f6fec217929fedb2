"""The pages that links from Airflow lead to, as a browser gets them: without a token, and with nothing to run."""

from __future__ import annotations

import httpx
import pytest

from airflow_uc_models.hooks.model_registry import ModelRegistryHook

NAME = "dev.ml_team.fraud"
SCRIPT = "<script>alert('x')</script>"


@pytest.fixture
def hook(databricks):
    hook = ModelRegistryHook(databricks)
    registry = hook.registry
    hook.run(registry.create_registered_model(NAME, description=f"Finds fraud. {SCRIPT}", tags={"team": "<b>risk</b>"}))
    for number in (1, 2):
        hook.run(registry.create_model_version(NAME, source=f"/tmp/model-{number}", tags={"stage": f"try-{number}"}))
    hook.run(registry.set_registered_model_alias(NAME, "Champion", 2))
    return hook


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False)


def test_the_link_of_a_model_shows_its_versions(hook, workspace):
    page = get(hook.endpoint.model_version_url(NAME, None))
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for shown in (
        NAME,
        "Finds fraud.",
        "team",
        "&lt;b&gt;risk&lt;/b&gt;",
        "Champion",
        "try-1",
        "try-2",
        "PENDING_REGISTRATION",
    ):
        assert shown in page.text, page.text
    assert page.text.index("Version 2") < page.text.index("Version 1")


def test_the_link_of_a_version_shows_it(hook, workspace):
    first, second = (get(hook.endpoint.model_version_url(NAME, number)) for number in (1, 2))
    assert first.status_code == second.status_code == 200
    assert "try-1" in first.text
    assert "Champion" not in first.text
    assert "Champion" in second.text
    assert f'href="/explore/data/models/{NAME.replace(".", "/")}"' in second.text


def test_every_link_of_a_page_leads_to_a_page(hook, workspace):
    import re

    page = get(hook.endpoint.model_version_url(NAME, None))
    links = re.findall(r'href="([^"]+)"', page.text)
    assert len(links) == 2
    assert [get(f"{workspace.url}{link}").status_code for link in links] == [200, 200]


def test_what_people_wrote_is_not_run(hook, workspace):
    page = get(hook.endpoint.model_version_url(NAME, None))
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_pages_hold_no_credentials(hook, workspace):
    for page in (get(hook.endpoint.model_version_url(NAME, None)), get(hook.endpoint.model_version_url(NAME, 1))):
        assert workspace.token not in page.text
        assert "/tmp/model-1" not in page.text


@pytest.mark.parametrize("path", ["dev/ml_team/other", "dev/ml_team/fraud/version/9", "dev/ml_team/fraud/version/x"])
def test_what_is_not_there(hook, workspace, path):
    page = get(f"{workspace.url}/explore/data/models/{path}")
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")


def test_nothing_can_be_changed_without_a_token(hook, workspace):
    url = f"{workspace.url}/explore/data/models/{NAME.replace('.', '/')}"
    assert httpx.delete(url, trust_env=False).status_code >= 400
    assert get(url).status_code == 200
