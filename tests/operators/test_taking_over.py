"""A try that finishes its version while a later one takes it over: every order of their requests."""

from __future__ import annotations

import itertools

import pytest
from support.faulty import SOURCE, faulty_workspace

from airflow_uc_models.exceptions import NotFoundError
from airflow_uc_models.registry.registration import TASK_KEY_TAG, finalize_version, is_taken_over, keep_first

NAME = "dev.tests.m"


class Steps:
    """A call whose requests are sent one at a time."""

    def __init__(self, call, send):
        self.call, self.send, self.value, self.error = call, send, None, None
        self.request = next(call)

    def step(self):
        if self.request is None:
            return
        try:
            self.request = self.call.send(self.send(self.request))
        except StopIteration as stop:
            self.request, self.value = None, stop.value
        except NotFoundError as error:
            self.request, self.error = None, error


def one(request):
    return (yield request)


def finish(registry, pending):
    """Return whether the version is this try's to return."""
    yield from finalize_version(registry, pending)
    return not (yield from is_taken_over(registry, pending))


@pytest.fixture
def faulty(workspace):
    workspace.add_schema("dev.tests")
    with faulty_workspace(workspace) as faulty:
        faulty.direct(faulty.registry.create_registered_model(NAME))
        yield faulty


def test_nobody_returns_a_version_that_the_other_one_deletes(faulty):
    registry, seen = faulty.registry, set()

    def send(request):
        return faulty.direct(one(request))

    for turns in itertools.combinations(range(6), 2):
        pending = faulty.direct(registry.create_model_version(NAME, SOURCE, tags={TASK_KEY_TAG: "key"}))
        earlier, later = Steps(finish(registry, pending), send), Steps(keep_first(registry, [pending]), send)
        for turn in range(6):
            (earlier if turn in turns else later).step()
        while earlier.request or later.request:
            earlier.step()
            later.step()
        left = faulty.model(NAME).versions.get(pending.version)
        assert (left is not None) == (later.value is not None)
        assert earlier.value is not True or left is not None
        assert left in (None, {TASK_KEY_TAG: "key"})  # nothing of the announcement stays
        seen.add((earlier.value, later.value is not None))
    assert seen >= {(True, True), (False, False), (None, False)}
