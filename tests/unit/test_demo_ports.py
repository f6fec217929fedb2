"""A demo's folder keeps its ports, so that links of earlier runs stay good."""

from __future__ import annotations

import socket
from dataclasses import asdict

import pytest

from scripts.demo.ports import Ports


def test_ports_stay_the_same(tmp_path):
    first, changed = Ports.kept(tmp_path / "ports.json")
    assert changed == {}
    assert len(set(asdict(first).values())) == len(asdict(first))
    assert Ports.kept(tmp_path / "ports.json") == (first, {})


def test_a_port_that_somebody_else_has_taken_is_named_and_replaced(tmp_path):
    first, _ = Ports.kept(tmp_path / "ports.json")
    with socket.socket() as other:
        other.bind(("127.0.0.1", first.mlflow))
        other.listen()
        second, changed = Ports.kept(tmp_path / "ports.json")
    assert changed == {"mlflow": (first.mlflow, second.mlflow)}
    assert asdict(second) == {**asdict(first), "mlflow": second.mlflow}
    assert Ports.kept(tmp_path / "ports.json") == (second, {}), "the new one is kept now"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"mlflow": "x", "airflow": 99999999, "other": 1, "database": true}'])
def test_a_damaged_file_does_no_harm(tmp_path, text):
    (tmp_path / "ports.json").write_text(text)
    assert Ports.kept(tmp_path / "ports.json")[1] == {}
