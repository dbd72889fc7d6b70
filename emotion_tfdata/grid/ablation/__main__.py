"""Trains systems against each other and compares them, under honest and leaky protocol.

    python -m emotion_tfdata.grid.ablation --data_dir=D --model_dir=M --seeds=3 --folds=all
        [-- TRAIN'S FLAGS]

Every system by every fold, seed and protocol is a training of its own, as train.py does it, in its
own folder M/PROTOCOL/SYSTEM/seed-S/fold-F. Several run at a time (--jobs), on cores of their own,
or on a Ray cluster (--runner=ray). M/ablation.html, .md and
.json are renewed whenever one ends: accuracy and unweighted average recall with 95 % intervals, per
corpus, and the paired differences to the baseline.

The same command resumes where it was stopped: what is finished is kept, what was interrupted
resumes from its checkpoint. More seeds, folds, systems or protocols add to what is there; the
tables speak of what the last command asked for. Ctrl-C and SIGTERM have the trainings save first; a
second one does not wait for that. A training that fails is listed with the last line it said, the
others continue, and the status is 1.

Systems are what their flagfiles say: tcn.flags and launch/flags/SYSTEM.flags. Flags after -- go to
every training, after the flagfile's: -- --select_on=none --lr_schedule=cosine.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping

from absl import app, flags

from emotion_tfdata.dataset.protocols import NAMES as PROTOCOL_NAMES
from emotion_tfdata.grid import run, runner_flags
from emotion_tfdata.grid.ablation import training as folders
from emotion_tfdata.grid.ablation.page import markdown, page
from emotion_tfdata.grid.ablation.plan import PROTOCOLS, SYSTEMS, Plan, Training
from emotion_tfdata.grid.ablation.summary import summarize
from emotion_tfdata.grid.ablation.training import Outcome
from emotion_tfdata.grid.job import GridError, Job
from emotion_tfdata.grid.progress import Progress
from emotion_tfdata.training import command, run_dir

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "data_dir", "data/sample/tfrecords", "data set, from preprocess.build_tfrecords"
)
flags.DEFINE_string("model_dir", "runs/ablation", "folder of all trainings and of the tables")
flags.DEFINE_list("systems", list(SYSTEMS), "which to train; differences need the baseline")
flags.DEFINE_list(
    "protocols",
    list(PROTOCOLS),
    f"some of {', '.join(PROTOCOL_NAMES)}. actor: folds of actors, figures hold for new people. "
    "random: clips dealt at random within each class; leaky, the same actors are trained on and "
    "tested on. README has the published ones",
)
flags.DEFINE_integer("seeds", 3, "how many: 0, 1, ...", lower_bound=1, upper_bound=10_000)
flags.DEFINE_list(
    "folds",
    ["all"],
    "'all' or e.g. 0,2: held out one after the other. One alone gives no interval "
    "that speaks of other actors",
)
flags.DEFINE_integer("epochs", None, "most epochs (default: the flagfiles')", lower_bound=1)
runner_flags.define()
flags.adopt_module_key_flags(runner_flags)
flags.DEFINE_bool("overwrite", False, "train again what --model_dir holds with other settings")
flags.DEFINE_bool("dry_run", False, "show what would be trained, and do nothing")


def main(argv: list[str]) -> int:
    """Run the ablation that the flags describe; return the exit status."""
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
        jobs = {training: plan.job(training, FLAGS.overwrite) for training in plan.trainings}
        _check_flags(plan, jobs)
        if FLAGS.dry_run:
            return _show(plan, jobs)
        with run.locked(plan.model_dir):
            return _run(plan, jobs)
    except GridError as error:
        print(f"emotion_tfdata.grid.ablation: {error}", file=sys.stderr)
        return 1


def _run(plan: Plan, jobs: Mapping[Training, Job]) -> int:
    other = _of_other_settings(plan)
    if other and not FLAGS.overwrite:
        training, different = next(iter(other.items()))
        raise GridError(
            f"--model_dir={plan.model_dir} holds {len(other)} trainings with other settings, "
            f"{training.name} for one ({'; '.join(different[:4])}"
            f"{'; ...' if len(different) > 4 else ''}). Choose another --model_dir, or --overwrite "
            "them; those with the same settings are kept."
        )
    for training in other:
        folders.clear(plan.folder(training))
    grid, progress = run.Grid(plan.model_dir, list(jobs.values())), Progress()
    if plan.data.provenance:
        progress.line(f"figures will be of {plan.data.provenance} and say nothing about people")
    if not grid.waiting:
        progress.line(f"{len(jobs)} trainings, all of them finished")
    else:
        with run.runner_of(FLAGS, len(jobs)) as runner:
            for job in {training.system: job for training, job in jobs.items()}.values():
                problem = runner.check(job.args)
                if problem:
                    raise GridError(f"{job.name}: {problem}")
            for training, job in jobs.items():
                if job in grid.waiting:
                    folders.prepare(job.folder, plan.request(training), runner.how)
            grid.run(runner, progress, lambda job: _write(plan, jobs, grid))
    text = _write(plan, jobs, grid)
    if grid.stopped_by:
        progress.line(
            f"stopped with {len(grid.finished)} of {len(jobs)} trainings done; the same command "
            "resumes"
        )
    else:
        progress.line()
        progress.line(text)
        progress.line(f"all is in {plan.model_dir}: ablation.html, ablation.md, ablation.json")
    return grid.status


def _write(plan: Plan, jobs: Mapping[Training, Job], grid: run.Grid) -> str:
    """Write the three files, the JSON last; return the text."""
    finished: dict[Training, Outcome] = {}
    unfinished = {}
    for training, job in jobs.items():
        if job in grid.finished:
            finished[training] = folders.outcome(job.folder, grid.finished[job])
        else:
            unfinished[training] = grid.state(job)
    summary = summarize(plan, finished, unfinished)
    text = markdown(summary)
    run_dir.write_text(plan.model_dir / "ablation.md", text)
    run_dir.write_text(plan.model_dir / "ablation.html", page(summary))
    run_dir.write_json(plan.model_dir / "ablation.json", summary)
    return text


def _of_other_settings(plan: Plan) -> dict[Training, list[str]]:
    return {
        training: different
        for training in plan.trainings
        if (different := folders.differences(plan.folder(training), plan.request(training)))
    }


def _show(plan: Plan, jobs: Mapping[Training, Job]) -> int:
    other = _of_other_settings(plan)
    counts: dict[str, int] = {}
    for training, job in jobs.items():
        state = "to be trained"
        if training in other:
            state = f"in the way, of other settings: {'; '.join(other[training][:4])}"
        elif job.report:
            state = "finished"
        elif job.epochs_done:
            state = "to be resumed"
        counts[state] = counts.get(state, 0) + 1
        print(f"{state}: train.py {shlex.join(job.args)}")
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    print("dry run: nothing was done")
    return 0


def _check_flags(plan: Plan, jobs: Mapping[Training, Job]) -> None:
    """Check every system's flags before anything is started.

    Raises:
      GridError: with what is wrong with them.
    """
    for job in {training.system: job for training, job in jobs.items()}.values():
        try:
            command.parse(job.args)
        except flags.Error as error:
            raise GridError(f"train.py: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    app.run(main)
