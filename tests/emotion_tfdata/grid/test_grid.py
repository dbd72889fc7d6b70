"""A grid of trainings: what runs when, what is kept, what is said."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import os
import signal
import sys
import threading
import time
import types

import pytest

from emotion_tfdata import pinning
from emotion_tfdata.grid import progress as progress_lib
from emotion_tfdata.grid import run, worker
from emotion_tfdata.grid.job import LOG, GridError, Job
from emotion_tfdata.grid.local import Local
from emotion_tfdata.grid.progress import Progress
from emotion_tfdata.training import run_dir, threads


def report(uar=0.5, epochs=3):
    return {"held_out": {"uar": uar, "accuracy": uar}, "epochs": epochs, "seconds": 1.0}


class Inline:
    """Does trainings at once, in this process, as a function of the job says."""

    how = "1 at a time"

    def __init__(self, work):
        self._work, self._ended = work, []

    def room(self):
        return 1 - len(self._ended)

    def start(self, job, stop_file):
        self._ended.append((job, self._work(job, stop_file)))

    def wait(self, seconds):
        ended, self._ended = self._ended, []
        return ended


@pytest.fixture
def jobs(tmp_path):
    made = [Job(f"fold-{n}", tmp_path / f"fold-{n}", (), 3) for n in range(3)]
    for job in made:
        job.folder.mkdir()
    return made


def finish(job, stop_file):
    run_dir.write_json(job.folder / run_dir.REPORT_JSON, report())
    return ""


def test_what_is_finished_is_kept_and_what_fails_is_listed(tmp_path, jobs):
    finish(jobs[0], None)
    (jobs[1].folder / run_dir.REPORT_JSON).write_text("{")  # damaged: made again
    done = []

    def do(job, stop_file):
        done.append(job)
        return "a line" if job is jobs[2] else finish(job, stop_file)

    grid, said = run.Grid(tmp_path, jobs), io.StringIO()
    assert not grid.run(Inline(do), Progress(said))
    assert done == jobs[1:]
    assert (grid.failed, grid.status) == ({jobs[2]: "a line"}, 1)
    assert "3 trainings, 1 of them finished; 1 at a time" in said.getvalue()
    assert "[2/3] fold-1: UAR 0.500, accuracy 0.500, 3 epochs" in said.getvalue()
    assert "[2/3] fold-2: FAILED: a line" in said.getvalue()
    table = (tmp_path / run.TABLE).read_text()
    assert "| fold-1 | 0.500 | 0.500 | 3 | 1 |" in table
    assert "| fold-2 | failed: a line |" in table


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_request_to_stop_reaches_the_trainings(tmp_path, jobs, number, status):
    def do(job, stop_file):
        signal.raise_signal(number)
        return "stopped at epoch 1"

    grid, said = run.Grid(tmp_path, jobs), io.StringIO()
    handler = signal.getsignal(number)
    assert not grid.run(Inline(do), Progress(said))
    assert (grid.status, grid.failed, len(grid.waiting)) == (status, {}, 3)
    assert "fold-0: stopped after epoch 0" in said.getvalue()
    assert signal.getsignal(number) is handler
    assert not (tmp_path / ".stop").exists()


def test_a_second_grid_in_the_folder_is_refused(tmp_path):
    refused = pytest.raises(run.GridError, match="is in use by another grid")
    with run.locked(tmp_path), refused, run.locked(tmp_path):
        pass


def test_epochs_done_and_the_last_line_are_read_from_the_end_of_the_log(jobs):
    job, log = jobs[0], jobs[0].folder / LOG
    assert (job.epochs_done, job.last_line) == (0, "")
    log.write_text("x" * 20000 + "\nepoch 1/9  train loss 1.0\nepoch 2/9  batch 3/12  loss 1.0\n\n")
    assert (job.epochs_done, job.last_line) == (1, "epoch 2/9  batch 3/12  loss 1.0")
    log.write_text("epoch 2/9  train loss 1.0 accuracy 0.2\nstopped at epoch 3, batch 1; ...\n")
    assert job.epochs_done == 2


def test_progress_tells_the_rate_and_what_is_left_at_it(tmp_path, jobs, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: clock[0])
    finish(jobs[0], None)
    grid, stream = run.Grid(tmp_path, jobs), io.StringIO()
    told = Progress(stream)
    told.begin(grid, "1 at a time")
    grid.running[jobs[1]] = 0.0
    (jobs[1].folder / LOG).write_text("epoch 1/3  train loss 1.0\n")
    clock[0] += 60
    told.look(grid)
    line = stream.getvalue().splitlines()[-1]
    assert line == "1/3 done  1.0 epochs/min  at most 5:00 left  fold-1 1/3"


def test_a_folder_that_a_lost_training_is_leaving_is_waited_for(fake_data_dir, tmp_path, capfd):
    folder = tmp_path / "m"
    args = (f"--data_dir={fake_data_dir}", f"--model_dir={folder}", "--landmarks=all", "--fold=99")
    job = Job("m", folder, args, 1)
    folder.mkdir()
    # Fails for its flags, not for the lock: nothing else is waited for.
    assert "--fold=99" in worker.train(job, str(tmp_path / "never"))
    stop = tmp_path / "stop"
    stop.touch()
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by another training" in worker.train(
            Job("m", folder, args[:-1], 1), str(stop)
        )  # asked to stop: not waited for
        threading.Timer(0.5, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        threading.Timer(0.6, stop.touch).start()
        stop.unlink()
        said = worker.train(Job("m", folder, args[:-1], 1), str(stop))
        assert said.startswith("stopped at")  # had it, once it was free
    assert capfd.readouterr() == ("", "")  # all of it went to the log


def where(_):
    return os.getpid(), sorted(os.sched_getaffinity(0))


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_process_has_cores_of_its_own_and_the_death_of_one_is_its_own_affair(monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    with Local(min(2, len(cores)), 2) as local:
        # As trainings begin, several at a time; a process that died gives its cores to the next.
        monkeypatch.setattr(worker, "train", where)
        futures = [local._pool.schedule(where, args=(n,)) for n in range(8)]
        seen = dict(future.result() for future in futures)
        there = [tuple(own) for own in threads.slots(local.jobs)]
        assert len({*map(tuple, seen.values())}) == len(seen)  # one may do all of them
        assert {*map(tuple, seen.values())} <= {*there}
        assert all(len(own) == len(cores) // local.jobs for own in there)
        lost = local._pool.schedule(die, args=(0,))
        assert lost.exception() is not None
        after = dict(local._pool.schedule(where, args=(n,)).result() for n in range(4))
        assert {*map(tuple, after.values())} <= {*there}


def wait_for(is_so):
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def trains_until(started, end):
    with pinning.taken().working():
        started.touch()
        wait_for(end.exists)


def sees_beside_and_after(started, end):
    wait_for(started.exists)
    slot, cores = pinning.taken(), lambda: os.sched_getaffinity(0)
    with slot.working():
        slot.look()
        beside = cores()
        end.touch()
        wait_for(lambda: slot.look() or cores() != beside)
        return beside, cores()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_the_cores_of_who_is_done_are_the_others(tmp_path):
    places = tmp_path / "started", tmp_path / "end"
    with Local(2, 2) as local:
        other = local._pool.schedule(trains_until, args=places)
        beside, after = local._pool.schedule(sees_beside_and_after, args=places).result()
        other.result()
        own = threads.slots(2)
    assert beside in map(set, own)
    assert after == {*own[0], *own[1]}


def test_more_jobs_than_memory_is_a_line():
    with pytest.raises(run.GridError, match=r"--jobs=100000: there is memory for \d+ trainings"):
        Local(100_000, 5)


def test_without_ray_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "emotion_tfdata.grid.on_ray", raising=False)
    with (
        pytest.raises(GridError, match=r"--runner=ray needs Ray .* '\.\[train,ray\]'"),
        run.runner_of(types.SimpleNamespace(runner="ray"), 2),
    ):
        pass


def test_several_workers_need_ray_and_equal_shares(fake_data_dir):
    local = types.SimpleNamespace(runner="local", workers=2)
    with (
        pytest.raises(GridError, match="--workers=2 needs --runner=ray; add --ray_address=local"),
        run.runner_of(local, 1),
    ):
        pass
    flags = [f"--data_dir={fake_data_dir}", "--batch_size=24"]
    says = "--batch_size=24 cannot be shared equally by 5 workers; take a multiple of 5"
    assert worker.check(flags, workers=5) == says


def test_a_folds_run_is_what_each_training_is_alone(parsed, fake_data_dir, tmp_path, capfd):
    """Slow: three trainings, in a process that imports TensorFlow for them."""
    small = [
        *("--modalities=landmarks", "--landmarks=all", "--batch_size=12", "--epochs=2"),
        *("--model=tcn_filters=4", "--model=tcn_dilations=1", "--model=joined_units=8,8"),
        *("--intra_op_threads=1", "--inter_op_threads=1", "--input_threads=1"),
        f"--data_dir={fake_data_dir}",
    ]
    command = parsed(*small, f"--model_dir={tmp_path / 'g'}", "--folds=0,3", "--jobs=1")
    assert command.main(["train.py"]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "over folds" in said.out
    over = json.loads((tmp_path / "g" / "report.json").read_text())
    each = [json.loads((tmp_path / "g" / f"fold-{f}" / "report.json").read_text()) for f in (0, 3)]
    uars = [one["held_out"]["uar"] for one in each]
    assert over["held_out"]["uar_over_folds"]["by_fold"] == uars
    job = Job("3", tmp_path / "alone", (*small, f"--model_dir={tmp_path / 'alone'}", "--fold=3"), 2)
    with Local(1, 1) as alone:  # this process has other threads
        alone.start(job, tmp_path / "never")
        while not (ended := alone.wait(1.0)):
            pass
    assert ended == [(job, "")]
    said = [tmp_path / name / "predictions.csv" for name in ("alone", "g/fold-3")]
    assert said[0].read_bytes() == said[1].read_bytes()
    assert worker.of_other_settings([job]) == {}
    longer = dataclasses.replace(job, args=(*job.args, "--epochs=3"))
    assert worker.of_other_settings([longer]) == {"3": "epochs: there 2, asked for 3"}
