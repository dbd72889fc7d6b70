"""Trains one of the models on a data set and reports what it can do on clips it has not seen.

    python train.py --flagfile=tcn.flags

trains the combined model on the quickstart's data. Flags after --flagfile override it. The same
command goes on where a broken-off training stopped. With TF_CONFIG set, as many such processes as
it names train one model, on one machine or several.
"""

from __future__ import annotations

import math
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from absl import app, flags, logging

from emotion_tfdata.people import LABELS
from emotion_tfdata.protocols import NAMES as PROTOCOLS
from emotion_tfdata.protocols import short_name

if TYPE_CHECKING:
    from emotion_tfdata.training.settings import Settings

FLAGS = flags.FLAGS

# What to train on and where to.
flags.DEFINE_string(
    "data_dir", "data/sample/tfrecords", "data set, from preprocess.build_tfrecords"
)
flags.DEFINE_string(
    "model_dir",
    None,
    "folder of checkpoints, TensorBoard events and report (default: runs/NAME, with what --fold, "
    "--folds, --modalities, --protocol, --labels and corpora say where they are not the default)",
)
flags.DEFINE_string("name", "tcn", "name of the system, for the report and --model_dir")
flags.DEFINE_bool(
    "overwrite",
    False,
    "remove another training's files from --model_dir; one of the same settings is gone on with",
)
flags.DEFINE_enum("modalities", "both", ["both", "audio", "landmarks"], "what the model is given")
flags.DEFINE_list("landmarks", ["expressive"], "all, expressive, or indices: 0,13,14")
flags.DEFINE_float(
    "trim_silence_db",
    0.0,
    "mask the audio before and after what comes within so many dB of the clip's loudest frame; 0: "
    "mask nothing",
)
flags.DEFINE_bool(
    "relative_level",
    False,
    "audio counts from the mean of the clip's own energies: how loud a clip is does not matter",
)
flags.DEFINE_enum(
    "num_classes", None, ["6", "8"], "6 of a data set built with 8 classes; all it has if not given"
)

# What is held out.
flags.DEFINE_string(
    "protocol",
    "actor",
    f"who is held out: {', '.join(PROTOCOLS)}, or a JSON file of folds, "
    '{"0": ["ravdess/01", ...], ...}. random is leaky: its actors are on both sides',
)
flags.DEFINE_list("train_corpora", [], "corpora to train and select on, e.g. ravdess; all if empty")
flags.DEFINE_list("test_corpora", [], "corpora to hold out clips of, e.g. crema_d; all if empty")
flags.DEFINE_enum(
    "labels",
    "intended",
    list(LABELS),
    "what a clip's label is. intended: what the actor was to show. perceived: what most raters of "
    "CREMA-D took it for. votes: trains on their votes as a distribution, tests on the intended",
)
flags.DEFINE_integer("fold", 0, "fold that is held out for the report")
flags.DEFINE_list(
    "folds", [], "'all' or e.g. 0,2: hold out one after the other, report mean and 95 % interval"
)
flags.DEFINE_enum(
    "select_on",
    "inner",
    ["inner", "held_out", "none"],
    "where epoch and learning rate are decided. inner: on one more fold taken out of training. "
    "held_out: on the held-out fold itself, optimistic. none: nowhere, the last epoch counts",
)
flags.DEFINE_enum(
    "select_by", "loss", ["loss", "uar"], "figure decided by: cross-entropy, or unweighted recall"
)

# The model; what is not said here is in the table of emotion_tfdata.models.ModelConfig.
flags.DEFINE_enum("video", "tcn", ["tcn", "bilstm"], "what reads the landmarks")
flags.DEFINE_float("l2", 0.001, "L2 penalty on dense layers", lower_bound=0)
flags.DEFINE_float("l2_tcn", 0.001, "L2 penalty on the TCN's convolutions", lower_bound=0)
flags.DEFINE_multi_string("model", [], "FIELD=VALUE of ModelConfig, e.g. --model=audio_dropout=0.5")

