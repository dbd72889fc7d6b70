"""Thread counts that fit the machine and what a container leaves of it."""

from __future__ import annotations

import os

import pytest
import tensorflow as tf

from emotion_tfdata.training import threads
from emotion_tfdata.training.threads import Threads


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, (1, 1, 1)), (2, (1, 2, 2)), (8, (4, 4, 4)), (96, (16, 4, 4))],
)
def test_a_large_machine_gets_no_more_threads_than_a_step_can_use(cores, expected):
    assert threads.suited_to(cores) == Threads(*expected)


@pytest.mark.parametrize(
    ("content", "share"), [("150000 100000", 2), ("50000 100000", 1), ("9900000 100000", None)]
)
def test_a_containers_share_counts(tmp_path, content, share):
    (tmp_path / "cpu.max").write_text(content)
    own = len(os.sched_getaffinity(0))
    assert threads.usable_cores(tmp_path / "cpu.max") == min(own, share or own)


def test_without_a_limit_it_is_the_affinity_mask(tmp_path):
    own = len(os.sched_getaffinity(0))
    assert threads.usable_cores(tmp_path / "none") == own
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads.usable_cores(tmp_path / "cpu.max") == own


def test_numbers_given_are_taken_and_the_rest_is_chosen(monkeypatch):
    given = {}
    for name in ("intra", "inter"):
        monkeypatch.setattr(
            tf.config.threading,
            f"set_{name}_op_parallelism_threads",
            lambda number, name=name: given.update({name: number}),
        )
    monkeypatch.setattr(threads, "usable_cores", lambda: 96)
    assert threads.choose(3, 0, 0) == Threads(3, 4, 4)
    assert given == {"intra": 3, "inter": 4}
    assert threads.choose(0, 1, 7) == Threads(16, 1, 7)


def test_processes_get_cores_of_their_own_and_of_one_numa_node():
    nodes = [[0, 8, 1, 9, 2, 10], [3, 11, 4, 12, 5, 13]]  # threads of a core next to each other
    found = threads.slots(3, 0, nodes)
    assert found == [[0, 8, 1, 9], [3, 11, 4, 12], [2, 10, 5, 13]]  # two whole, the rest is left
    found = threads.slots(6, 0, nodes)
    assert sorted(core for slot in found for core in slot) == sorted(
        core for node in nodes for core in node
    )
    assert all(any(set(slot) <= set(node) for node in nodes) for slot in found)
    assert threads.slots(2, 2, nodes) == [[0, 8], [1, 9]]
    assert threads.slots(20, 0, nodes) == [[]] * 20  # fewer cores than processes: no binding


def test_this_machines_cores_are_dealt():
    assert sorted(threads.slots(1)[0]) == sorted(os.sched_getaffinity(0))
