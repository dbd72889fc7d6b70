"""The flags of a training, and the training that they describe."""

from __future__ import annotations

import functools
import gc
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from emotion_tfdata.augment.config import Augment
from emotion_tfdata.dataset.protocols import short_name
from emotion_tfdata.features import Features
from emotion_tfdata.fields import define_flags, from_flags
from emotion_tfdata.models.config import ModelConfig
from emotion_tfdata.training.settings import Settings

if TYPE_CHECKING:
    from emotion_tfdata.training.learner import Learners

_UNNEEDED = ("jax", "sklearn", "pandas", "matplotlib.pyplot")
STOPPED = 130  # status of a training that was asked to stop


def define(values: flags.FlagValues) -> None:
    """Define the flags of a training: its settings', and where and how it is done."""
    string, boolean, floating, integer, multi_string = (
        functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=values)
        for kind in ("string", "bool", "float", "integer", "multi_string")
    )
    string("data_dir", "data/sample/tfrecords", "data set, from preprocess.build_tfrecords")
    string(
        "model_dir",
        None,
        "folder of checkpoints, TensorBoard events and report (default: runs/NAME, with what "
        "--fold, --folds, --modalities, --protocol, --labels and corpora say where they are not "
        "the default)",
    )
    boolean(
        "overwrite",
        False,
        "remove another training's files from --model_dir; one of the same settings is resumed",
    )
    define_flags(values, Settings)
    usual = Settings().features
    define_flags(values, Features, modalities=usual.modalities, landmarks=usual.landmarks)
    define_flags(values, ModelConfig)
    multi_string("model", [], "FIELD=VALUE of ModelConfig, e.g. --model=audio_dropout=0.5")
    boolean("augment", True, "add altered copies of the training clips")
    define_flags(values, Augment, "augment_")
    boolean("tflite", False, "write model.tflite too, for LiteRT on phones: one clip at a time")

    # The machine. None of these changes what is computed, but for the rounding of other thread
    # counts.
    floating(
        "checkpoint_every_s", 30.0, "most seconds of work that a crash can cost", lower_bound=0
    )
    flags.register_validator(
        "checkpoint_every_s", math.isfinite, "must be a number of seconds", flag_values=values
    )
    for name, meaning in (
        ("intra_op_threads", "threads within an operation; 0: one for two cores, at most 16"),
        ("inter_op_threads", "operations at a time; 0: one a core, at most 4"),
        ("input_threads", "threads that read and augment; 0: one a core, at most 4"),
    ):
        integer(name, 0, meaning, lower_bound=0, upper_bound=1024)
    string(
        "profile",
        None,
        "FIRST,LAST, or a number of steps after the first 20: writes a profile of these steps "
        "for TensorBoard and says where their time went; counted from where the command begins",
    )


def parse(args: Sequence[str]) -> flags.FlagValues:
    """Read flags as the command line has them.

    Raises:
      absl.flags.Error: for what is wrong with them.
    """
    values = flags.FlagValues()
    define(values)
    rest = values(["train.py", *args])[1:]
    if rest:
        raise flags.Error(f"unexpected argument {rest[0]!r}: every flag begins with --")
    return values


def settings_of(values: flags.FlagValues) -> Settings:
    """Return the training that the flags describe, but for --folds and --seeds.

    Raises:
      ValueError: for values that are not allowed or do not fit each other or the data set.
    """
    from emotion_tfdata.training import run

    features = from_flags(
        values,
        Features,
        landmarks=_landmarks(values.landmarks),
        trim_silence_db=values.trim_silence_db or None,
    )
    network = {name: values[name].value for name in ("video", "audio", "l2", "l2_tcn")}
    return from_flags(
        values,
        Settings,
        model=run.model_config(values.data_dir, features, network, values.model),
        augment=from_flags(values, Augment, "augment_") if values.augment else None,
        features=features,
    )


def import_tensorflow() -> None:
    """Import TensorFlow and Keras, with what must be set before."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the models are, whatever Keras is set to elsewhere
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters is raised as an exception
    gc.set_threshold(50_000, 10, 10)  # importing and tracing make much, and little of it garbage
    logging.set_verbosity(logging.WARNING)  # what TensorFlow tells of its own doings
    # They look for these, which nobody needs here, and work without: a third of the time.
    unneeded = [name for name in _UNNEEDED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(unneeded))  # type: ignore[arg-type]  # None: not to be imported
    try:
        import keras  # noqa: F401
        import tensorflow as tf  # noqa: F401
    finally:
        for name in unneeded:
            del sys.modules[name]


def default_model_dir(values: flags.FlagValues) -> str:
    """Return `runs/NAME`, with what tells this run from the name's usual one."""
    parts = [values.name]
    if values.modalities != "both":
        parts.append(values.modalities)
    if values.protocol != "actor":
        parts.append(short_name(values.protocol))
    for what, corpora in (("on", values.train_corpora), ("test", values.test_corpora)):
        if corpora:
            parts.append("-".join([what, *corpora]))
    if values.labels != "intended":
        parts.append(values.labels)
    if values.fold:
        parts.append(f"fold-{values.fold}")
    if values.seed:
        parts.append(f"seed-{values.seed}")
    return os.path.join("runs", "-".join(parts))


