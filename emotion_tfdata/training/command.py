"""The flags of a training, and the training that they describe."""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from emotion_tfdata.dataset.people import LABELS
from emotion_tfdata.dataset.protocols import NAMES as PROTOCOLS
from emotion_tfdata.dataset.protocols import short_name

if TYPE_CHECKING:
    from emotion_tfdata.training.learner import Learners
    from emotion_tfdata.training.settings import Settings

STOPPED = 130  # status of a training that was asked to stop


def define(values: flags.FlagValues) -> None:
    """Defines the flags of a training."""
    string, boolean, floating, integer, enum, listing, multi_string = (
        functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=values)
        for kind in ("string", "bool", "float", "integer", "enum", "list", "multi_string")
    )

    # What to train on and where to.
    string("data_dir", "data/sample/tfrecords", "data set, from preprocess.build_tfrecords")
    string(
        "model_dir",
        None,
        "folder of checkpoints, TensorBoard events and report (default: runs/NAME, with what "
        "--fold, --folds, --modalities, --protocol, --labels and corpora say where they are not "
        "the default)",
    )
    string("name", "tcn", "name of the system, for the report and --model_dir")
    boolean(
        "overwrite",
        False,
        "remove another training's files from --model_dir; one of the same settings is resumed",
    )
    enum("modalities", "both", ["both", "audio", "landmarks"], "what the model is given")
    listing("landmarks", ["expressive"], "all, expressive, or indices: 0,13,14")
    floating(
        "trim_silence_db",
        0.0,
        "mask the audio before and after what comes within so many dB of the clip's loudest frame; "
        "0: mask nothing",
    )
    boolean(
        "relative_level",
        False,
        "audio counts from the mean of the clip's own energies: how loud a clip is does not matter",
    )
    enum(
        "num_classes",
        None,
        ["6", "8"],
        "6 of a data set built with 8 classes; all it has if not given",
    )

    # What is held out.
    string(
        "protocol",
        "actor",
        f"who is held out: {', '.join(PROTOCOLS)}, or a JSON file of folds, "
        '{"0": ["ravdess/01", ...], ...}. random is leaky: its actors are on both sides',
    )
    listing("train_corpora", [], "corpora to train and select on, e.g. ravdess; all if empty")
    listing("test_corpora", [], "corpora to hold out clips of, e.g. crema_d; all if empty")
    enum(
        "labels",
        "intended",
        list(LABELS),
        "what a clip's label is. intended: what the actor was to show. perceived: what most raters "
        "of CREMA-D took it for. votes: trains on their votes as a distribution, tests on the "
        "intended",
    )
    integer("fold", 0, "fold that is held out for the report")
    enum(
        "select_on",
        "inner",
        ["inner", "held_out", "none"],
        "where epoch and learning rate are decided. inner: on one more fold taken out of training. "
        "held_out: on the held-out fold itself, optimistic. none: nowhere, the last epoch counts",
    )
    enum(
        "select_by",
        "loss",
        ["loss", "uar"],
        "figure decided by: cross-entropy, or unweighted recall",
    )

    # The model; what is not said here is in the table of emotion_tfdata.models.ModelConfig.
    enum("video", "tcn", ["tcn", "bilstm"], "what reads the landmarks")
    floating("l2", 0.001, "L2 penalty on dense layers", lower_bound=0)
    floating("l2_tcn", 0.001, "L2 penalty on the TCN's convolutions", lower_bound=0)
    multi_string("model", [], "FIELD=VALUE of ModelConfig, e.g. --model=audio_dropout=0.5")

    # Augmentation of training clips.
    boolean("augment", True, "add altered copies of the training clips")
    floating("augment_factor", 2.0, "size of an epoch in clips; 2 adds a copy of each")
    floating("augment_probability", 0.8, "that a copy is altered")
    floating("augment_warp_share", 0.4, "share of altered copies that are only warped in time")
    floating("augment_noise_share", 0.3, "share that only get noise; the rest get both")
    listing("augment_stretch", ["0.9", "1.1"], "range of the time warp's factor")
    listing(
        "augment_noise_level",
        ["0.001", "0.01"],
        "range of the noise, in deviations of each feature",
    )
    floating("augment_noise_correlation", 0.5, "correlation of the noise of two features")
    floating("augment_noise_slow_hz", 2.0, "highest frequency of the shared noise, in Hz")
    listing(
        "augment_mel_warp",
        ["1", "1"],
        "range of the factor that every altered copy's mel axis is warped by; 1,1: not warped",
    )
    integer("augment_frequency_masks", 0, "masks over mel bands of an altered copy")
    integer("augment_frequency_mask_bands", 10, "widest of them, in bands")
    integer("augment_time_masks", 0, "masks over time of an altered copy's audio")
    floating("augment_time_mask_s", 0.2, "widest of them, in seconds")
    floating(
        "augment_time_mask_share", 0.3, "largest share of a clip that its time masks hide together"
    )

    floating(
        "augment_modality_dropout",
        0.0,
        "that a copy loses its voice or its face, so that the model serves clips of one alone",
    )

    # Optimization.
    integer("epochs", 60, "most epochs", lower_bound=1)
    integer("batch_size", 24, "clips a step", lower_bound=1)
    floating("learning_rate", 0.001, "Adam's, of the first epoch", lower_bound=0)
    enum(
        "lr_schedule",
        "plateau",
        ["plateau", "cosine", "constant"],
        "plateau: lowered where selection levels off; cosine: to zero at the last epoch",
    )
    floating("lr_factor", 0.5, "plateau: what the rate is multiplied by")
    integer("lr_patience", 5, "plateau: epochs without a better one before that")
    floating("min_learning_rate", 1e-5, "plateau: lowest rate")
    integer("early_stopping", 15, "epochs without a better one that end it; 0: never")
    enum(
        "class_weights",
        "none",
        ["none", "balanced"],
        "balanced: rare classes weigh more in the loss",
    )
    floating("label_smoothing", 0.0, "share of the target spread over all classes")
    floating("clip_norm", 0.0, "largest norm of the gradient; 0: not clipped")
    integer("seed", 0, "of weights, dropout, order and augmentation")
    enum(
        "precision",
        "float32",
        ["float32", "mixed_bfloat16", "float64"],
        "mixed_bfloat16: of matrix products; weights, recurrence, statistics and loss are float32. "
        "float64: all of it, to check what rounding does",
    )

    boolean("tflite", False, "write model.tflite too, for LiteRT on phones: one clip at a time")

    # The machine. None of these changes what is computed, but for the rounding of other thread
    # counts.
    floating(
        "checkpoint_every_s", 30.0, "most seconds of work that a crash can cost", lower_bound=0
    )
    flags.register_validator(
        "checkpoint_every_s", math.isfinite, "must be a number of seconds", flag_values=values
    )
    integer(
        "intra_op_threads",
        0,
        "threads within an operation; 0: one for two cores, at most 16",
        lower_bound=0,
        upper_bound=1024,
    )
    integer(
        "inter_op_threads",
        0,
        "operations at a time; 0: one a core, at most 4",
        lower_bound=0,
        upper_bound=1024,
    )
    integer(
        "input_threads",
        0,
        "threads that read and augment; 0: one a core, at most 4",
        lower_bound=0,
        upper_bound=1024,
    )
    string(
        "profile",
        None,
        "FIRST,LAST, or a number of steps after the first 20: writes a profile of these steps "
        "for TensorBoard and says where their time went; counted from where the command begins",
    )


