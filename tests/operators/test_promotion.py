"""promote_model on a real MLflow server: all of it or nothing, for one model and for many."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task
from support.approvals import answering
from support.registry import aliases, make_versions

from airflow_uc_models.approvals import cell
from airflow_uc_models.emulator import Emulator
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.operators import (
    ApproveModelVersionOperator,
    SetModelVersionApprovalTagOperator,
    ValidateModelVersionOperator,
)
from airflow_uc_models.operators.promotion import promote_model
from airflow_uc_models.operators.promotion_tasks import SetPromotedAlias
from airflow_uc_models.policies import MetricRule, PromotionPolicy
from airflow_uc_models.registry.aliases import move_alias
from airflow_uc_models.registry.undo import undo_move

POLICY = PromotionPolicy(
    metrics=[MetricRule("accuracy", min=0.5, min_gain=0)], require_signature=False, compatible_signature=False
)
GUIDE = Path(__file__).parents[2] / "docs" / "approvals.md"
STEPS = ("validate", "copy", "set_alias", "set_tags", "finish")
DONE = dict.fromkeys(STEPS, "success")
REFUSED = {"validate": "failed", **dict.fromkeys(STEPS[1:4], "upstream_failed"), "finish": "failed"}


@pytest.fixture
def client(mlflow_server):
    return mlflow_server.client()


@pytest.fixture
def schema():
    return f"s{uuid.uuid4().hex[:10]}"


@pytest.fixture
def add(client, schema):
    """Make versions that have metrics and no files: add("fraud", 0.8, 0.9), or with catalog="prod"."""
    experiment = client.create_experiment(f"promotion-{schema}")

    def make(model, *accuracies, catalog="dev", champion=False):
        name = f"{catalog}.{schema}.{model}"
        client.create_registered_model(name)
        for accuracy in accuracies:
            run = client.create_run(experiment).info.run_id
            client.log_metric(run, "accuracy", accuracy)
            client.create_model_version(name, f"runs:/{run}/model", run_id=run)
        if champion:
            client.set_registered_model_alias(name, "Champion", "1")
        return name

    return make


@pytest.fixture
def champion(client, schema):
    """Where a model's alias points, and what its history says."""

    def read(model, catalog="prod"):
        found = client.get_registered_model(f"{catalog}.{schema}.{model}")
        version = found.aliases.get("Champion")
        return version and int(version), found.tags.get("airflow_alias_history_Champion")

    return read


def states(result, map_index=-1, steps=STEPS):
    found = {step: result.ti(f"promote_model.{step}", map_index).state for step in steps}
    return {step: str(getattr(state, "value", state)) for step, state in found.items()}


def fail(*_: Any) -> None:
    raise RuntimeError("as if the worker had died")


def happens(group: Any, step: str, models: list[dict[str, Any]], what: dict[str, Any]) -> None:
    """Before a step of some of many models, do something to the registry, or fail."""

    def before(context):
        name = models[context["ti"].map_index]["model_name"]
        what.get(name.rpartition(".")[2], lambda: None)()

    group.get_child_by_label(step)._pre_execute_hook = before


def on_step(group: Any, step: str, callback: Any) -> None:
    """Do something to the registry when a step begins."""
    group.get_child_by_label(step).on_execute_callback = [lambda context: callback(context["ti"])]