# Augmentation of training clips.
flags.DEFINE_bool("augment", True, "add altered copies of the training clips")
flags.DEFINE_float("augment_factor", 2.0, "size of an epoch in clips; 2 adds a copy of each")
flags.DEFINE_float("augment_probability", 0.8, "that a copy is altered")
flags.DEFINE_float(
    "augment_warp_share", 0.4, "share of altered copies that are only warped in time"
)
flags.DEFINE_float("augment_noise_share", 0.3, "share that only get noise; the rest get both")
flags.DEFINE_list("augment_stretch", ["0.9", "1.1"], "range of the time warp's factor")
flags.DEFINE_list(
    "augment_noise_level", ["0.001", "0.01"], "range of the noise, in deviations of each feature"
)
flags.DEFINE_float("augment_noise_correlation", 0.5, "correlation of the noise of two features")
flags.DEFINE_float("augment_noise_slow_hz", 2.0, "highest frequency of the shared noise, in Hz")
flags.DEFINE_list(
    "augment_mel_warp",
    ["1", "1"],
    "range of the factor that every altered copy's mel axis is warped by; 1,1: not warped",
)
flags.DEFINE_integer("augment_frequency_masks", 0, "masks over mel bands of an altered copy")
flags.DEFINE_integer("augment_frequency_mask_bands", 10, "widest of them, in bands")
flags.DEFINE_integer("augment_time_masks", 0, "masks over time of an altered copy's audio")
flags.DEFINE_float("augment_time_mask_s", 0.2, "widest of them, in seconds")
flags.DEFINE_float(
    "augment_time_mask_share", 0.3, "largest share of a clip that its time masks hide together"
)

# Optimization.
flags.DEFINE_integer("epochs", 60, "most epochs", lower_bound=1)
flags.DEFINE_integer("batch_size", 24, "clips a step", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.001, "Adam's, of the first epoch", lower_bound=0)
flags.DEFINE_enum(
    "lr_schedule",
    "plateau",
    ["plateau", "cosine", "constant"],
    "plateau: lowered where selection levels off; cosine: to zero at the last epoch",
)
flags.DEFINE_float("lr_factor", 0.5, "plateau: what the rate is multiplied by")
flags.DEFINE_integer("lr_patience", 5, "plateau: epochs without a better one before that")
flags.DEFINE_float("min_learning_rate", 1e-5, "plateau: lowest rate")
flags.DEFINE_integer("early_stopping", 15, "epochs without a better one that end it; 0: never")
flags.DEFINE_enum(
    "class_weights", "none", ["none", "balanced"], "balanced: rare classes weigh more in the loss"
)
flags.DEFINE_float("label_smoothing", 0.0, "share of the target spread over all classes")
flags.DEFINE_float("clip_norm", 0.0, "largest norm of the gradient; 0: not clipped")
flags.DEFINE_integer("seed", 0, "of weights, dropout, order and augmentation")
flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "mixed_bfloat16", "float64"],
    "mixed_bfloat16: of matrix products; weights, recurrence, statistics and loss are float32. "
    "float64: all of it, to check what rounding does",
)

# The machine. None of these changes what is computed, but for the rounding of other thread counts.
flags.DEFINE_float(
    "checkpoint_every_s", 60.0, "most seconds of work that a crash can cost", lower_bound=0
)
flags.register_validator("checkpoint_every_s", math.isfinite, "must be a number of seconds")
flags.DEFINE_integer(
    "intra_op_threads",
    0,
    "threads within an operation; 0: one for two cores, at most 16",
    lower_bound=0,
    upper_bound=1024,
)
flags.DEFINE_integer(
    "inter_op_threads",
    0,
    "operations at a time; 0: one a core, at most 4",
    lower_bound=0,
    upper_bound=1024,
)
flags.DEFINE_integer(
    "input_threads",
    0,
    "threads that read and augment; 0: one a core, at most 4",
    lower_bound=0,
    upper_bound=1024,
)
flags.DEFINE_string(
    "profile",
    None,
    "FIRST,LAST, or a number of steps after the first 20: writes a profile of these steps for "
    "TensorBoard and says where their time went; counted from where the command begins, and with "
    "--folds from where each fold does",
)


