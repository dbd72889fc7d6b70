"""What a process does with the trainings it is handed, on this machine or on another."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_tfdata import pinning
from emotion_tfdata.grid.job import LOG, Job
from emotion_tfdata.training import threads

if TYPE_CHECKING:
    from emotion_tfdata.training.learner import Learners

# Said of a folder that a lost training has not released yet.
IN_USE, _LEAVES_WITHIN_S = "is in use by another training", 60.0
_LOOK_EVERY_S = 0.1
_learners: Learners | None = None  # what this process has compiled


def begin(slots: Sequence[Sequence[int]], folder: str) -> None:
    """Take cores that nobody else has, before TensorFlow counts them.

    Args:
      slots: the cores of each process.
      folder: of the locks that say which are taken; a process that dies lets go of its.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started us tells us
    pinning.take(slots, folder)


def train(job: Job, stop_file: str, log: bool = True, several: bool = False) -> str:
    """Train with all output going to the folder's log.

    Args:
      job: the training.
      stop_file: a file that appears when the training is to save and leave.
      log: whether output goes to the log; it is shown, too, if not.
      several: whether this is one of the processes that do it together.

    Returns:
      Nothing if it is finished, else what it said last.
    """
    from emotion_tfdata.training import command

    command.import_tensorflow()
    from emotion_tfdata.training.learner import Learners

    global _learners
    if _learners is None:
        _learners = Learners()
    parent, slot = os.getppid(), pinning.taken()
    next_look_s, stopped = 0.0, False

    def should_stop() -> bool:
        nonlocal next_look_s, stopped
        if time.monotonic() >= next_look_s:
            next_look_s = time.monotonic() + _LOOK_EVERY_S
            # A training whose parent is gone saves and leaves.
            stopped = os.path.exists(stop_file) or os.getppid() != parent
            if slot:
                slot.look()
        return stopped

    job.folder.mkdir(parents=True, exist_ok=True)
    in_use_until_s = time.monotonic() + _LEAVES_WITHIN_S
    while True:
        with contextlib.ExitStack() as during:
            if log:
                during.enter_context(_into(job.folder / LOG))
            if slot:
                during.enter_context(slot.working())
            values = command.parse(job.args)
            status = command.train(values, should_stop, _learners, several)
        said = job.last_line if log else "it failed"
        if status == 0:
            return ""
        if os.getppid() != parent:  # an answer would count as an end; a death is tried elsewhere
            os._exit(status)
        if several or should_stop() or IN_USE not in said or time.monotonic() > in_use_until_s:
            return said or f"status {status}, without a word"
        time.sleep(1.0)


def with_threads(args: Sequence[str], cores: int) -> tuple[str, ...]:
    """Return a training's flags with threads for so many cores, unless they say how many."""
    suited = threads.suited_to(cores)._asdict()
    return (*(f"--{name}_threads={number}" for name, number in suited.items()), *args)


def check(args: Sequence[str], workers: int = 1) -> str:
    """Return why so many workers cannot train as the flags say; empty if they can."""
    from emotion_tfdata.training import command

    command.import_tensorflow()
    from emotion_tfdata.dataset.storage import StorageError
    from emotion_tfdata.training.data import Data
    from emotion_tfdata.training.precision import check_precision

    try:
        values = command.parse(args)
        if values.batch_size % workers:
            return (
                f"--batch_size={values.batch_size} cannot be shared equally by {workers} workers; "
                f"take a multiple of {workers}"
            )
        # Making a stream makes TensorFlow's pools, which the trainings of this process then have.
        threads.choose(values.intra_op_threads, values.inter_op_threads, values.input_threads)
        check_precision(values.precision)
        data = Data(values.data_dir, command.settings_of(values), num_threads=1)
        data.training_batches(0, 0)
    except (ValueError, StorageError) as error:
        return " ".join(str(error).split())
    return ""


def of_other_settings(jobs: Sequence[Job]) -> dict[str, str]:
    """Say what differs in folders that hold a training of other flags than the job's.

    Returns:
      By the job's name; at most four settings each.
    """
    from emotion_tfdata.training import command, run, run_dir

    found = {}
    for job in jobs:
        try:
            there = run_dir.read_json(job.folder / run_dir.SETTINGS)
        except (OSError, ValueError):  # nothing there, or damaged: the training itself says so
            continue
        values = command.parse(job.args)
        wanted = json.loads(json.dumps(run.claim(command.settings_of(values), values.data_dir)))
        different = run_dir.differences(there, wanted)
        if different:
            found[job.name] = "; ".join(different[:4]) + "; ..." * (len(different) > 4)
    return found


def summarize(folder: Path, jobs: Sequence[Job]) -> str:
    """Write the report over finished trainings; return it as text, with where its files are.

    One training in the grid's own folder has written its report itself.
    """
    from emotion_tfdata.training import command

    command.import_tensorflow()
    from emotion_tfdata.training import report as reports
    from emotion_tfdata.training import run

    found = [job.report for job in jobs if job.report]
    if [job.folder for job in jobs] == [folder]:
        return run.closing(found[0], folder)
    report = reports.folds_report(found)
    reports.write(folder, report)
    return run.closing(report, folder)


@contextlib.contextmanager
def _into(path: Path) -> Iterator[None]:
    """Send all output to the end of a file, C++ code's included."""
    kept = os.dup(1), os.dup(2)
    with open(path, "a", buffering=1, encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        finally:
            for number, descriptor in enumerate(kept, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
