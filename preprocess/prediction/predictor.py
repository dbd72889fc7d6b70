"""A trained model and raw clips: decoded, made into features as its data set was, classified."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_tfdata.dataset import schema
from preprocess.builder import self_test
from preprocess.builder.plan import RECIPE
from preprocess.builder.pool import Lost, Pool, WorkerError
from preprocess.clip import extractors, face_extractors
from preprocess.clip.audio import AudioSettings
from preprocess.clip.container import PICTURE_ENDINGS, MediaError
from preprocess.clip.example import make_example
from preprocess.clip.extractors import AudioExtractor
from preprocess.clip.face_extractors import FACEMESH, OPENFACE, FaceFeatures
from preprocess.clip.media import WHOLE, Part
from preprocess.corpora import Clip
from preprocess.corpora.readers import READERS

# A training's folder, as `train.py` writes it.
_SAVED_MODEL, _FEATURES, _SETTINGS = "saved_model", "features.json", "settings.json"
_FORMAT_VERSION = 1
_CLIP_TIMEOUT_S = 300.0
_WORKER_MEMORY_BYTES = 2048 * 10**6

# Number, file, and what of it.
Task = tuple[int, Path, Part]


class PredictError(ValueError):
    """What keeps anything from being predicted, in one line for its user."""


@dataclasses.dataclass(frozen=True)
class Features:
    """How clips become what a model takes.

    Attributes:
      name: of the system.
      provenance: of what it was trained on, e.g. `drawn clips`; empty for real recordings.
      modalities: that the model needs.
      data_modalities: that its data set was built with.
      class_names: in order of the outputs.
      audio: what makes the sound's features.
      face: what makes those of the pictures.
      versions: of the packages that made the data set's.
      trained_actors: `corpus/actor` of everyone it was trained or its epoch selected on.
      temperature: that its probabilities are calibrated by; None where they are not.
      one_is_enough: whether it was trained to do without one of its modalities.
    """

    name: str
    provenance: str
    modalities: tuple[str, ...]
    data_modalities: tuple[str, ...]
    class_names: tuple[str, ...]
    audio: AudioExtractor
    face: FaceFeatures
    versions: Mapping[str, str]
    trained_actors: frozenset[str] = frozenset()
    temperature: float | None = None
    one_is_enough: bool = False

    @property
    def stored(self) -> schema.Stored:
        """How the data set stores its features."""
        stored = {
            "audio": extractors.stored(self.audio),
            "landmarks": face_extractors.stored(self.face),
        }
        return {name: stored[name] for name in self.data_modalities}

    def trained_actor(self, path: Path) -> str | None:
        """Return the actor that a clip's name tells if the model was trained on it, else None."""
        for corpus in READERS.values():
            actor = f"{corpus.CORPUS}/{corpus.actor_of(path.name)}"
            if actor in self.trained_actors:
                return actor
        return None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one clip.

    Attributes:
      probabilities: class name -> probability.
      logits: class name -> logit.
      audio_frames, landmarks_frames, faces_frames: rows that it was given; of the landmarks' rows
        those with a face.
      notes: what is to be known of the clip.
    """

    probabilities: Mapping[str, float]
    logits: Mapping[str, float]
    audio_frames: int
    landmarks_frames: int
    faces_frames: int
    notes: tuple[str, ...] = ()

    @property
    def emotion(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


@dataclasses.dataclass(frozen=True)
class Failure:
    """A clip that could not be used.

    Attributes:
      kind: one or two words.
      reason: for a person.
    """

    kind: str
    reason: str


# What builds had, and did not write down, when there was nothing to choose.
_BEFORE_EXTRACTORS = {"extractor": None, "face_extractor": None, "num_mfcc": 0, "mfcc_deltas": 0}


def extractors_of(build: Mapping[str, Any]) -> tuple[AudioExtractor, FaceFeatures]:
    """Find the extractors that made a data set's features.

    Args:
      build: its settings. What it has no features of may be of any kind.

    Raises:
      PredictError: if the module of one is not found from here, or it is another one.
    """
    sound = build["audio_features"] if build["extractor"] else "logmel"
    face = build["face_features"] if build["face_extractor"] else "facemesh"
    bands = AudioSettings(**build["audio"])
    try:
        found = (
            extractors.resolve(sound, bands, build["num_mfcc"], build["mfcc_deltas"]),
            face_extractors.resolve(face),
        )
    except ValueError as error:
        raise PredictError(f"{error}. Its module must be importable (PYTHONPATH)") from error
    for name, here, known in (
        (sound, extractors.describe(found[0]), build["extractor"]),
        (face, face_extractors.describe(found[1]), build["face_extractor"]),
    ):
        for part in ("settings", "width", "rate_hz", "step", "source_sha256"):
            if known and here.get(part) != known.get(part):
                raise PredictError(
                    f"{name} is not the extractor that made the model's features: its {part} is "
                    "another"
                )
    return found


def load_features(model_dir: Path) -> Features:
    """Read how a trained model's clips are to be processed.

    Args:
      model_dir: a finished training's folder.

    Raises:
      PredictError: if it holds no model, or one whose clips cannot be processed here.
    """
    path = model_dir / _SAVED_MODEL / _FEATURES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        build = content["build"]
        if content["version"] != _FORMAT_VERSION:
            raise PredictError(f"{path} is of another release ({content['emotion_tfdata']})")
        if "recipe" not in build:
            raise PredictError(f"{model_dir}: its data set was not made from clips, but made up")
        if build["recipe"] != RECIPE:
            raise PredictError(
                f"{model_dir}: its data set was built by recipe {build['recipe']}, this release "
                f"makes features by recipe {RECIPE}. Use the release it was built with "
                f"({content['emotion_tfdata']}), or build and train again"
            )
        audio, face = extractors_of(_BEFORE_EXTRACTORS | build)
        features = Features(
            name=content["name"],
            provenance=content["provenance"],
            modalities=tuple(content["inputs"]),
            data_modalities=tuple(content["data_modalities"]),
            class_names=tuple(content["class_names"]),
            audio=audio,
            face=face,
            versions=build["versions"],
            trained_actors=frozenset(content["trained_actors"]),
            temperature=content["temperature"],
            one_is_enough=content["one_is_enough"],
        )
    except FileNotFoundError as error:
        raise PredictError(_why_no_model(model_dir)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, PredictError):
            raise
        raise PredictError(f"{path}: cannot be read ({error!r})") from error
    if "landmarks" in features.modalities and features.face == OPENFACE:
        raise PredictError(
            f"{model_dir}: its landmarks are those of RAVDESS's tracking record (OpenFace), which "
            "are not found in raw clips. Train on a data set built from the videos"
        )
    return features


def _why_no_model(model_dir: Path) -> str:
    if not model_dir.is_dir():
        return f"--model_dir={model_dir}: no such folder"
    folds = sorted(
        path.parent.parent for path in model_dir.glob(f"fold-*/{_SAVED_MODEL}/{_FEATURES}")
    )
    if folds:
        names = ", ".join(fold.name for fold in folds)
        return (
            f"{model_dir} holds one model a fold ({names}): choose one, e.g. "
            f"--model_dir={folds[0]}. Each was trained without its fold's clips"
        )
    if (model_dir / _SETTINGS).exists():
        return (
            f"{model_dir} holds a training that is not finished, so no model yet; the train.py "
            "command that began it resumes it"
        )
    return f"{model_dir} holds no model (no {_SAVED_MODEL}/{_FEATURES}); train.py makes one"


@dataclasses.dataclass(frozen=True)
class _Unfit:
    """A worker's word that no clip can be read here."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Read:
    """A clip's example, and what is to be known of it."""

    example: schema.Example
    notes: tuple[str, ...]