def settings_from_flags(fold: int) -> Settings:
    """The training that the flags describe, with the given fold held out.

    Raises:
      ValueError: for values that are not allowed or do not fit each other or the data set.
    """
    from emotion_tfdata.augment import Augment
    from emotion_tfdata.features import Features
    from emotion_tfdata.training import run
    from emotion_tfdata.training.settings import Settings

    augment = None
    if FLAGS.augment:
        augment = Augment(
            factor=FLAGS.augment_factor,
            probability=FLAGS.augment_probability,
            warp_share=FLAGS.augment_warp_share,
            noise_share=FLAGS.augment_noise_share,
            stretch=_range("augment_stretch"),
            noise_level=_range("augment_noise_level"),
            noise_correlation=FLAGS.augment_noise_correlation,
            noise_slow_hz=FLAGS.augment_noise_slow_hz,
            mel_warp=_range("augment_mel_warp"),
            frequency_masks=FLAGS.augment_frequency_masks,
            frequency_mask_bands=FLAGS.augment_frequency_mask_bands,
            time_masks=FLAGS.augment_time_masks,
            time_mask_s=FLAGS.augment_time_mask_s,
            time_mask_share=FLAGS.augment_time_mask_share,
        )
    features = Features(
        modalities=FLAGS.modalities,
        landmarks=_landmarks(),
        trim_silence_db=FLAGS.trim_silence_db or None,
        relative_level=FLAGS.relative_level,
        num_classes=FLAGS.num_classes and int(FLAGS.num_classes),
        labels=FLAGS.labels,
    )
    model = run.model_config(
        FLAGS.data_dir,
        features,
        {"video": FLAGS.video, "l2": FLAGS.l2, "l2_tcn": FLAGS.l2_tcn},
        FLAGS.model,
    )
    same_name = (
        *("name", "protocol", "select_on", "select_by", "batch_size", "epochs"),
        *("learning_rate", "lr_schedule", "lr_factor", "lr_patience", "min_learning_rate"),
        *(
            "early_stopping",
            "class_weights",
            "label_smoothing",
            "clip_norm",
            "seed",
            "precision",
        ),
    )
    return Settings(
        model=model,
        augment=augment,
        features=features,
        fold=fold,
        train_corpora=tuple(FLAGS.train_corpora),
        test_corpora=tuple(FLAGS.test_corpora),
        **{name: getattr(FLAGS, name) for name in same_name},
    )


def default_model_dir() -> str:
    """`runs/NAME`, with what tells this run from the name's usual one."""
    parts = [FLAGS.name]
    if FLAGS.modalities != "both":
        parts.append(FLAGS.modalities)
    if FLAGS.protocol != "actor":
        parts.append(short_name(FLAGS.protocol))
    for what, corpora in (("on", FLAGS.train_corpora), ("test", FLAGS.test_corpora)):
        if corpora:
            parts.append("-".join([what, *corpora]))
    if FLAGS.labels != "intended":
        parts.append(FLAGS.labels)
    if FLAGS.folds:
        parts.append(f"folds-{'-'.join(FLAGS.folds)}")
    elif FLAGS.fold:
        parts.append(f"fold-{FLAGS.fold}")
    if FLAGS.seed:
        parts.append(f"seed-{FLAGS.seed}")
    return os.path.join("runs", "-".join(parts))