def parse(args: Sequence[str]) -> flags.FlagValues:
    """Reads flags as the command line has them.

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
    """The training that the flags describe, but for --folds and --seeds.

    Raises:
      ValueError: for values that are not allowed or do not fit each other or the data set.
    """
    from emotion_tfdata.augment import Augment
    from emotion_tfdata.features import Features
    from emotion_tfdata.training import run
    from emotion_tfdata.training.settings import Settings

    augment = None
    if values.augment:
        augment = Augment(
            factor=values.augment_factor,
            probability=values.augment_probability,
            warp_share=values.augment_warp_share,
            noise_share=values.augment_noise_share,
            stretch=_range(values, "augment_stretch"),
            noise_level=_range(values, "augment_noise_level"),
            noise_correlation=values.augment_noise_correlation,
            noise_slow_hz=values.augment_noise_slow_hz,
            mel_warp=_range(values, "augment_mel_warp"),
            frequency_masks=values.augment_frequency_masks,
            frequency_mask_bands=values.augment_frequency_mask_bands,
            time_masks=values.augment_time_masks,
            time_mask_s=values.augment_time_mask_s,
            time_mask_share=values.augment_time_mask_share,
            modality_dropout=values.augment_modality_dropout,
        )
    features = Features(
        modalities=values.modalities,
        landmarks=_landmarks(values),
        trim_silence_db=values.trim_silence_db or None,
        relative_level=values.relative_level,
        num_classes=values.num_classes and int(values.num_classes),
        labels=values.labels,
    )
    model = run.model_config(
        values.data_dir,
        features,
        {"video": values.video, "l2": values.l2, "l2_tcn": values.l2_tcn},
        values.model,
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
        fold=values.fold,
        train_corpora=tuple(values.train_corpora),
        test_corpora=tuple(values.test_corpora),
        **{name: getattr(values, name) for name in same_name},
    )


def before_tensorflow() -> None:
    """Sets what must be set before TensorFlow and Keras are first imported."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the models are, whatever Keras is set to elsewhere
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters is raised as an exception
    logging.set_verbosity(logging.WARNING)  # what TensorFlow tells of its own doings


