"""Workers that work, die, hang and do not start."""

from __future__ import annotations

import functools
import math
import os
import signal
import sys
import time

import pytest

from preprocess.builder.pool import Lost, Pool, WorkerError, cores_for


def double(task):
    return 2 * task


def nothing(task):
    return None


def speak(task):
    print(f"task {task}", file=sys.stderr, flush=True)
    return task


def perish(task, marks):
    """Dies by a signal whenever it gets 3, leaving a mark each time."""
    if task == 3:
        (marks / f"{time.monotonic_ns()}").touch()
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    return task


def perish_once(task, marks):
    if task == 3 and not any(marks.iterdir()):
        (marks / "once").touch()
        os._exit(7)
    return task


def hang(task, marks):
    if task == 1:
        (marks / f"{time.monotonic_ns()}").touch()
        signal.pause()
    return task


def take(task):
    """Takes that many megabytes of memory and uses them."""
    try:
        return len(bytearray(task * 10**6))
    except MemoryError:
        return "refused"


def environment(task):
    return os.environ.get(task), os.getpid()


def run(function, tasks, tmp_path, num_workers=2, timeout_s=60.0):
    with Pool(function, num_workers, tmp_path, timeout_s) as pool:
        return dict(pool.run(tasks))


def test_every_task_gets_its_result(tmp_path):
    assert run(double, range(20), tmp_path) == {task: 2 * task for task in range(20)}
    assert run(nothing, range(3), tmp_path) == dict.fromkeys(range(3))
    assert run(double, [], tmp_path, num_workers=0) == {}


def test_tasks_are_fetched_when_somebody_can_do_them(tmp_path):
    fetched = []

    def tasks():
        for task in range(20):
            fetched.append(task)
            yield task

    with Pool(double, 2, tmp_path, 60.0) as pool:
        for done, _ in enumerate(pool.run(tasks()), start=1):
            assert len(fetched) <= done + 2
    assert fetched == list(range(20))


def test_a_task_may_take_for_ever(tmp_path):
    assert run(double, [2], tmp_path, timeout_s=math.inf) == {2: 4}
    assert run(double, [2], tmp_path, timeout_s=1e12) == {2: 4}


def test_without_a_folder_for_logs_workers_write_where_the_parent_does(capfd):
    with Pool(speak, 1, None, 60.0) as pool:
        assert list(pool.run([1])) == [(1, 1)]
    assert "task 1\n" in capfd.readouterr().err


def test_a_worker_that_dies_costs_one_task_tried_twice(tmp_path):
    (tmp_path / "marks").mkdir()
    results = run(functools.partial(perish, marks=tmp_path / "marks"), range(6), tmp_path)
    lost = results.pop(3)
    assert results == {task: task for task in (0, 1, 2, 4, 5)}
    assert lost == Lost("its worker died (SIGSEGV: about to die)")
    assert len(list((tmp_path / "marks").iterdir())) == 2


def test_a_task_that_only_its_worker_s_bad_luck_cost_is_done(tmp_path):
    (tmp_path / "marks").mkdir()
    results = run(functools.partial(perish_once, marks=tmp_path / "marks"), range(6), tmp_path)
    assert results == {task: task for task in range(6)}


def test_a_task_that_hangs_is_stopped(tmp_path):
    (tmp_path / "marks").mkdir()
    results = run(
        functools.partial(hang, marks=tmp_path / "marks"), range(3), tmp_path, timeout_s=0.3
    )
    assert results == {0: 0, 1: Lost("took longer than 0.3 s and was stopped"), 2: 2}
    assert len(list((tmp_path / "marks").iterdir())) == 2


def test_workers_have_one_library_thread_and_the_parent_keeps_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    results = run(environment, ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], tmp_path)
    assert [value for value, _ in results.values()] == ["1", "1"]
    assert all(process != os.getpid() for _, process in results.values())
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def cores(task):
    return os.getpid(), frozenset(os.sched_getaffinity(0))


@pytest.mark.parametrize("more", [0, 2])
def test_workers_that_fill_the_machine_stay_on_a_core_each(tmp_path, more):
    here = sorted(os.sched_getaffinity(0))
    wanted = [here[index % len(here)] for index in range(len(here) + more)]
    assert cores_for(len(wanted)) == wanted
    assert cores_for(len(here) - 1) == [None] * (len(here) - 1)
    found = dict(run(cores, range(8), tmp_path, num_workers=len(here)).values())
    assert all(len(each) == 1 for each in found.values())
    assert len(set(found.values())) == len(found)


def test_a_worker_s_place_is_taken_over_by_the_next(tmp_path):
    (tmp_path / "marks").mkdir()
    function = functools.partial(perish, marks=tmp_path / "marks")
    with Pool(function, 1, tmp_path, 60.0) as pool:
        assert dict(pool.run([3, 1, 3, 2]))[2] == 2


def test_a_worker_s_memory_is_limited(tmp_path):
    with Pool(take, 1, tmp_path, 60.0, memory_bytes=400 * 10**6) as pool:
        assert dict(pool.run([1, 800, 2])) == {1: 10**6, 800: "refused", 2: 2 * 10**6}


def interrupts(task):
    return signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_interrupt_is_the_parent_s_alone(tmp_path):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert run(interrupts, [1], tmp_path) == {1: (signal.SIG_IGN, set())}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


class Unloadable:
    """A function that workers cannot load."""

    def __reduce__(self):
        return _refuse, ()

    def __call__(self, task):
        return task


def _refuse():
    raise RuntimeError("this cannot be loaded")


def test_workers_that_do_not_start_end_the_run(tmp_path):
    with pytest.raises(WorkerError, match="workers do not start"):
        run(Unloadable(), range(4), tmp_path, num_workers=1)