def main(argv: list[str]) -> int:
    """Trains as the flags say; returns the exit status."""
    try:
        return _main(argv)
    except KeyboardInterrupt:  # asked twice
        print("\ninterrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 128 + signal.SIGINT


def _main(argv: list[str]) -> int:
    if len(argv) > 1:
        return _fail(f"unexpected argument {argv[1]!r}: every flag begins with --")
    stop = _StopRequest()
    from emotion_tfdata.manifest import Manifest, ManifestError

    try:
        if "://" not in FLAGS.data_dir:
            Manifest.load(FLAGS.data_dir)  # before anybody waits for TensorFlow
    except ManifestError as error:
        hint = " (./launch/quickstart.sh makes it)" if FLAGS["data_dir"].using_default_value else ""
        return _fail(f"{error}{hint}")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the models are, whatever Keras is set to elsewhere
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters is raised as an exception
    logging.set_verbosity(logging.WARNING)  # what TensorFlow tells of its own doings
    import tensorflow as tf

    from emotion_tfdata.memory import keep_freed_memory
    from emotion_tfdata.reader import CorruptDataError
    from emotion_tfdata.storage import StorageError
    from emotion_tfdata.training import run, threads
    from emotion_tfdata.training import workers as workers_lib
    from emotion_tfdata.training.checkpoint import CheckpointError
    from emotion_tfdata.training.cluster import ClusterError
    from emotion_tfdata.training.data import DataError
    from emotion_tfdata.training.fit import StoppedError, TrainingError
    from emotion_tfdata.training.precision import check_precision
    from emotion_tfdata.training.profiling import ProfiledSteps
    from emotion_tfdata.training.progress import Progress
    from emotion_tfdata.training.quiet import start_compiler
    from emotion_tfdata.training.run_dir import RunDirError

    keep_freed_memory()
    chosen = threads.choose(FLAGS.intra_op_threads, FLAGS.inter_op_threads, FLAGS.input_threads)
    try:
        check_precision(FLAGS.precision)
        profile = ProfiledSteps.parse(FLAGS.profile) if FLAGS.profile else None
    except ValueError as error:
        return _fail(f"--{error}")
    try:
        several = [settings_from_flags(fold) for fold in _folds()]
        workers = workers_lib.join(lambda: run.claims(several, FLAGS.data_dir), stop.is_asked)
        workers_lib.check_shares(FLAGS.batch_size, workers.count)
    except StoppedError as stopped:
        print(f"stopped at {stopped}", file=sys.stderr)
        return stop.exit_status
    except (ClusterError, ValueError, StorageError) as error:
        return _fail(str(error))
    start_compiler()
    options = run.Options(
        data_dir=FLAGS.data_dir,
        model_dir=Path(FLAGS.model_dir or default_model_dir()),
        overwrite=FLAGS.overwrite,
        checkpoint_every_s=FLAGS.checkpoint_every_s,
        input_threads=chosen.input,
        profile=profile,
        should_stop=stop.is_asked,
        workers=workers,
    )
    # One of several workers speaks for all.
    progress = Progress(None if workers.is_chief else open(os.devnull, "w"))  # noqa: SIM115
    try:
        if FLAGS.folds:
            report = run.train_folds(several, options, progress)
        else:
            report = run.train_fold(several[0], options, progress)
    except StoppedError as stopped:
        workers.close()
        progress.line(f"stopped at {stopped}; the same command goes on from there")
        return stop.exit_status
    except (
        *(CheckpointError, CorruptDataError, DataError, ManifestError, RunDirError),
        *(StorageError, TrainingError),
        tf.errors.InvalidArgumentError,  # a corrupt record, named by the reader
    ) as error:
        reason = getattr(error, "message", None) or str(error)
        if workers.count > 1:
            reason = f"worker {workers.index}: {reason}"
        workers.close(failure=reason)
        return _fail(reason)
    except tf.errors.OpError as error:
        workers.recover(error)
        said = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message)  # TensorFlow's own names
        return _fail(f"{options.model_dir}: {said}")
    workers.close()
    progress.line()
    if workers.is_chief:
        progress.line(run.closing(report, options.model_dir))
    return 0


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


def _folds() -> list[int]:
    from emotion_tfdata.training import run

    if not FLAGS.folds:
        return [FLAGS.fold]
    given = ",".join(FLAGS.folds)
    there = run.filled_folds(FLAGS.data_dir, FLAGS.protocol, FLAGS.test_corpora)
    if FLAGS.folds == ["all"]:
        return there
    try:
        folds = [int(fold) for fold in FLAGS.folds]
    except ValueError as error:
        raise ValueError(f"--folds={given}: give 'all' or numbers") from error
    if len(set(folds)) < len(folds):
        raise ValueError(f"--folds={given}: a fold stands there twice")
    if not set(folds) <= set(there):  # said before the first is trained
        raise ValueError(
            f"--folds={given}: {FLAGS.data_dir} has clips in {FLAGS.protocol} folds "
            f"{', '.join(map(str, there))}"
        )
    return folds


def _landmarks() -> str | tuple[int, ...]:
    if len(FLAGS.landmarks) == 1 and not FLAGS.landmarks[0].isdigit():
        return FLAGS.landmarks[0]
    try:
        return tuple(int(index) for index in FLAGS.landmarks)
    except ValueError as error:
        raise ValueError(
            f"--landmarks={','.join(FLAGS.landmarks)}: give all, expressive or indices"
        ) from error


def _range(name: str) -> tuple[float, float]:
    values = getattr(FLAGS, name)
    try:
        low, high = (float(value) for value in values)
    except ValueError as error:
        raise ValueError(f"--{name}={','.join(values)}: give two numbers, LOW,HIGH") from error
    return low, high


def _fail(message: str) -> int:
    print(f"train.py: {' '.join(message.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    app.run(main)