def test_one_model_is_promoted(dag_runner, connection, add, champion, client, schema):
    """Though the worker of each step dies once, when its work is done."""
    add("fraud", 0.9, 0.95)

    def die_at_first(context, result):
        if context["ti"].try_number == 1:
            raise RuntimeError("as if the worker had died")

    def define():
        @task
        def after(outcome):
            return outcome["destination_version"]

        done = promote_model(
            model_name=f"dev.{schema}.fraud",
            destination_catalog="prod",
            policy=POLICY,
            tags={"team": "risk"},
            registry_conn_id=connection,
        )
        after(done.get_child_by_label("finish").output)
        for step in STEPS[:-1]:
            done.get_child_by_label(step).retries = 1
            done.get_child_by_label(step)._post_execute_hook = die_at_first

    result = dag_runner.run(define)
    assert (result.state, states(result)) == ("success", DONE)
    assert {result.ti(f"promote_model.{step}").try_number for step in STEPS[:-1]} == {2}
    assert len(client.search_model_versions(f"name='prod.{schema}.fraud'")) == 1
    assert result.xcom("promote_model.finish") == {
        "promoted": True,
        "model_name": f"dev.{schema}.fraud",
        "version": 2,  # the newest
        "alias": "Champion",
        "destination_model_name": f"prod.{schema}.fraud",
        "destination_version": 1,
        "previous_version": None,
    }
    [told] = re.findall(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert set(json.loads(told)) == set(result.xcom("promote_model.finish"))
    assert result.xcom("after") == 1
    assert champion("fraud") == (1, "1")
    tags = client.get_model_version(f"prod.{schema}.fraud", "1").tags
    assert (tags["team"], tags["promoted_by"]) == ("risk", result.dag_run.dag_id)
    assert tags["promoted_in_run"] == result.dag_run.run_id
    assert "accuracy 0.95, required >= 0.5" in tags["promoted_because"]
    promoted = f"Promoted dev.{schema}.fraud/2: alias 'Champion' of prod.{schema}.fraud, no version -> 1, on connection"
    assert result.output.count(promoted) == 1


def test_what_fails_after_the_move_is_taken_back_and_models_are_independent(
    dag_runner, connection, add, champion, client, schema
):
    """Each model meets another misfortune, in one run; the list of models comes from an upstream task."""
    stories = {
        "fine": {},
        "new": {},  # there was no champion
        "old": {},
        "moved": {},  # somebody moves the alias after us
        "died": {},  # the worker dies after the move
        "overtaken": {},  # another champion since the validation
        "remade": {},  # deleted and made anew since the validation
        "mistagged": {"tags": {"no!key": "x"}},
        "poor": {},
        "missing": {"version": 7},
    }
    items = []
    for model, options in stories.items():
        items.append({"model_name": add(model, {"poor": 0.4}.get(model, 0.9)), **options})
    for model in set(stories) - {"fine", "new"}:
        add(model, 0.8, 0.8, catalog="prod", champion=True)

    def move(model):
        client.set_registered_model_alias(f"prod.{schema}.{model}", "Champion", "2")

    def remake():
        client.delete_registered_model(f"dev.{schema}.remade")
        add("remade", 0.1)

    def after_alias(context, result):
        if result["name"].endswith("died"):
            raise RuntimeError("as if the worker had died")

    def define():
        @task
        def models():
            return items

        factory = promote_model.partial(destination_catalog="prod", policy=POLICY, registry_conn_id=connection)
        group = factory.expand_kwargs(models())
        happens(group, "copy", items, {"remade": remake})
        happens(group, "set_alias", items, {"overtaken": lambda: move("overtaken")})
        happens(group, "set_tags", items, {"new": fail, "old": fail, "moved": lambda: fail(move("moved"))})
        group.get_child_by_label("set_alias")._post_execute_hook = after_alias
        group >> EmptyOperator(task_id="after")

    result = dag_runner.run(define)
    found = {model: states(result, index) for index, model in enumerate(stories)}
    outcome = {model: result.xcom("promote_model.finish", map_index=i) for i, model in enumerate(stories)}
    assert result.state == "failed"
    assert result.task_state("after") == "upstream_failed"

    assert found["fine"] == DONE
    assert champion("fine") == (1, "1")

    untagged = {**DONE, "set_tags": "failed", "finish": "failed"}
    assert (found["new"], found["old"], found["moved"]) == (untagged, untagged, untagged)
    assert champion("new") == (None, None)
    assert "is gone as before" in outcome["new"]["reason"]
    assert champion("old") == (1, "1")
    assert "set_tags is failed. Alias 'Champion' of" in outcome["old"]["reason"]
    assert "points to version 1 as before" in outcome["old"]["reason"]
    assert champion("moved")[0] == 2
    assert "points to version 2, to which this run did not move it" in outcome["moved"]["reason"]

    stopped = {**DONE, "set_alias": "failed", "set_tags": "upstream_failed", "finish": "failed"}
    assert (found["died"], found["overtaken"]) == (stopped, stopped)
    assert champion("died") == (1, "1")
    assert champion("overtaken")[0] == 2
    assert found["mistagged"] == stopped
    assert champion("mistagged") == (1, None)  # not even for a moment
    assert found["remade"] == {**stopped, "copy": "failed", "set_alias": "upstream_failed"}
    assert f"dev.{schema}.remade/1 is not the version that was judged" in result.output
    assert len(client.search_model_versions(f"name='prod.{schema}.remade'")) == 2

    assert (found["poor"], found["missing"]) == (REFUSED, REFUSED)
    assert "poor/1 was not promoted: accuracy 0.4, required >= 0.5; " in outcome["poor"]["reason"]
    assert champion("poor") == (1, None)
    # for the case that somebody marks validate as succeeded
    assert result.xcom("promote_model.validate", key="champion_version", map_index=list(stories).index("poor")) == 1
    assert not any(item["promoted"] for model, item in outcome.items() if model != "fine")


def test_refused_models_may_be_skipped(dag_runner, connection, add, champion, schema):
    """By the policy, by an approver, by a time-out; where it is, without a copy."""
    names = [add(model, 0.4 if model == "poor" else 0.9) for model in ("poor", "fine", "no", "late")]

    def define():
        group = promote_model.partial(
            policy=POLICY, approval={"response_timeout": 60}, fail_on_rejection=False, registry_conn_id=connection
        )
        group.expand(model_name=names) >> EmptyOperator(task_id="after")

    with answering("Approve", "Reject", None) as asked:
        result = dag_runner.run(define)
    steps = ("validate", "approve", "set_alias", "set_tags", "finish")
    found = [tuple(states(result, index, steps).values()) for index in range(4)]
    approved, no, late = (item["map_index"] for item in asked)  # in the order of the answers
    done, skipped = ("success",), ("skipped",)
    assert found[0] == skipped * 5
    assert found[approved] == done * 5
    assert found[no] == found[late] == done + skipped * 4
    assert (result.state, result.task_state("after")) == ("success", "skipped")
    assert [champion(name.rpartition(".")[2], "dev")[0] for name in names].index(1) == approved
    assert result.xcom("promote_model.finish", map_index=no)["promoted"] is False
    assert f"it becomes **Champion** of **{cell(names[approved])}**" in asked[0]["body"]


def test_a_promotion_that_was_taken_back_is_not_confirmed(dag_runner, connection, add, champion, client, schema):
    """As when only set_tags is cleared after finish had rolled the alias back."""
    add("fraud", 0.9)
    add("fraud", 0.8, catalog="prod", champion=True)

    def define():
        group = promote_model(
            model_name=f"dev.{schema}.fraud", destination_catalog="prod", policy=POLICY, registry_conn_id=connection
        )
        back = lambda ti: client.set_registered_model_alias(f"prod.{schema}.fraud", "Champion", "1")  # noqa: E731
        on_step(group, "finish", back)

    result = dag_runner.run(define)
    assert (result.state, states(result)) == ("failed", {**DONE, "finish": "failed"})
    assert "Clear the whole group" in result.output


def test_the_alias_goes_back_though_a_worker_dies_while_it_does(dag_runner, connection, add, champion, client, schema):
    """The Dag asks for no retries."""
    add("fraud", 0.9)
    died = []

    def die_once(context):
        if not died:
            died.append(context["ti"].try_number)
            raise RuntimeError("as if the worker had died")

    def define():
        group = promote_model(model_name=f"dev.{schema}.fraud", policy=POLICY, registry_conn_id=connection)
        group.get_child_by_label("set_tags")._pre_execute_hook = fail
        group.get_child_by_label("finish")._pre_execute_hook = die_once

    result = dag_runner.run(define)
    assert (result.state, died) == ("failed", [1])
    assert champion("fraud", "dev") == (None, None)


def test_on_databricks_where_tags_end_with_no_blank(dag_runner, monkeypatch):
    """So many reasons that those of a promotion would be cut after a blank."""
    name, tags = "dev.ml_team.fraud", {f"tag{i}": "x" * 81 for i in range(10, 21)}
    with Emulator() as workspace:
        space = workspace.workspace
        monkeypatch.setenv("AIRFLOW_CONN_WS", workspace.connection_json())
        workspace.add_schema("dev.ml_team")
        space.catalog.create_model(space.admin, name)
        version = space.catalog.create_version(space.admin, name, source="dbfs:/x")
        space.catalog.finalize_version(space.admin, name, version.version)
        space.catalog.change_tags(space.admin, name, tags, [], version.version)
        policy = {"required_tags": list(tags), "require_signature": False, "compatible_signature": False}
        define = lambda: promote_model(model_name=name, policy=policy, tags={"team": "risk"})  # noqa: E731
        result = dag_runner.run(define, default_args={"registry_conn_id": "ws"})
        found = ModelRegistryHook("ws")
        found = found.run(found.registry.get_model_version(name, 1))
    assert result.state == "success", result.output
    assert found.aliases == ["Champion"]
    assert len(found.tags["promoted_because"]) == 1000
    assert found.tags["promoted_because"] == found.tags["validation_reasons"]


def test_open_source_unity_catalog_is_refused_before_any_call(dag_runner, monkeypatch):
    """Nobody listens there."""
    monkeypatch.setenv("AIRFLOW_CONN_OSS", '{"conn_type": "unity_catalog", "host": "http://127.0.0.1", "port": 9}')
    common = {"model_name": "dev.ml_team.fraud", "registry_conn_id": "oss"}

    def define():
        promote_model(policy=POLICY, **common)
        ValidateModelVersionOperator(task_id="validate", version=1, policy=POLICY, **common)
        ApproveModelVersionOperator(task_id="approve", version=1, **common)
        SetModelVersionApprovalTagOperator(task_id="tag", version=1, tag="approval", **common)

    result = dag_runner.run(define)
    refused = re.findall(
        r"Task failed with exception.*?(open-source Unity Catalog server does not)", result.output, re.DOTALL
    )
    assert len(refused) == 4
    for what in ("A promotion sets tags", "A verdict is a set of tags", "An approval is a set of tags"):
        assert f"does not support tags. {what}" in result.output
    assert "description" not in "".join(re.findall(r"does not support tags\..*", result.output))
    assert {str(ti.state) for ti in result.dag_run.get_task_instances()} == {"failed", "upstream_failed"}


def test_where_the_model_stays_the_alias_is_moved_by_this_run_or_not_at_all(
    dag_runner, connection, add, champion, client, schema
):
    """Two runs promote one version at once; a model is made anew; and a gate that was marked as succeeded."""
    names = {model: add(model, 0.8, 0.9, champion=True, catalog="dev") for model in ("twice", "remade")}

    def meanwhile(ti):
        name = list(names.values())[ti.map_index]
        if name == names["twice"]:
            hook = ModelRegistryHook(connection)
            hook.run(move_alias(hook.registry, name, "Champion", 2))
        else:
            client.delete_registered_model(name)
            add("remade", 0.1, 0.2)

    def define():
        group = promote_model.partial(policy=POLICY, registry_conn_id=connection).expand(
            model_name=list(names.values())
        )
        on_step(group, "set_alias", meanwhile)

    result = dag_runner.run(define)
    steps = ("validate", "set_alias", "set_tags", "finish")
    stopped = dict(zip(steps, ("success", "failed", "upstream_failed", "failed"), strict=True))
    assert [states(result, index, steps) for index in range(2)] == [stopped] * 2
    assert champion("twice", "dev")[0] == 2  # that is what the other run has set
    assert "somebody else has set it since the validation" in result.output
    assert champion("remade", "dev") == (None, None)
    assert f"{names['remade']}/2 is not the version that was judged" in result.output

    unjudged = SetPromotedAlias(
        task_id="unjudged", model_name=names["twice"], alias="Champion", version=1, expected_version=None,
        created_at=None, tags=None,
    )  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="did not get as far as the champion"):
        next(unjudged.call(ModelRegistryHook(connection).registry, {}))