def train(
    values: flags.FlagValues,
    should_stop: Callable[[], bool] = lambda: False,
    learners: Learners | None = None,
    several: bool = False,
) -> int:
    """Train as the flags say; report on standard output, failures in a line.

    Args:
      values: as `parse` gives them.
      should_stop: asked before the first batch and after every one.
      learners: of this process's earlier trainings, whose compiled graphs serve again.
      several: whether this process is one of those that `TF_CONFIG` names, which train together.

    Returns:
      0 if the training is finished, 1 if it failed, `STOPPED` if it was asked to stop.

    Raises:
      tensorflow.errors.OpError: where another worker is gone.
    """
    import_tensorflow()
    import tensorflow as tf

    from emotion_tfdata.dataset.manifest import ManifestError
    from emotion_tfdata.dataset.storage import StorageError
    from emotion_tfdata.stream.allocator import keep_freed_memory
    from emotion_tfdata.stream.reader import CorruptDataError
    from emotion_tfdata.training import run, threads
    from emotion_tfdata.training.checkpoint import CheckpointError
    from emotion_tfdata.training.data import DataError
    from emotion_tfdata.training.fit import StoppedError, TrainingError
    from emotion_tfdata.training.precision import check_precision
    from emotion_tfdata.training.profiling import ProfiledSteps
    from emotion_tfdata.training.progress import Progress
    from emotion_tfdata.training.run_dir import RunDirError
    from emotion_tfdata.training.startup_messages import start_compiler
    from emotion_tfdata.training.workers import SeveralWorkers, Workers

    keep_freed_memory()
    try:
        chosen = threads.choose(
            values.intra_op_threads, values.inter_op_threads, values.input_threads
        )
    except RuntimeError as error:  # another training of this process had other threads
        return fail(str(error))
    try:
        check_precision(values.precision)
        profile = ProfiledSteps.parse(values.profile) if values.profile else None
    except ValueError as error:
        return fail(f"--{error}")
    try:
        settings = settings_of(values)
    except (ValueError, StorageError) as error:
        return fail(str(error))
    workers = SeveralWorkers() if several else Workers()
    start_compiler()
    options = run.Options(
        data_dir=values.data_dir,
        model_dir=Path(values.model_dir or default_model_dir(values)),
        overwrite=values.overwrite,
        checkpoint_every_s=values.checkpoint_every_s,
        input_threads=chosen.input,
        profile=profile,
        should_stop=should_stop,
        workers=workers,
        learners=learners,
        tflite=values.tflite,
    )
    # One of several workers speaks for all.
    progress = Progress(None if workers.is_chief else open(os.devnull, "w"))  # noqa: SIM115
    try:
        report = run.train_fold(settings, options, progress)
    except StoppedError as stopped:
        progress.line(f"stopped at {stopped}; the same command resumes there")
        return STOPPED
    except (
        *(CheckpointError, CorruptDataError, DataError, ManifestError, RunDirError),
        *(StorageError, TrainingError),
        tf.errors.InvalidArgumentError,  # a corrupt record, named by the reader
    ) as error:
        reason = getattr(error, "message", None) or str(error)
        return fail(f"worker {workers.index}: {reason}" if several else reason)
    except tf.errors.OpError as error:
        if several:
            raise
        said = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message)  # TensorFlow's own names
        return fail(f"{options.model_dir}: {said}")
    progress.line()
    if workers.is_chief:
        progress.line(run.closing(report, options.model_dir))
    return 0


def _landmarks(given: str) -> str | tuple[int, ...]:
    if not given[:1].isdigit():
        return given
    try:
        return tuple(int(index) for index in given.split(","))
    except ValueError as error:
        raise ValueError(f"--landmarks={given}: give all, expressive or indices") from error


def fail(message: str) -> int:
    """Say in a line why something cannot be done; return the exit status."""
    print(f"train.py: {' '.join(message.split())}", file=sys.stderr)
    return 1