def default_model_dir(values: flags.FlagValues) -> str:
    """`runs/NAME`, with what tells this run from the name's usual one."""
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
    """Trains as the flags say, tells of it on standard output, and of failures in a line.

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
    before_tensorflow()
    import tensorflow as tf

    from emotion_tfdata.dataset.manifest import ManifestError
    from emotion_tfdata.dataset.storage import StorageError
    from emotion_tfdata.stream.memory import keep_freed_memory
    from emotion_tfdata.stream.reader import CorruptDataError
    from emotion_tfdata.training import run, threads
    from emotion_tfdata.training.checkpoint import CheckpointError
    from emotion_tfdata.training.data import DataError
    from emotion_tfdata.training.fit import StoppedError, TrainingError
    from emotion_tfdata.training.precision import check_precision
    from emotion_tfdata.training.profiling import ProfiledSteps
    from emotion_tfdata.training.progress import Progress
    from emotion_tfdata.training.quiet import start_compiler
    from emotion_tfdata.training.run_dir import RunDirError
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


def _landmarks(values: flags.FlagValues) -> str | tuple[int, ...]:
    if len(values.landmarks) == 1 and not values.landmarks[0].isdigit():
        return values.landmarks[0]
    try:
        return tuple(int(index) for index in values.landmarks)
    except ValueError as error:
        raise ValueError(
            f"--landmarks={','.join(values.landmarks)}: give all, expressive or indices"
        ) from error


def _range(values: flags.FlagValues, name: str) -> tuple[float, float]:
    given = getattr(values, name)
    try:
        low, high = (float(value) for value in given)
    except ValueError as error:
        raise ValueError(f"--{name}={','.join(given)}: give two numbers, LOW,HIGH") from error
    return low, high


def fail(message: str) -> int:
    """Says in a line why something cannot be done; returns the exit status."""
    print(f"train.py: {' '.join(message.split())}", file=sys.stderr)
    return 1
