"""Processes that run models: what they answer, what they print, and how they end."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_uc_models.engines.runners import Processes, Workers, processes_of, remember_environment, warmed
from airflow_uc_models.environments import bootstrap
from airflow_uc_models.environments.cache import EnvironmentCache
from airflow_uc_models.environments.environment import Environment
from airflow_uc_models.environments.process import ModelProcess
from airflow_uc_models.environments.requirements import ModelRequirements
from airflow_uc_models.environments.scoring import Asked
from airflow_uc_models.exceptions import ModelContentError, ModelEnvironmentError, PredictionError


def rows(*values):
    return pa.record_batch({"x": pa.array(values, pa.float64())})


def gone(pid: int) -> bool:
    """Wait until a process is no more."""
    try:
        psutil.Process(pid).wait(20)
    except psutil.NoSuchProcess:
        return True
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_a_model_prints_is_logged_and_spoils_nothing(start, caplog):
    caplog.set_level(logging.INFO)
    given = start(
        "print('printed')\nos.write(1, b'written\\n')\nsubprocess.run(['echo', 'by a child'])\n"
        "print('warned', file=sys.stderr)\nreturn rows['x'].to_numpy() * 2"
    )
    with ModelProcess.started(given) as process:
        assert process.call("load")["python"] == sys.version.split()[0]
        assert process.predict(rows(1, 2)).to_pydict() == {"prediction": [2, 4]}
    assert [line for line in caplog.messages if line in ("printed", "written", "by a child", "warned")] == [
        "printed",
        "written",
        "by a child",
        "warned",
    ]


def test_answers_come_in_order_however_large_they_are(start):
    """Requests and responses of megabytes are on their way at once; no side waits for the other."""
    with ModelProcess.started(start("return rows['x'].to_numpy() + 1")) as process:
        batches = [pa.record_batch({"x": np.full(500_000, float(n))}) for n in range(8)]
        answers = [process.submit_rows(batch, Asked()) for batch in batches]
        found = [answer.result().columns["prediction"] for answer in answers]
    assert [array[0].as_py() for array in found] == [n + 1 for n in range(8)]
    assert {len(array) for array in found} == {500_000}


def test_what_a_function_raises_is_raised_here(start, caplog):
    caplog.set_level(logging.INFO)
    given = start("if rows['x'][0] < 0: raise KeyError('negative')\nreturn rows['x'][1:]")
    with ModelProcess.started(given) as process:
        with pytest.raises(PredictionError, match="KeyError: 'negative'") as caught:
            process.predict(rows(-1))
        assert "model.py" in str(caught.value), "where it was raised"
        with pytest.raises(PredictionError, match=r"^The model returned 1 values of 'prediction' for 2 rows\.$"):
            process.predict(rows(1, 2))
        with pytest.raises(PredictionError, match="KeyError: 'no_such_function'"):
            process.call("no_such_function")
        found = process.submit_rows(rows(-1, 2), replace(Asked(quarantines=True))).result()
    assert found.bad


def test_bad_rows_come_back_with_the_good_ones(start):
    given = start("if (rows['x'] < 0).any(): raise ValueError('negative')\nreturn rows['x'].to_numpy()")
    with ModelProcess.started(given) as process:
        found = process.submit_rows(rows(1, -2, 3), Asked(quarantines=True)).result()
        assert found.bad == [(1, "ValueError: negative")]
        assert found.columns.to_pydict() == {"prediction": [1, 3]}
        found = process.submit_rows(rows(-1), Asked(quarantines=True)).result()
        assert (found.bad, found.columns) == ([(0, "ValueError: negative")], None)


def test_a_missing_package_is_told(start):
    given = start("")
    (given.folder / "model.py").write_text("import no_such_package")
    told = r"models:/a\.b\.c/1 cannot be loaded: ModuleNotFoundError: .*The model needs no_such_package"
    with ModelProcess.started(given) as process, pytest.raises(ModelContentError, match=told):
        process.call("load")


def test_a_model_that_exits_is_told_at_once(start):
    with ModelProcess.started(start("sys.exit(3)")) as process, pytest.raises(PredictionError, match="SystemExit: 3"):
        process.predict(rows(1))


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL, as happens where memory runs out"),
        ("os._exit(7)", "ended with exit code 7"),
    ],
)
def test_a_process_that_dies_is_told_with_its_last_words(start, end, told):
    with ModelProcess.started(start(f"print('last words', flush=True)\n{end}")) as process:
        answers = [process.submit_rows(rows(1), Asked()) for _ in range(3)]
        for answer in answers:
            with pytest.raises(ModelEnvironmentError, match=f"The process of models:/a.b.c/1 {told}") as error:
                answer.result()
            assert str(error.value).endswith("last words")


def test_nothing_that_the_model_has_started_outlives_it(start):
    given = start("return [subprocess.Popen(['sleep', '600']).pid]")
    with ModelProcess.started(given) as process:
        child = process.predict(rows(1))["prediction"][0].as_py()
        assert psutil.pid_exists(child)
    assert gone(process.pid)
    assert gone(child)


def test_a_failure_here_ends_the_process_in_the_midst_of_its_work(start):
    def fail():
        with ModelProcess.started(start("time.sleep(600)")) as process:
            process.submit_rows(rows(1), Asked())
            pids.append(process.pid)
            raise KeyError

    pids: list[int] = []
    with pytest.raises(KeyError):
        fail()
    assert gone(pids[0])


TASK = """
import sys
from pathlib import Path
from mlflow.types import ColSpec, Schema
from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.local import score
from airflow_uc_models.engines.local_plan import plan_of
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.runners import Processes, Workers, processes_of, remember_environment, warmed
from airflow_uc_models.engines.tables import open_table
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.cache import EnvironmentCache
from airflow_uc_models.environments.environment import Environment
from airflow_uc_models.environments.process import ModelProcess, Start

