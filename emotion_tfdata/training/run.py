"""Whole trainings: one for each held-out fold, each in its folder, and the report over them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_tfdata.dataset import protocols
from emotion_tfdata.dataset.storage import load_manifest
from emotion_tfdata.features import Features
from emotion_tfdata.training import run_dir
from emotion_tfdata.training.progress import Progress
from emotion_tfdata.training.run_dir import RunDirError
from emotion_tfdata.training.settings import Settings

if TYPE_CHECKING:
    from emotion_tfdata.models import ModelConfig
    from emotion_tfdata.training.data import Data
    from emotion_tfdata.training.learner import Learners
    from emotion_tfdata.training.profiling import ProfiledSteps
    from emotion_tfdata.training.workers import Workers


@dataclasses.dataclass(frozen=True)
class Options:
    """What a training does not depend on.

    Attributes:
      data_dir: the data set.
      model_dir: where everything goes.
      overwrite: whether another training's files there are removed; this one's are kept.
      checkpoint_every_s: most seconds between checkpoints.
      input_threads: threads that read and augment; None for one a core.
      profile: the steps to profile, or None.
      workers: who trains together, as `join` gives them; None for this process alone.
      should_stop: asked before the first batch and after every one.
      tflite: whether the model is written for LiteRT too.
      learners: of this process's earlier trainings, whose compiled graphs serve again; None for a
        new one.
    """

    data_dir: str
    model_dir: Path
    overwrite: bool = False
    checkpoint_every_s: float = 30.0
    input_threads: int | None = None
    profile: ProfiledSteps | None = None
    workers: Workers | None = None
    should_stop: Callable[[], bool] = lambda: False
    learners: Learners | None = None
    tflite: bool = False


def model_config(
    data_dir: str,
    features: Features,
    fields: Mapping[str, Any],
    texts: Sequence[str] = (),
) -> ModelConfig:
    """Return the network for a data set: its sizes from the manifest, the rest as given.

    Args:
      data_dir: the data set.
      features: what the network is given.
      fields: of `ModelConfig`.
      texts: further fields as `name=value`; several values are separated by commas.

    Raises:
      ManifestError: if there is no data set.
      ValueError: for an unknown field or a value it cannot have.
    """
    from emotion_tfdata.dataset.landmark_sets import landmark_indices
    from emotion_tfdata.models import ModelConfig

    manifest = load_manifest(data_dir)
    given = dict(fields)
    from_data = {"modalities", "num_classes", "num_audio_features"}
    from_data |= {"num_landmarks", "landmark_axes"}
    known = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known.keys() - from_data - fields.keys():
            allowed = ", ".join(sorted(known.keys() - from_data - fields.keys()))
            raise ValueError(f"--model={text}: give FIELD=VALUE, with FIELD one of {allowed}")
        try:
            values = tuple(json.loads(item) for item in value.split(",") if value)
        except ValueError as error:
            raise ValueError(f"--model={text}: {value!r} is not a number") from error
        several = isinstance(known[name], tuple)
        if len(values) != 1 and not several:
            raise ValueError(f"--model={text}: {name} is one number, not {len(values)}")
        given[name] = values if several else values[0]
    if manifest.num_audio_features:
        given["num_audio_features"] = manifest.num_audio_features
    if features.modalities != "audio" and "landmarks" in manifest.modalities:
        shape = manifest.modalities["landmarks"].array.shape
        given["num_landmarks"] = len(landmark_indices(features.landmarks, shape))
        given["landmark_axes"] = math.prod(shape[1:])
    modalities = features.modalities or "both"
    num_classes = len(manifest.class_names(features.num_classes))
    return ModelConfig(modalities=modalities, num_classes=num_classes, **given)


def train_fold(settings: Settings, options: Options, progress: Progress) -> dict[str, Any]:
    """Train with one fold held out and report on it; a finished training is not repeated.

    Returns:
      The report.

    Raises:
      ManifestError, DataError, StorageError, CorruptDataError: for a data set that does not serve.
      RunDirError: for a folder that cannot be used.
      CheckpointError: for a checkpoint that cannot be used.
      StoppedError: if asked to stop; the same call resumes there.
      TrainingError: for a loss that is not finite.
    """
    return _train(_served(settings, options), options, progress)


def _train(data: Data, options: Options, progress: Progress) -> dict[str, Any]:
    from emotion_tfdata.training import export, tflite
    from emotion_tfdata.training import report as reports
    from emotion_tfdata.training.fit import Fit, StoppedError
    from emotion_tfdata.training.workers import Workers

    folder, workers, settings = options.model_dir, options.workers or Workers(), data.settings
    wanted = claim(settings, options.data_dir)
    agree(workers, wanted)
    with _kept(folder, wanted, options, workers):
        finished = _shared(workers, lambda: run_dir.read_report(folder))
        if finished is not None:
            progress.line(f"{folder} holds this training, finished; remove it to train it again")
            return finished
        if workers.any(options.should_stop()):
            raise StoppedError(f"the beginning of fold {settings.fold}")
        progress.line(_about(settings, data))
        fit = Fit(
            settings,
            data,
            folder,
            checkpoint_every_s=options.checkpoint_every_s,
            should_stop=options.should_stop,
            progress=progress,
            profile=options.profile,
            workers=workers,
            learners=options.learners,
        )
        fit.run()
        predictions, temperature = fit.predict_held_out(), fit.calibrate()

        def write() -> Any:
            export.save_keras(fit.learner.model, folder)
            export.save_served(fit.learner.model, data, folder, temperature, fit.learner.logits)
            if options.tflite:
                tflite.save(fit.learner.model, data, folder, temperature)
            calibrated = reports.at_temperature(predictions, temperature)
            reports.write_predictions(folder, calibrated, data.class_names)
            report = reports.fold_report(
                settings, data, predictions, fit.history, fit.best_epoch, temperature
            )
            report["device"] = _device()
            reports.write_events(folder, report)
            reports.write(folder, report)
            return run_dir.read_report(folder)

        return _shared(workers, write)


def closing(report: Mapping[str, Any], model_dir: Path) -> str:
    """Return the report as text, and where everything is."""
    from emotion_tfdata.training import report_html

    lines = [report_html.markdown(report), f"everything is in {model_dir}:"]
    places = [
        (run_dir.REPORT_JSON, "all figures"),
        (run_dir.REPORT_HTML, "all of it as a page"),
        (run_dir.REPORT_TEXT, "this text"),
        (run_dir.CONFUSION_PNG, "confusion matrix"),
        (run_dir.PREDICTIONS, "what the model said of each held-out clip"),
        (run_dir.BEST_MODEL, "the model, weights of the best epoch"),
        (run_dir.SAVED_MODEL, "the same for raw features; python -m preprocess.predict uses it"),
        (run_dir.TFLITE, "the same for LiteRT, one clip at a time"),
        (run_dir.HISTORY, "figures by epoch"),
        (run_dir.TENSORBOARD, "tensorboard --logdir"),
        ("fold-*", "each fold's training and model"),
    ]
    lines += [f"  {name:<22} {about}" for name, about in places if any(model_dir.glob(name))]
    return "\n".join(lines)


def _served(settings: Settings, options: Options) -> Data:
    """Return the data, with its first stream made: what cannot be served claims no folder."""
    from emotion_tfdata.training.data import Data
    from emotion_tfdata.training.workers import Workers

    workers = options.workers or Workers()
    data = Data(
        options.data_dir, settings, options.input_threads, shard=(workers.index, workers.count)
    )
    data.training_batches(0, 0)
    return data


@contextlib.contextmanager
def _kept(
    folder: Path, wanted: Mapping[str, Any], options: Options, workers: Workers
) -> Iterator[None]:
    """Hold the folder for this training; the chief does, the others do not need it."""
    if not workers.is_chief:
        yield
        return
    with run_dir.locked(folder):
        try:
            run_dir.claim(folder, wanted, options.overwrite)
            yield
        except OSError as error:
            raise RunDirError(f"{folder}: a file cannot be written or read ({error})") from error


def agree(workers: Workers, wanted: Mapping[str, Any]) -> None:
    """Check that all workers train on the same, with the same versions; all must call it.

    Raises:
      DataError: if one differs from the first.
    """
    import tensorflow as tf

    from emotion_tfdata.training.data import DataError

    about = {"tensorflow": tf.__version__, "numpy": np.__version__, **wanted}
    first, *others = (json.loads(c) for c in workers.gather(json.dumps(about).encode()))
    for index, other in enumerate(others, 1):
        different = run_dir.differences(other, first)
        if different:
            raise DataError(
                f"worker {index} would not do the same training as worker 0 "
                f"({'; '.join(different[:4])})"
            )


def _shared(workers: Workers, make: Callable[[], Any]) -> Any:
    """Return what `make` gives at the chief, as JSON holds it; the others wait for it."""
    return json.loads(workers.share(lambda: json.dumps(make()).encode()))


def claim(settings: Settings, data_dir: str) -> dict[str, Any]:
    """Return what a training's outcome depends on, as JSON holds it."""
    manifest = load_manifest(data_dir)
    wanted = settings.as_dict() | {"data_manifest_sha256": manifest.sha256}
    if settings.protocol not in protocols.NAMES:  # a file, which may change
        folds = manifest.deal(settings.protocol).folds.tobytes()
        wanted["protocol_folds_sha256"] = hashlib.sha256(folds).hexdigest()
    return wanted


def _device() -> str:
    """Say what computes: TensorFlow takes the GPUs that it finds."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(g).get("device_name", "GPU") for g in gpus]
    return ", ".join(names) or "CPU"


def _about(settings: Settings, data: Any) -> str:
    what = f" ({data.manifest.provenance})" if data.manifest.provenance else ""
    text = (
        f"{settings.name}: trains on {len(data.train)} clips of "
        f"{len(data.train.actors)} actors{what}"
    )
    if settings.select_on == "inner":
        text += f", selects on {len(data.selection)}"
    is_leaky = protocols.describe(settings.protocol).leaky
    leaky = " (leaky: their actors are trained on too)" if is_leaky else ""
    return (
        f"{text}, fold {settings.fold} with {len(data.held_out)} clips of "
        f"{len(data.held_out.actors)} actors is held out{leaky}, on {_device()}"
    )