def read_clip(path: Path, features: Features, part: Part = WHOLE) -> Read | Failure | _Unfit:
    """Make one file's example, in a worker, as the build would have made it.

    A file with picture and sound is placed on the clock of both, as in the data set, even where the
    model uses one of them; where only what the model does not use is missing, the rest will do.
    """
    wanted = set(features.modalities)
    needs_facemesh = "landmarks" in wanted and features.face == FACEMESH
    unfit = self_test.why_unfit(sound="audio" in wanted, faces=needs_facemesh)
    if unfit:
        return _Unfit(unfit)
    tried = wanted
    if path.suffix.lower() in PICTURE_ENDINGS:
        tried = wanted | set(features.data_modalities)
    try:
        try:
            return _example(path, features, tried, part)
        except MediaError:
            if tried == wanted:
                raise
            return _example(path, features, wanted, part)
    except MediaError as error:
        missing = _MISSING.get(error.kind)
        if features.one_is_enough and missing and wanted - {missing}:
            rest = dataclasses.replace(features, modalities=tuple(wanted - {missing}))
            read = read_clip(path, dataclasses.replace(rest, one_is_enough=False), part)
            used = "face" if missing == "audio" else "voice"
            note = f"the {used} alone is used: {error}"
            return Read(read.example, (note, *read.notes)) if isinstance(read, Read) else read
        return Failure(error.kind, _reason(error, features))
    except OSError as error:
        return Failure("unreadable", f"cannot be read ({error.strerror})")
    except ImportError as error:  # no clip is to blame
        return _Unfit(self_test.describe(error))
    except Exception as error:  # whatever a file provokes costs that file alone, and is told
        traceback.print_exc()
        return Failure("failed", f"{type(error).__name__}: {error}")


