"""Trains a model on a data set and reports what it can do on clips it has not seen.

    python train.py --flagfile=tcn.flags

trains the combined model on the quickstart's data. Flags after --flagfile override it. The same
command resumes where an interrupted training stopped.

With --folds or --seeds it trains several, --jobs at a time on cores of their own (--runner=ray: on
a Ray cluster), each in its own folder, and reports over all. What is finished is kept; Ctrl-C has
all save first.

With --runner=ray --workers=2 two processes of the cluster, or more, do one training together.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from absl import app, flags

from emotion_tfdata.grid import runner_flags
from emotion_tfdata.training import command, run_dir

if TYPE_CHECKING:
    from emotion_tfdata.dataset.manifest import Manifest

FLAGS = flags.FLAGS

command.define(FLAGS)
flags.adopt_module_key_flags(command)
flags.DEFINE_list(
    "folds", [], "'all' or e.g. 0,2: hold out each of them, report mean and 95 % interval"
)
flags.DEFINE_integer(
    "seeds", 1, "train with so many seeds, from --seed on", lower_bound=1, upper_bound=10_000
)
runner_flags.define()
flags.adopt_module_key_flags(runner_flags)
# What says which trainings there are, and what is each one's own.
_OF_THE_GRID = {
    "folds",
    "seeds",
    "fold",
    "seed",
    "model_dir",
}


def main(argv: list[str]) -> int:
    """Train as the flags say; return the exit status."""
    if len(argv) > 1:
        return command.fail(f"unexpected argument {argv[1]!r}: every flag begins with --")
    try:
        from emotion_tfdata.dataset.manifest import Manifest, ManifestError

        try:
            manifest = None
            if "://" not in FLAGS.data_dir:
                manifest = Manifest.load(FLAGS.data_dir)  # before anybody waits for TensorFlow
        except ManifestError as error:
            default = FLAGS["data_dir"].using_default_value
            return command.fail(f"{error}{' (./launch/quickstart.sh makes it)' if default else ''}")
        if "TF_CONFIG" in os.environ:
            return command.fail(
                "TF_CONFIG is set; unset it. Several machines train one model by --runner=ray "
                "--workers=N"
            )
        if FLAGS.folds or FLAGS.seeds > 1 or FLAGS.runner == "ray" or FLAGS.workers > 1:
            return _train_grid(manifest)
        stop = _StopRequest()
        status = command.train(FLAGS, stop.is_asked)
        return stop.exit_status if status == command.STOPPED else status
    except KeyboardInterrupt:  # asked twice
        print("\ninterrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 128 + signal.SIGINT


def _train_grid(manifest: Manifest | None) -> int:
    from emotion_tfdata.grid import run, worker
    from emotion_tfdata.grid.job import GridError, Job
    from emotion_tfdata.grid.progress import Progress

    folder = Path(FLAGS.model_dir or _default_folder())
    given = [FLAGS[name] for name in FLAGS if FLAGS[name].present and name not in _OF_THE_GRID]
    shared = [arg for flag in given for arg in flag.serialize().splitlines() if _is_ours(flag)]
    try:
        jobs = []
        folds, seeds = _folds(manifest), range(FLAGS.seed, FLAGS.seed + FLAGS.seeds)
        for seed in seeds:
            for fold in folds:
                parts = [f"seed-{seed}"] * (len(seeds) > 1) + [f"fold-{fold}"] * bool(FLAGS.folds)
                own = folder.joinpath(*parts)
                args = (*shared, f"--fold={fold}", f"--seed={seed}", f"--model_dir={own}")
                jobs.append(Job("/".join(parts) or FLAGS.name, own, args, FLAGS.epochs))
        with run.runner_of(FLAGS, len(jobs)) as where:
            problem = where.check(jobs[0].args)
            if problem:
                raise GridError(problem)
            other = where.call(worker.of_other_settings, jobs)
            if other and not FLAGS.overwrite:
                name, different = next(iter(other.items()))
                raise GridError(
                    f"--model_dir={folder} holds {len(other)} trainings with other settings, "
                    f"{name} for one ({different}). Choose another --model_dir, or --overwrite "
                    "them."
                )
            with run.locked(folder):
                for job in jobs:
                    if job.name in other:  # else it would count as finished
                        (job.folder / run_dir.REPORT_JSON).unlink(missing_ok=True)
                grid, progress = run.Grid(folder, jobs), Progress()
                if grid.run(where, progress):
                    progress.line()
                    progress.line(where.call(worker.summarize, folder, jobs))
                elif grid.stopped_by:
                    done = f"{len(grid.finished)} of {len(jobs)} trainings done"
                    progress.line(f"stopped with {done}; the same command resumes")
                else:
                    command.fail(
                        f"{len(grid.failed)} of {len(jobs)} trainings failed; see {folder}"
                    )
                return grid.status
    except (GridError, ValueError) as error:
        return command.fail(str(error))


def _is_ours(flag: flags.Flag) -> bool:
    return flag in FLAGS.flags_by_module_dict().get(command.__name__, [])


def _default_folder() -> str:
    folds = f"-folds-{'-'.join(FLAGS.folds)}" if FLAGS.folds else ""
    seeds = f"-seeds-{FLAGS.seeds}" if FLAGS.seeds > 1 else ""
    return f"{command.default_model_dir(FLAGS)}{folds}{seeds}"


class _StopRequest:
    """SIGTERM and Ctrl-C ask for a checkpoint, a second Ctrl-C for the end at once."""

    def __init__(self) -> None:
        self._signal = 0
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def is_asked(self) -> bool:
        return bool(self._signal)

    @property
    def exit_status(self) -> int:
        return 128 + signal.SIGINT if self._signal == signal.SIGINT else 0


def _folds(manifest: Manifest | None) -> list[int]:
    if not FLAGS.folds:
        return [FLAGS.fold]
    from emotion_tfdata.grid.job import filled_folds

    if manifest is None:
        from emotion_tfdata.dataset.storage import load_manifest

        manifest = load_manifest(FLAGS.data_dir)
    there = filled_folds(manifest, FLAGS.protocol, FLAGS.test_corpora)
    if FLAGS.folds == ["all"]:
        return there
    given = ",".join(FLAGS.folds)
    try:
        folds = [int(fold) for fold in FLAGS.folds]
    except ValueError as error:
        raise ValueError(f"--folds={given}: give 'all' or numbers") from error
    if len(set(folds)) < len(folds):
        raise ValueError(f"--folds={given}: a fold is given twice")
    if not set(folds) <= set(there):  # said before the first is trained
        raise ValueError(
            f"--folds={given}: {FLAGS.data_dir} has clips in {FLAGS.protocol} folds "
            f"{', '.join(map(str, there))}"
        )
    return folds


if __name__ == "__main__":
    app.run(main)