def test_what_fails_before_the_group_keeps_it_shut(dag_runner, connection, add, champion, schema):
    name = add("fraud", 0.9)

    def define():
        @task
        def gate():
            raise RuntimeError("shut")

        @task
        def models():
            raise RuntimeError("no list")

        common = {"policy": POLICY, "registry_conn_id": connection}
        gate() >> promote_model(model_name=name, **common)
        promote_model.override(group_id="mapped").partial(**common).expand(model_name=models())

    result = dag_runner.run(define)
    steps = ("validate", "set_alias", "set_tags", "finish")
    assert (result.state, states(result, steps=steps)) == (
        "failed",
        {**dict.fromkeys(steps, "upstream_failed"), "finish": "failed"},
    )
    assert champion("fraud", "dev") == (None, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: promote_model(model_name="a.b.c", policy=POLICY, approval="yes"), "approval is True, False or a dict"),
        (lambda: promote_model.partial(policy=POLICY).expand(approval=[True]), "give it to partial"),
        (lambda: promote_model.partial(policy=POLICY).expand_kwargs([{"modelname": "a.b.c"}]), "no parameter 'modeln"),
        (lambda: promote_model(model_name="a.b.c", policy=POLICY, fail_on_rejection=None), "is True or False"),
    ],
)
@pytest.mark.filterwarnings("ignore:Partial task group")
def test_mistakes_are_found_when_the_dag_is_parsed(make, message):
    with DAG("mistaken", schedule=None), pytest.raises(InvalidArgumentError, match=message):
        make()