folder, path = map(Path, sys.argv[1:])
mlmodel = {"signature": {"inputs": Schema([ColSpec("double", "x")]).to_json()}}
job = InferenceJob(input=str(folder / "in.parquet"), output=str(folder / "out.parquet"), batch_size=1)
plan = plan_of(job, open_table(Location.parse(job.input)), mlmodel, ModelVersion("a.b.c", 1))
with ModelProcess.started(Start(Path(sys.executable), path, "m", [str(path.parent / "path")])) as process:
    (folder / "pid").write_text(str(process.pid))
    score(Processes([process]), plan)
"""


def test_a_killed_task_leaves_no_output_and_no_process(start, tmp_path):
    given = start(f"if rows['x'][0] == 2:\n    open('{tmp_path}/begun', 'w')\n    time.sleep(600)\nreturn rows['x']")
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0]}), tmp_path / "in.parquet")
    with subprocess.Popen([sys.executable, "-c", TASK, str(tmp_path), str(given.folder)]) as task:
        while not (tmp_path / "begun").exists():
            assert task.poll() is None
        process = psutil.Process(int((tmp_path / "pid").read_text()))
        task.send_signal(signal.SIGKILL)
    assert gone(process.pid)
    assert not (tmp_path / "out.parquet").exists()


def test_work_goes_to_the_process_that_has_the_least(start, tmp_path):
    waits = f"while rows['x'][0] < 0 and not os.path.exists('{tmp_path}/go'): time.sleep(0.01)\nreturn [os.getpid()]"
    given = start(waits)
    with ModelProcess.started(given) as first, ModelProcess.started(given) as second:
        runner = Processes([first, second])
        assert runner.ahead == 4
        slow = runner.submit(rows(-1), Asked())
        quick = [runner.submit(rows(1), Asked())() for _ in range(3)]
        assert {found.columns["prediction"][0].as_py() for found in quick} == {second.pid}
        (tmp_path / "go").touch()
        assert slow().columns["prediction"].to_pylist() == [first.pid]


def test_an_interpreter_that_cannot_be_started(start, tmp_path):
    given = replace(start("return rows"), python=tmp_path / "python")
    with pytest.raises(ModelEnvironmentError, match="cannot be started"), ModelProcess.started(given):
        pass


def test_a_python_that_is_too_old_is_told(start, tmp_path):
    """Its own words, as the process prints them."""
    old = tmp_path / "old.py"
    source = Path(bootstrap.__file__).read_text()
    assert "OLDEST = (3, 10)" in source
    old.write_text(source.replace("OLDEST = (3, 10)", "OLDEST = (99, 0)"))
    done = subprocess.run([sys.executable, old], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is too old to run a model here" in done.stderr


def test_threads_are_shared_among_processes(start, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    variables = start("", threads=2).variables()
    assert (variables["OMP_NUM_THREADS"], variables["MKL_NUM_THREADS"]) == ("5", "2")


def test_what_runs_beside_a_model_is_read_by_the_oldest_python():
    """These files run in environments of models."""
    import ast

    folder = Path(bootstrap.__file__).parent
    files = [folder / f"{name}.py" for name in ("__init__", "bootstrap", "messages", "scoring", "worker")]
    for file in [*files, folder.parent / "exceptions.py", folder.parent / "lazy.py", folder.parent / "__init__.py"]:
        ast.parse(textwrap.dedent(file.read_text()), feature_version=bootstrap.OLDEST)


def test_processes_of_a_known_environment_begin_before_their_model_is_there(start, tmp_path, monkeypatch):
    given = start("return [os.getpid()]")
    monkeypatch.setenv("AIRFLOW__UC_MODELS__ENVIRONMENTS_FOLDER", str(tmp_path / "cache"))
    environment = Environment("uv", "tested", "m", ModelRequirements(None, ("tiny==1",)))

    def build(place, lock):
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "python").write_text(f'#!/bin/sh\nPYTHONPATH={given.path[0]} exec {sys.executable} "$@"\n')
        (place / "bin" / "python").chmod(0o755)

    with EnvironmentCache.configured().environment(environment.key, build):
        pass
    workers = Workers(1, tmp_path / "not there", "m", [])
    with warmed("m/1", workers) as warm:
        assert warm is None
    remember_environment("m/1", environment)
    interpreter = EnvironmentCache.configured().folder / str(environment.key) / "bin" / "python"
    interpreter.chmod(0o644)
    with warmed("m/1", workers) as warm:
        assert warm is None, "what cannot be started is told when it is needed"
    interpreter.chmod(0o755)
    with warmed("m/1", workers) as warm:
        assert [process.call("warm") for process in warm.processes] == [{}]
        with processes_of(environment, replace(workers, folder=given.folder), warm) as processes:
            found = processes.submit(rows(1), Asked())()
            assert found.columns["prediction"].to_pylist() == [warm.processes[0].pid]
        other = Environment("uv", "tested", "m", ModelRequirements(None, ("tiny==2",)))
        with EnvironmentCache.configured().environment(other.key, build):
            pass
        with processes_of(other, replace(workers, folder=given.folder), warm) as processes:
            found = processes.submit(rows(1), Asked())()
            assert found.columns["prediction"].to_pylist() != [warm.processes[0].pid]
            assert gone(warm.processes[0].pid)