def _example(path: Path, features: Features, modalities: set[str], part: Part) -> Read:
    clip = Clip(
        corpus="clip",
        name=path.stem,
        actor="unknown",
        emotion="unknown",
        intensity="unknown",
        sentence="unknown",
        picture=str(path) if "landmarks" in modalities else None,
        sound=str(path) if "audio" in modalities else None,
        part=part,
    )
    notes: list[str] = []
    example = make_example(clip, features.audio, face=features.face, notes=notes)
    schema.stored_arrays(example, features.stored)  # what cannot be stored fails here, by name
    return Read(example, tuple(notes))


# Why there is nothing of a modality, and which.
_MISSING = {"no sound": "audio", "no picture": "landmarks", "no face": "landmarks"}


def _reason(error: MediaError, features: Features) -> str:
    if error.kind != "no face" and error.kind in _MISSING and len(features.modalities) > 1:
        return (
            f"{error}; this model needs both (one trained with --augment_modality_dropout does not)"
        )
    return str(error)


class Predictor:
    """A loaded model.

    Args:
      model_dir: a finished training's folder.
      features: as `load_features` gave them.

    Raises:
      PredictError: if the model cannot be loaded.
    """

    def __init__(self, model_dir: Path, features: Features) -> None:
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(str(model_dir / _SAVED_MODEL))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise PredictError(f"{model_dir / _SAVED_MODEL}: cannot be read ({error})") from error
        self._features = features

    def predict(self, example: schema.Example) -> Prediction:
        """Classify one clip, in the 16 bits a value that the data set has too."""
        import tensorflow as tf

        given = {}
        for modality, (values, mask) in self._inputs(example).items():
            if not len(values):  # a row that does not count stands for what is missing
                values, mask = np.zeros((1, *values.shape[1:])), np.zeros(1, bool)
            given[modality] = tf.constant(values, tf.float32)[None]
            given[f"{modality}_mask"] = tf.constant(mask, tf.bool)[None]
        outputs = self._model(given)
        names = self._features.class_names
        logits, shares = (outputs[key].numpy()[0].tolist() for key in ("logits", "probabilities"))
        return Prediction(
            probabilities=dict(zip(names, shares, strict=True)),
            logits=dict(zip(names, logits, strict=True)),
            audio_frames=len(example.audio),
            landmarks_frames=len(example.landmarks),
            faces_frames=int(example.landmarks_valid.sum()),
        )

    def windows(
        self, example: schema.Example, starts_s: np.ndarray, window_s: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Classify windows of a clip, together.

        Args:
          example: the clip.
          starts_s: `[N]`, where they begin.
          window_s: how long they are; what lies beyond the clip's end is masked off.

        Returns:
          Probabilities, float32 `[N, C]`, and whether a window has what the model needs, bool
          `[N]`: a frame of each modality, or of one where one is enough.
        """
        import tensorflow as tf

        rates_hz = {"audio": self._features.audio.rate_hz, "landmarks": self._features.face.rate_hz}
        given, has = {}, []
        for modality, (values, mask) in self._inputs(example).items():
            rate_hz = rates_hz[modality]
            first = np.rint(starts_s * rate_hz).astype(int)
            rows = first[:, None] + np.arange(max(1, round(window_s * rate_hz)))
            # One row more, which does not count, stands for all that is not there.
            values = np.concatenate([values, np.zeros((1, *values.shape[1:]), np.float32)])
            rows = np.minimum(rows, len(mask))
            counts = np.append(mask, False)[rows]
            given[modality] = tf.constant(values[rows], tf.float32)
            given[f"{modality}_mask"] = tf.constant(counts, tf.bool)
            has.append(counts.any(axis=1))
        enough = np.any(has, axis=0) if self._features.one_is_enough else np.all(has, axis=0)
        return self._model(given)["probabilities"].numpy(), enough

    def _inputs(self, example: schema.Example) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return values and mask of the model's inputs, in the data set's 16 bits a value."""
        stored = self._features.stored
        example = schema.decode(schema.encode(example, stored), stored=stored)
        both = {
            "audio": (example.audio, np.ones(len(example.audio), bool)),
            "landmarks": (example.landmarks, example.landmarks_valid),
        }
        return {modality: both[modality] for modality in self._features.modalities}


def predict_clips(
    model_dir: Path, paths: Sequence[Path], features: Features, *, num_workers: int
) -> Iterator[tuple[Path, Prediction | Failure]]:
    """Classify clips; yield them in the order given, each as soon as it can be.

    A clip that crashes or hangs its worker costs itself alone.

    Args:
      model_dir: a finished training's folder.
      paths: of endings that `media` reads, e.g. mp4, mkv, flv, wav or mp3.
      features: as `load_features` gave them.
      num_workers: processes that decode and track faces.

    Raises:
      PredictError: if the model cannot be loaded, or no clip can be read whichever it is.
    """
    tasks = [(number, path, WHOLE) for number, path in enumerate(paths)]
    for (_, path, _), read, model in read_tasks(model_dir, tasks, features, num_workers):
        if isinstance(read, Read):
            yield path, dataclasses.replace(model.predict(read.example), notes=read.notes)
        else:
            yield path, read


def read_tasks(
    model_dir: Path, tasks: Sequence[Task], features: Features, num_workers: int
) -> Iterator[tuple[Task, Read | Failure, Predictor]]:
    """Read files or parts of them in workers; yield them in the order given, with the model.

    Args:
      model_dir: a finished training's folder.
      tasks: what to read, numbered from 0.
      features: as `load_features` gave them.
      num_workers: processes that decode and track faces.

    Raises:
      PredictError: as `predict_clips`.
    """
    with contextlib.ExitStack() as stack:
        try:
            log_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        except OSError as error:
            raise PredictError(self_test.describe(error)) from error
        pool: Pool[Task, Read | Failure | _Unfit] = stack.enter_context(
            Pool(
                functools.partial(_read_task, features=features),
                min(num_workers, len(tasks)),
                log_dir=log_dir,
                timeout_s=_CLIP_TIMEOUT_S,
                memory_bytes=_WORKER_MEMORY_BYTES,
            )
        )
        # TensorFlow takes as long to load as a first clip to be read.
        loader = stack.enter_context(concurrent.futures.ThreadPoolExecutor(max_workers=1))
        loading = loader.submit(Predictor, model_dir, features)
        done: dict[int, Read | Failure] = {}
        following = 0
        try:
            for (number, _, _), result in pool.run(tasks):
                if isinstance(result, Lost):
                    result = Failure("failed", result.reason)
                if isinstance(result, _Unfit):
                    raise PredictError(result.reason)
                done[number] = result
                while following in done:
                    yield tasks[following], done.pop(following), loading.result()
                    following += 1
        except WorkerError as error:
            raise PredictError(str(error)) from error


def _read_task(task: Task, features: Features) -> Read | Failure | _Unfit:
    return read_clip(task[1], features, task[2])