def test_mistakes_that_only_a_run_shows(dag_runner, connection, add, schema):
    add("empty")
    common = {"policy": POLICY, "registry_conn_id": connection}

    def define():
        promote_model.override(group_id="both")(
            model_name="a.b.c", destination_catalog="prod", destination_model_name="prod.x.y", **common
        )
        nothing = {"destination_model_name": "{{ '' }}"}, {"destination_catalog": "{{ none }}"}
        for number, options in enumerate(nothing):
            promote_model.override(group_id=f"nothing{number}")(model_name="a.b.c", **options, **common)
        promote_model.override(group_id="none")(model_name=f"dev.{schema}.empty", **common)

        @task
        def pick():
            return None

        promote_model.override(group_id="lost")(model_name="a.b.c", destination_catalog=pick(), **common)

    result = dag_runner.run(define)
    assert result.state == "failed"
    assert "Give destination_model_name or destination_catalog, not both." in result.output
    assert "destination_model_name is '': its template rendered to nothing." in result.output
    assert "destination_catalog is 'None': its template rendered to nothing." in result.output
    assert f"dev.{schema}.empty has no READY version to promote." in result.output
    assert "destination_catalog is None: the template or task" in result.output


def test_a_trigger_rule_that_is_the_dags_default_opens_no_gate(dag_runner, connection, add, champion, schema):
    name = add("poor", 0.4)

    def define():
        promote_model(model_name=name, policy=POLICY, fail_on_rejection=False, registry_conn_id=connection)

    result = dag_runner.run(define, default_args={"trigger_rule": "none_failed"})
    assert set(states(result, steps=("validate", "set_alias", "set_tags", "finish")).values()) == {"skipped"}
    with DAG("approved", schedule=None, default_args={"trigger_rule": "all_done"}) as dag:
        promote_model(model_name=name, policy=POLICY, destination_catalog="prod", approval=True)
    rules = {task.task_id.rpartition(".")[2]: task.trigger_rule for task in dag.tasks}
    gated = dict.fromkeys(("approve", "copy", "set_alias", "set_tags"), "all_success")
    assert rules == {"validate": "all_done", **gated, "finish": "all_done"}


