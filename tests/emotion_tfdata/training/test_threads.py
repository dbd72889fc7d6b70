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
