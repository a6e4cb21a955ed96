"""Finding workers by their names."""

from __future__ import annotations

import pytest

from orderflow.errors import UnknownWorker
from orderflow.worker_files import shipped_worker, worker_files

SHIPPED = ["notification", "order", "payment"]


def test_those_that_come_with_orderflow_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sorted(worker_files()) == SHIPPED


def test_a_file_of_ones_own_wins_over_one_of_the_same_name(tmp_path, monkeypatch):
    (tmp_path / "workers").mkdir()
    own = tmp_path / "workers" / "order.py"
    own.write_text("")
    (tmp_path / "workers" / "_helper.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert worker_files()["order"] == own
    assert sorted(worker_files()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_one_that_comes_with_orderflow_can_be_added_to(name):
    assert shipped_worker(name) is not shipped_worker(name), "nobody else's is changed by it"


def test_one_that_does_not_come_with_orderflow_is_told():
    with pytest.raises(UnknownWorker, match="no worker 'own'; these exist: notification, order"):
        shipped_worker("own")
