"""The training loop: epochs, selection, and a state that can be saved and resumed at any batch."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from emotion_tfdata.stream.batching import num_batches
from emotion_tfdata.training import calibration, checkpoint, metrics, run_dir
from emotion_tfdata.training.data import Data, Part, with_ids_apart
from emotion_tfdata.training.learner import Learners, Predictions
from emotion_tfdata.training.profiling import ProfiledSteps, Profiler
from emotion_tfdata.training.progress import Progress, duration
from emotion_tfdata.training.schedules import Schedule
from emotion_tfdata.training.settings import Settings
from emotion_tfdata.training.workers import StoppedError, Workers

__all__ = ["Fit", "StoppedError", "TrainingError"]


class TrainingError(RuntimeError):
    """A training that cannot continue."""


@dataclasses.dataclass
class _Position:
    """Where a training stands, and the sums of the epoch it is in."""

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    cross_entropy: float = 0.0
    correct: int = 0
    clips: int = 0
    seconds: float = 0.0
    input_wait_s: float = 0.0
    # Of these, the first step of each process, in which its programs are compiled.
    first_clips: int = 0
    first_s: float = 0.0

    @property
    def clips_per_s(self) -> float:
        """Rate of the steps that compiled nothing; of all where there are no others."""
        clips, seconds = self.clips - self.first_clips, self.seconds - self.first_s
        return clips / max(seconds, 1e-9) if clips else self.clips / max(self.seconds, 1e-9)

    def next_epoch(self) -> _Position:
        return _Position(epoch=self.epoch + 1)


class Fit:
    """One training on one held-out fold, with its files in `model_dir`.

    Of several workers the chief alone reads and writes the folder; the others begin with its state.

    What it keeps is a function of settings and data alone, but for seconds and rates: interrupted
    at any batch and resumed from the last checkpoint, it ends with the same weights to the bit.
    """

    def __init__(
        self,
        settings: Settings,
        data: Data,
        model_dir: Path,
        *,
        checkpoint_every_s: float = 30.0,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
        profile: ProfiledSteps | None = None,
        workers: Workers | None = None,
        learners: Learners | None = None,
    ) -> None:
        """Build the model and, where `model_dir` has a checkpoint, resume from it.

        Raises:
          CheckpointError: if the checkpoint cannot be read or is of another model.
        """
        self.settings = settings
        self._workers = workers or Workers()
        self.learner = (learners or Learners()).of(settings, data.class_weights(), self._workers)
        self.history: list[dict[str, Any]] = []
        self._data = data
        self._model_dir = model_dir
        self._every_s = checkpoint_every_s
        self._saved_s = time.monotonic()
        self._should_stop = should_stop
        self._progress = progress or Progress()
        profile = profile if self._workers.is_chief else None
        self._profiler = Profiler(profile, model_dir / run_dir.TENSORBOARD, self._progress.line)
        self._writer = tf.summary.create_noop_writer()
        self._at = _Position()
        self._has_stepped = False
        self._streams: dict[str, Iterator[Any]] = {}  # by split, of clips as they are
        self._best: dict[str, np.ndarray] = {}
        self._schedule = Schedule(
            learning_rate=settings.learning_rate,
            epochs=settings.epochs,
            kind=settings.lr_schedule,
            lr_factor=settings.lr_factor,
            lr_patience=settings.lr_patience,
            min_learning_rate=settings.min_learning_rate,
            stop_patience=settings.early_stopping if data.selection else 0,
        )
        self._restore()

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are kept, counted from 1."""
        return self._schedule.best_epoch + 1

    def run(self) -> None:
        """Train to the end; afterwards the model has the best epoch's weights.

        Raises:
          StoppedError: if asked to; everything done is saved.
          TrainingError: for a loss or an output that is not finite; the message names the clips.
        """
        if self._workers.is_chief:
            folder = self._model_dir / run_dir.TENSORBOARD
            # A lost process told of epochs that no checkpoint has; TensorBoard would show them
            # twice. Its own way to forget them, SessionLog.START, does not reach TensorFlow 2's
            # scalars.
            for events in folder.glob("events*"):
                events.unlink()
            self._writer = tf.summary.create_file_writer(str(folder))
        with self._writer.as_default(), contextlib.closing(self._profiler):
            for entry in self.history:
                _write_events(entry)
            if not self._finished:
                dataset, batches = self._data.training_batches(self._at.epoch, self._at.batch)
                stream = with_ids_apart(dataset)
                # The first step takes seconds: its programs are made.
                if self._workers.any(self._should_stop()):
                    raise self._stopped()
            while not self._finished:
                self._train_epoch(stream, batches)
                self._end_epoch()
        self._writer.close()
        if self._schedule.should_stop:
            self._progress.line(
                f"stopped early: {self.settings.early_stopping} epochs without a better one"
            )
        self._save()
        checkpoint.assign(self.learner.model.variables, self._best, "best", "best weights")

    def predict_held_out(self) -> Predictions:
        """Return what the model says of the held-out fold.

        Raises:
          StoppedError: if asked to; the finished training is saved.
          TrainingError: for an output that is not finite; the message names the clips.
        """

        return self._predict(self._data.held_out, "the held-out clips")

    def _predict(self, part: Part, what: str) -> Predictions:
        def leave_if_asked() -> None:
            # Nothing to save: the checkpoint has the last weights, the model the best ones.
            if self._workers.any(self._should_stop()):
                raise StoppedError("the report on the held-out clips")

        seen = self.learner.predict(self._pass_over(part), leave_if_asked)
        return _checked(seen, what)

    def _pass_over(self, part: Part) -> Iterator[Any]:
        """Yield all batches of a part, of one stream: each stream takes long to begin."""
        if part.split not in self._streams:
            self._streams[part.split] = iter(self._data.batches_of(part, num_epochs=None))
        batches = num_batches(len(part), None, self.settings.batch_size)
        return itertools.islice(self._streams[part.split], batches)

    def calibrate(self) -> float | None:
        """Fit the temperature to the fold selected on; None where there is none of its own.

        Raises:
          As `predict_held_out`.
        """
        part = self._data.calibration
        if part is None:
            return None
        seen = self._predict(part, "the clips to select on")
        return calibration.temperature(seen.probabilities, seen.labels)

    @property
    def _finished(self) -> bool:
        return self._at.epoch >= self.settings.epochs or self._schedule.should_stop

    def _train_epoch(self, stream: Iterator[Any], batches: int) -> None:
        at, settings = self._at, self.settings
        self.learner.learning_rate = self._schedule.rate_of(at.epoch)
        where = f"epoch {at.epoch + 1}/{settings.epochs}"
        while at.batch < batches:
            with self._profiler.step():
                started = time.monotonic()
                features, labels, ids = next(stream)
                waited = time.monotonic() - started
                step = self.learner.train(features, labels)
            if not (math.isfinite(step.loss) and step.finite):
                whose = f" that worker {self._workers.index} had" if self._workers.count > 1 else ""
                raise TrainingError(
                    f"{where}, batch {at.batch + 1}: {self._what_is_not_finite(step.loss)}. Clips "
                    f"of this batch{whose}: {', '.join(ids)}. Look at these clips, or lower "
                    "--learning_rate or set --clip_norm."
                )
            took = time.monotonic() - started
            self._profiler.ended(waited, took)
            at.batch += 1
            at.clips += step.clips
            at.loss += step.loss
            at.cross_entropy += step.cross_entropy
            at.correct += step.correct
            at.seconds += took
            at.input_wait_s += waited
            if not self._has_stepped:
                at.first_clips += step.clips
                at.first_s += took
            self._has_stepped = True
            rate = at.clips_per_s if at.clips > at.first_clips else None
            self._progress.batch(where, at.batch, batches, at.loss / at.batch, step.clips, rate)
            self._pause()

    def _what_is_not_finite(self, loss: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        names = self.learner.not_finite()
        if not names:
            return f"the gradient is not finite (the loss is {loss:g})"
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"not finite are the weights {', '.join(names[:3])}{more} (the loss is {loss:g})"

    def _end_epoch(self) -> None:
        at, schedule, part = self._at, self._schedule, self._data.selection
        started = time.monotonic()
        entry: dict[str, Any] = {
            "epoch": at.epoch + 1,
            "learning_rate": self.learner.learning_rate,
            "train": {
                "loss": at.loss / at.batch,
                "cross_entropy": at.cross_entropy / at.clips,
                "accuracy": at.correct / at.clips,
            },
        }
        if part is None:
            schedule.best_epoch = at.epoch
            better = True
        else:
            seen = self.learner.predict(self._pass_over(part), self._pause)
            _checked(seen, f"epoch {at.epoch + 1}/{self.settings.epochs}, the clips to select on")
            entry["selection"] = _figures(seen, self._data.class_names)
            better = schedule.observe(at.epoch, self._score(seen))
        if better:
            self._best = checkpoint.arrays_of(self.learner.model.variables, "best")
        entry["seconds"] = at.seconds + time.monotonic() - started
        entry["clips_per_s"] = at.clips_per_s
        entry["input_wait_share"] = at.input_wait_s / max(at.seconds, 1e-9)
        self.history.append(entry)
        epoch_s = entry["seconds"]
        if at.first_clips:  # this epoch compiled
            selected = len(self._data.selection) if self._data.selection else 0
            # No clip takes longer to select on than to train on.
            epoch_s = min(epoch_s, (at.clips + selected) / at.clips_per_s)
        self._at = at.next_epoch()
        self._tell(entry, better, epoch_s * (self.settings.epochs - entry["epoch"]))
        self._pause()

    def _score(self, seen: Predictions) -> float:
        if self.settings.select_by == "loss":
            return -seen.loss
        # A recall over few clips is often equal in two epochs; the loss, squeezed below the
        # smallest step that a recall can make, settles it.
        recall = metrics.unweighted_average_recall(seen.confusion)
        return recall - 1e-6 * math.tanh(seen.loss)

    def _pause(self) -> None:
        """Save when it is time to, and leave when any worker is asked to.

        The state must be whole here, and all workers must be at the same place.
        """
        if self._workers.any(self._should_stop()):
            self._save()
            raise self._stopped()
        if time.monotonic() - self._saved_s >= self._every_s:
            self._save()

    def _stopped(self) -> StoppedError:
        return StoppedError(f"epoch {self._at.epoch + 1}, batch {self._at.batch}")

    def _save(self) -> None:
        if not self._workers.is_chief:
            return
        self._writer.flush()  # what the checkpoint counts as done is not told again
        checkpoint.save(str(self._model_dir / run_dir.CHECKPOINT), *self._state())
        run_dir.write_json(self._model_dir / run_dir.HISTORY, self.history)
        self._saved_s = time.monotonic()

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        learner = self.learner
        arrays = (
            checkpoint.arrays_of(learner.model.variables, "model")
            | checkpoint.arrays_of(learner.optimizer.variables, "optimizer")
            | self._best
        )
        return arrays, {
            "position": dataclasses.asdict(self._at),
            "schedule": self._schedule.state(),
            "history": self.history,
        }

    def _restore(self) -> None:
        path = str(self._model_dir / run_dir.CHECKPOINT)
        if self._workers.is_chief:
            with contextlib.suppress(FileNotFoundError):
                self._resume(path, *checkpoint.load(path))
                self._progress.line(
                    f"resumes from {path}: epoch {self._at.epoch + 1}, batch {self._at.batch}"
                )
        if self._workers.count > 1:
            content = self._workers.share(lambda: checkpoint.to_bytes(*self._state()))
            if not self._workers.is_chief:
                self._resume("the chief's state", *checkpoint.load(io.BytesIO(content)))

    def _resume(self, path: str, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        learner = self.learner
        checkpoint.assign(learner.model.variables, arrays, "model", path)
        checkpoint.assign(learner.optimizer.variables, arrays, "optimizer", path)
        self._best = {name: value for name, value in arrays.items() if name.startswith("best/")}
        self._at = _Position(**state["position"])
        self._schedule.restore(state["schedule"])
        self.history = state["history"]

    def _tell(self, entry: dict[str, Any], better: bool, left_s: float) -> None:
        epoch, train = entry["epoch"], entry["train"]
        text = (
            f"epoch {epoch}/{self.settings.epochs}  "
            f"train loss {train['loss']:.3f} accuracy {train['accuracy']:.3f}"
        )
        _write_events(entry)
        if "selection" in entry:
            chosen = entry["selection"]
            text += f"  selection loss {chosen['loss']:.3f} UAR {chosen['uar']:.3f}"
            text += " *" if better else "  "
        self._progress.line(
            f"{text}  rate {entry['learning_rate']:.2g}  {entry['clips_per_s']:.0f} clips/s  "
            f"input wait {entry['input_wait_share']:.0%}  at most {duration(left_s)} left"
        )


def _write_events(entry: Mapping[str, Any]) -> None:
    """Write an epoch's figures for TensorBoard."""
    epoch = entry["epoch"]
    for name in ("learning_rate", "input_wait_share", "clips_per_s"):
        tf.summary.scalar(name, entry[name], epoch)
    for name, value in entry["train"].items():
        tf.summary.scalar(f"train/{name}", value, epoch)
    if "selection" in entry:
        chosen = entry["selection"]
        for name in ("loss", "accuracy", "uar"):
            tf.summary.scalar(f"selection/{name}", chosen[name], epoch)
        for name, recall in chosen["recall"].items():
            if recall is not None:
                tf.summary.scalar(f"selection_recall/{name}", recall, epoch)


def _checked(seen: Predictions, where: str) -> Predictions:
    """Return what was given if all of it is finite; raise TrainingError otherwise."""
    ids = seen.not_finite
    if ids:
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        raise TrainingError(
            f"{where}: the model's output is not finite for {len(ids)} of {len(seen.labels)}: "
            f"{', '.join(ids[:5])}{more}. Look at these clips, or lower --learning_rate or set "
            "--clip_norm."
        )
    return seen


def _figures(seen: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    confusion = seen.confusion
    recalls = metrics.recall_by_class(confusion)
    return {
        "loss": seen.loss,
        "accuracy": metrics.accuracy(confusion),
        "uar": metrics.unweighted_average_recall(confusion),
        "recall": {
            name: None if math.isnan(recall) else float(recall)
            for name, recall in zip(class_names, recalls, strict=True)
        },
    }
