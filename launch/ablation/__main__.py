"""Trains systems against each other and compares them, under honest and leaky protocol.

    python -m launch.ablation --data_dir=D --model_dir=M --seeds=3 --folds=all [-- TRAIN'S FLAGS]

Every system by every fold, seed and protocol is a training of its own: a train.py process, in its
own folder M/PROTOCOL/SYSTEM/seed-S/fold-F. Several run at a time (--jobs). M/ablation.html, .md and
.json are renewed whenever one ends: accuracy and unweighted average recall with 95 % intervals, per
corpus, and the paired differences to the baseline.

The same command goes on where it was stopped: what is finished is kept, what was broken off goes on
from its checkpoint. More seeds, folds, systems or protocols add to what is there; the tables speak
of what the last command asked for. Ctrl-C and SIGTERM have the trainings save first; a second one
does not wait for that. A training that fails is listed with the last line it said, the others go
on, and the status is 1.

Systems are what their flagfiles say: tcn.flags and launch/flags/SYSTEM.flags. Flags after -- go to
every training, after the flagfile's: -- --select_on=none --lr_schedule=cosine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from absl import app, flags

from launch.ablation import training as folders
from launch.ablation.content import blocks
from launch.ablation.markdown import markdown
from launch.ablation.page import page
from launch.ablation.plan import PROTOCOLS, SYSTEMS, AblationError, Plan, Training
from launch.ablation.pool import Pool, Running
from launch.ablation.progress import Progress
from launch.ablation.summary import WAITING, summarize
from launch.ablation.training import Outcome

FLAGS = flags.FLAGS
# One training's, with room to spare; what it needs is the framework's, hardly the data's.
_MEMORY_BYTES = 1.5e9

flags.DEFINE_string(
    "data_dir", "data/sample/tfrecords", "data set, from preprocess.build_tfrecords"
)
flags.DEFINE_string("model_dir", "runs/ablation", "folder of all trainings and of the tables")
flags.DEFINE_list("systems", list(SYSTEMS), "which to train; differences need the baseline")
flags.DEFINE_list(
    "protocols",
    list(PROTOCOLS),
    "actor: folds of actors, figures hold for new people. random: clips dealt at random within "
    "each class, 80/20 with five folds; leaky, the same actors are trained on and tested on",
)
flags.DEFINE_integer("seeds", 3, "how many: 0, 1, ...", lower_bound=1)
flags.DEFINE_list(
    "folds",
    ["all"],
    "'all' or e.g. 0,2: held out one after the other. One alone gives no interval "
    "that speaks of other actors",
)
flags.DEFINE_integer("epochs", None, "most epochs (default: the flagfiles')", lower_bound=1)
flags.DEFINE_integer(
    "jobs",
    0,
    "trainings at a time, each with its share of the cores as threads; 0: one a core, if there is "
    "memory",
    lower_bound=0,
)
flags.DEFINE_bool("overwrite", False, "train anew what --model_dir holds with other settings")
flags.DEFINE_bool("dry_run", False, "show what would be trained, and do nothing")


def main(argv: list[str]) -> int:
    """Runs the ablation that the flags describe; returns the exit status."""
    try:
        plan = Plan.make(
            data_dir=FLAGS.data_dir,
            model_dir=FLAGS.model_dir,
            systems=FLAGS.systems,
            protocols=FLAGS.protocols,
            num_seeds=FLAGS.seeds,
            folds=FLAGS.folds,
            epochs=FLAGS.epochs,
            train_args=argv[1:],
        )
        _check_flags(plan)
        if "TF_CONFIG" in os.environ:
            raise AblationError(
                "TF_CONFIG is set, but every training here is one process; unset it"
            )
        jobs, threads = _share(len(plan.trainings))
        if FLAGS.dry_run:
            return _show(plan, jobs, threads)
        with _locked(plan.model_dir):
            return _run(plan, jobs, threads)
    except AblationError as error:
        print(f"launch.ablation: {error}", file=sys.stderr)
        return 1


def _run(plan: Plan, jobs: int, threads: int) -> int:
    other = _of_other_settings(plan)
    if other and not FLAGS.overwrite:
        training, different = next(iter(other.items()))
        raise AblationError(
            f"--model_dir={plan.model_dir} holds {len(other)} trainings with other settings, "
            f"{training.name} for one ({'; '.join(different[:4])}"
            f"{'; ...' if len(different) > 4 else ''}). Choose another --model_dir, or --overwrite "
            "them; those with the same settings are kept."
        )
    for training in other:
        folders.clear(plan.folder(training))
    finished = {t: outcome for t in plan.trainings if (outcome := _outcome(plan, t))}
    rest = [training for training in plan.trainings if training not in finished]
    pool = Pool(plan, rest, jobs=jobs, threads=threads, overwrite=FLAGS.overwrite)
    progress = Progress(plan)
    total = len(plan.trainings)
    progress.line(
        f"{total} trainings, {len(finished)} of them finished already; {jobs} at a time, "
        f"{threads} thread{'s' if threads > 1 else ''} each"
    )
    if plan.data.provenance:
        progress.line(f"figures will be of {plan.data.provenance} and say nothing about people")

    def on_end(one: Running) -> None:
        outcome = _outcome(plan, one.training)
        if outcome is not None:
            finished[one.training] = outcome
        progress.ended(
            one.training,
            outcome,
            pool.failed.get(one.training, ""),
            time.monotonic() - one.since_s,
            f"{len(finished)}/{total}",
        )
        _write(plan, pool, finished)

    pool.run(on_end, lambda: progress.look(pool, finished))
    text = _write(plan, pool, finished)
    if pool.stopped_by:
        progress.line(
            f"stopped with {len(finished)} of {total} trainings done; the same command "
            "goes on from there"
        )
        return 128 + signal.SIGINT if pool.stopped_by == signal.SIGINT else 0
    progress.line()
    progress.line(text)
    progress.line(f"everything is in {plan.model_dir}: ablation.html, ablation.md, ablation.json")
    return 1 if pool.failed else 0


def _write(plan: Plan, pool: Pool, finished: Mapping[Training, Outcome]) -> str:
    """Writes the three files, the JSON last; returns the text."""
    running = {one.training for one in pool.running}
    unfinished = {}
    for training in plan.trainings:
        if training in finished:
            continue
        epochs = folders.epochs_done(plan.folder(training))
        if training in pool.failed:
            state = f"failed: {pool.failed[training]}"
        elif training in running:
            state = f"running, {epochs} of {plan.epochs(training.system)} epochs done"
        elif epochs:
            state = f"broken off, {epochs} of {plan.epochs(training.system)} epochs done"
        else:
            state = WAITING
        unfinished[training] = state
    summary = summarize(plan, finished, unfinished)
    content = blocks(summary)
    text = markdown(content)
    folders.write_text(plan.model_dir / "ablation.md", text)
    folders.write_text(plan.model_dir / "ablation.html", page(content, summary))
    folders.write_text(plan.model_dir / "ablation.json", json.dumps(summary, indent=1) + "\n")
    return text


def _outcome(plan: Plan, training: Training) -> Outcome | None:
    return folders.outcome(plan.folder(training))


def _of_other_settings(plan: Plan) -> dict[Training, list[str]]:
    return {
        training: different
        for training in plan.trainings
        if (different := folders.differences(plan.folder(training), plan.request(training)))
    }


def _show(plan: Plan, jobs: int, threads: int) -> int:
    other = _of_other_settings(plan)
    counts: dict[str, int] = {}
    for training in plan.trainings:
        state = "to be trained"
        if training in other:
            state = f"in the way, of other settings: {'; '.join(other[training][:4])}"
        elif _outcome(plan, training):
            state = "finished"
        elif folders.epochs_done(plan.folder(training)):
            state = "to be gone on with"
        counts[state] = counts.get(state, 0) + 1
        print(f"{state}: {shlex.join(plan.command(training, threads)[1:])}")
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    print(f"dry run: nothing was done; {jobs} would run at a time")
    return 0


def _check_flags(plan: Plan) -> None:
    """Has train.py itself look at its flags, before anything is started.

    Raises:
      AblationError: with what it says of them.
    """
    for training in {training.system: training for training in plan.trainings}.values():
        done = subprocess.run(
            [*plan.command(training, 1), "--only_check_args"], capture_output=True, text=True
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            first = next((line for line in said if line.startswith("FATAL")), said[-1])
            raise AblationError(f"train.py: {first.removeprefix('FATAL Flags parsing error: ')}")


def _share(trainings: int) -> tuple[int, int]:
    """Trainings at a time, and threads of each."""
    cores = _cores()
    jobs = FLAGS.jobs
    if not jobs:
        jobs = max(1, min(cores, int(_free_memory_bytes() / _MEMORY_BYTES)))
    jobs = min(jobs, trainings)
    return jobs, max(1, cores // jobs)


def _cores() -> int:
    """Those that this process may use: its affinity's, and not more than its container's share."""
    # As emotion_tfdata.training.threads counts them. A copy: launch imports nothing of the rest of
    # the project, which it must run without (see launch/__init__.py).
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no control groups, or no limit, which is written "max"
        return cores


def _free_memory_bytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")  # not Linux; nothing is known
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


@contextlib.contextmanager
def _locked(model_dir: Path) -> Iterator[None]:
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        lock = open(model_dir / ".lock", "a")  # noqa: SIM115 (closed below, kept while yielding)
    except OSError as error:
        raise AblationError(
            f"--model_dir={model_dir} cannot be written: {error.strerror}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AblationError(f"--model_dir={model_dir} is in use by another ablation") from error
        yield


if __name__ == "__main__":
    app.run(main)