def test_what_the_dag_gives_other_operators_is_not_for_those_of_a_promotion():
    """A copy in another registry has a number that is another version's in this one."""
    others = {
        "destination_conn_id": "x",
        "alias": "Other",
        "model_uri": "models:/a.b.c/1",
        "version": 9,
        "tags": {"a": 1},
    }
    with DAG("others", schedule=None, default_args=others) as dag:
        promote_model(model_name="a.b.c", policy=POLICY, destination_catalog="prod")
    of = {task.task_id.rpartition(".")[2]: task for task in dag.tasks}
    assert (of["copy"].destination_conn_id, of["copy"].alias, of["copy"].model_uri) == (None, None, None)
    assert (of["set_tags"].alias, of["set_tags"].tags, of["set_alias"].alias) == (None, None, "Champion")
    assert of["validate"].version is None


def test_parameters_show_in_the_signature():
    import inspect

    assert list(inspect.signature(promote_model).parameters)[:3] == ["model_name", "policy", "version"]
    for name in inspect.signature(promote_model).parameters:
        assert f"* {name}: " in type(promote_model).__doc__


@pytest.mark.parametrize("previous", [1, None])
def test_an_undo_that_is_cut_off_anywhere_is_finished_by_the_next(connection, mlflow_server, model_name, previous):
    client = make_versions(mlflow_server, model_name, 2)
    hook = ModelRegistryHook(connection)
    undo = {"version": 2, "previous": previous}

    def cut(after):
        requests = undo_move(hook.registry, model_name, "Champion", "key", **undo)
        response, count = None, 0
        while True:
            try:
                request = requests.send(response)
            except StopIteration:
                return False
            if count == after:
                requests.close()
                return True
            response = yield request
            count += 1

    for after in range(40):
        for version in filter(None, (previous, 2)):
            hook.run(move_alias(hook.registry, model_name, "Champion", version))
        was_cut = hook.run(cut(after))
        assert hook.run(undo_move(hook.registry, model_name, "Champion", "key", **undo)) == previous
        model = client.get_registered_model(model_name)
        assert aliases(client, model_name) == ({"Champion": previous} if previous else {})
        assert model.tags.get("airflow_alias_history_Champion") == (str(previous) if previous else None)
        if not was_cut:
            break
    assert after > 3
