"""What one record of a shard holds, declared once: written, parsed and checked from one table.

A record is a serialized `tf.train.Example`. Arrays are little-endian, row-major bytes with their
shape beside them in `<name>_shape`. Floats are stored in 16-bit fixed point (`step` a unit): finer
than float16 over the range that occurs, in the same two bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from emotion_tfdata.dataset import timebase
from emotion_tfdata.dataset.index import Record
from emotion_tfdata.dataset.manifest import Array, Modality
from emotion_tfdata.dataset.tfrecord import ExampleMessage

AUDIO_STEP_DB = 1 / 128  # +-256 dB
_FLOAT16_MAX = 65504.0
LANDMARKS_STEP = 1 / 8192  # +-4 distances between the eyes

TEXT_FEATURES = ("example_id", "corpus", "actor", "emotion", "intensity", "sentence")


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """How one array is stored.

    Attributes:
      shape: letters name sizes that vary from clip to clip (`Ta`, `Tv`) or from data set to data
        set (`M` audio features, `L` landmarks); a data set's own table has its numbers.
      dtype: as stored.
      step: what one unit of the stored integer stands for, or None where values are stored as is.
      unit: of its values.
      about: meaning.
    """

    shape: tuple[str | int, ...]
    dtype: np.dtype
    step: float | None
    unit: str
    about: str


ARRAY_FEATURES: dict[str, ArraySpec] = {
    "audio": ArraySpec(
        ("Ta", "M"), np.dtype("<i2"), AUDIO_STEP_DB, "dB", "log-mel energies, 100 frames/s"
    ),
    "landmarks": ArraySpec(
        ("Tv", "L", 3),
        np.dtype("<i2"),
        LANDMARKS_STEP,
        "distances between the eyes",
        "face landmarks in the face's own frame, 30 frames/s",
    ),
    "landmarks_valid": ArraySpec(
        ("Tv",), np.dtype("u1"), None, "", "1 where a face was found in the frame"
    ),
    "head": ArraySpec(
        ("Tv", 4),
        np.dtype("<f4"),
        None,
        "widths of the picture, radians",
        "what the face's frame took away: centre x and y and distance between the eyes, and roll",
    ),
}


class SchemaError(ValueError):
    """A record or an example that is not as the feature table says."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A clip's features and labels.

    Attributes:
      example_id: `<corpus>/<name of the file without its ending>`.
      corpus: `ravdess` or `crema_d`.
      actor: the corpus's own number of the actor, as text.
      emotion: one of `labels.EMOTIONS`.
      intensity: the corpus's own word for how strongly it is acted.
      sentence: the corpus's own code of the sentence spoken.
      audio: float32 `[Ta, M]`, dB, 100 frames/s; no rows where the clip has no sound.
      landmarks: float32 `[Tv, L, 3]`, 30 frames/s; zero rows where no face was found. Of a data
        set with other face features `[Tv, W]`, at their own rate.
      landmarks_valid: bool `[Tv]`.
      head: float32 `[Tv, 4]`; `[Tv, 0]` without landmarks.
    """

    example_id: str
    corpus: str
    actor: str
    emotion: str
    intensity: str
    sentence: str
    audio: np.ndarray
    landmarks: np.ndarray
    landmarks_valid: np.ndarray
    head: np.ndarray


Stored = Mapping[str, Modality] | None  # how a data set stores its modalities; None: the default


def specs(stored: Stored = None) -> dict[str, ArraySpec]:
    """Return a data set's table of arrays: the default one, with the modalities of its manifest."""
    table = dict(ARRAY_FEATURES)
    for name, modality in (stored or {}).items():
        array, spec = modality.array, table[name]
        table[name] = dataclasses.replace(
            spec,
            shape=(spec.shape[0], *array.shape),
            dtype=np.dtype(array.dtype).newbyteorder("<"),
            step=array.step,
            unit=array.unit,
        )
    if stored and "landmarks" in stored and "head" not in stored["landmarks"].beside:
        del table["head"]
    return table


def stored_arrays(example: Example, stored: Stored = None) -> dict[str, np.ndarray]:
    """Return the example's arrays as they are stored (fixed point, float16, bytes), checked.

    Args:
      example: one clip.
      stored: the data set's modalities.

    Raises:
      SchemaError: for an array of the wrong rank, of lengths that contradict each other, with a
        value that is not finite, or beyond what its fixed point holds.
    """
    sizes: dict[str, int] = {}
    arrays = {}
    for name, spec in specs(stored).items():
        array = np.asarray(getattr(example, name))
        _check_shape(example.example_id, name, array.shape, spec, sizes)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise SchemaError(f"{example.example_id}: {name} is not finite at {at}")
        if spec.step is not None:
            units = np.rint(np.asarray(array, np.float64) / spec.step)
            limits = np.iinfo(spec.dtype)
            if units.size and (units.min() < limits.min or units.max() > limits.max):
                raise SchemaError(
                    f"{example.example_id}: {name} reaches {np.abs(array).max():g}, "
                    f"more than the {limits.max * spec.step:g} that its fixed point holds"
                )
            array = units
        elif spec.dtype == np.float16 and array.size and np.abs(array).max() >= _FLOAT16_MAX:
            raise SchemaError(
                f"{example.example_id}: {name} reaches {np.abs(array).max():g}, more than float16 "
                "holds"
            )
        arrays[name] = np.ascontiguousarray(array, dtype=spec.dtype)
    return arrays


def encode(example: Example, stored: Stored = None) -> bytes:
    """Serialize an example to the bytes of one record.

    The same example gives the same bytes in every process.

    Raises:
      SchemaError: as `stored_arrays`, and for an empty text feature.
    """
    message = ExampleMessage()
    feature = message.features.feature
    for name in TEXT_FEATURES:
        text = getattr(example, name)
        if not text:
            raise SchemaError(f"{example.example_id or 'example'}: {name} is empty")
        feature[name].bytes_list.value.append(text.encode())
    for name, array in stored_arrays(example, stored).items():
        feature[name].bytes_list.value.append(array.tobytes())
        feature[f"{name}_shape"].int64_list.value.extend(array.shape)
    # A protobuf map serializes in no fixed order unless asked to.
    return message.SerializeToString(deterministic=True)


def decode(serialized: bytes, where: str = "record", stored: Stored = None) -> Example:
    """Decode one record outside of any graph, to inspect or check it.

    Args:
      serialized: the record's bytes.
      where: names the record in errors until its id is known.
      stored: the data set's modalities.

    Raises:
      SchemaError: if it is no `tf.train.Example`, or a feature is missing or does not fit its
        shape; the message names record and feature.
    """
    try:
        features = ExampleMessage.FromString(serialized).features.feature
    except DecodeError as error:
        raise SchemaError(f"{where}: not a tf.train.Example ({error})") from error

    def value(name: str, kind: str) -> Any:
        values = getattr(features[name], kind).value if name in features else []
        if not values:
            raise SchemaError(f"{where}: feature {name!r} is missing")
        return values

    text: dict[str, Any] = {}
    for name in TEXT_FEATURES:
        text[name] = value(name, "bytes_list")[0].decode()
        where = text["example_id"]
    arrays: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, spec in specs(stored).items():
        content = value(name, "bytes_list")[0]
        shape = tuple(value(f"{name}_shape", "int64_list"))
        _check_shape(where, name, shape, spec, sizes)
        expected_bytes = int(np.prod(shape)) * spec.dtype.itemsize
        if len(content) != expected_bytes:
            raise SchemaError(
                f"{where}: {name} holds {len(content)} bytes, its shape {shape} needs "
                f"{expected_bytes}"
            )
        array = np.frombuffer(content, spec.dtype).reshape(shape)
        arrays[name] = from_stored(array, spec)
    return Example(**text, **completed(arrays))


def completed(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the arrays of an `Example`, in their units, from those that were stored."""
    valid = arrays["landmarks_valid"].astype(bool)
    without_head = np.zeros((len(valid), 0), np.float32)
    return {"head": without_head, **arrays, "landmarks_valid": valid}


def storage_errors(example: Example, stored: Mapping[str, Modality]) -> dict[str, float]:
    """Return the largest error of an example's values as stored, by modality, in its unit.

    Raises:
      SchemaError: as `stored_arrays`.
    """
    table, arrays = specs(stored), stored_arrays(example, stored)
    errors = {}
    for name in stored:
        error = np.abs(from_stored(arrays[name], table[name]) - getattr(example, name))
        errors[name] = float(error.max(initial=0.0))
    return errors


def from_stored(array: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """Return the values of a stored array in the units of its modality."""
    if spec.dtype == np.float16:
        return array.astype(np.float32)
    values: np.ndarray = array if spec.step is None else np.float32(spec.step) * array
    return values


def modalities(num_audio_features: int, num_landmarks: int) -> dict[str, Modality]:
    """Return what a manifest says of both modalities.

    Args:
      num_audio_features: `M`.
      num_landmarks: `L`.
    """
    sizes = {"M": num_audio_features, "L": num_landmarks}

    def array(name: str) -> Array:
        spec = ARRAY_FEATURES[name]
        shape = tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape[1:])
        return Array(shape, spec.dtype.name, spec.step, spec.unit)

    beside = {name: array(name) for name in ("landmarks_valid", "head")}
    return {
        "audio": Modality(timebase.AUDIO_RATE_HZ, array("audio")),
        "landmarks": Modality(timebase.LANDMARKS_RATE_HZ, array("landmarks"), beside),
    }


def record_of(
    example: Example, built: Mapping[str, Modality], random_fold: int, offset: int, length: int
) -> Record:
    """Return an example's entry in the index; the last three arguments as `Record` has them."""
    valid = {name: f"{name}_valid" for name in built if f"{name}_valid" in built[name].beside}
    return Record(
        **{name: getattr(example, name) for name in TEXT_FEATURES},
        frames={name: len(getattr(example, name)) for name in built},
        valid_frames={name: int(getattr(example, flag).sum()) for name, flag in valid.items()},
        random_fold=random_fold,
        offset=offset,
        length=length,
    )


def valid_rows(example: Example, built: Mapping[str, Modality]) -> dict[str, np.ndarray]:
    """Return the rows of each modality that hold something, `[N, ...]`."""
    rows = {}
    for name, modality in built.items():
        rows[name] = getattr(example, name)
        if f"{name}_valid" in modality.beside:
            rows[name] = rows[name][getattr(example, f"{name}_valid")]
    return rows


def _check_shape(
    example_id: str, name: str, shape: tuple[int, ...], spec: ArraySpec, sizes: dict[str, int]
) -> None:
    """Check a shape against the table; `sizes` collects what the letters stand for."""
    fits = len(shape) == len(spec.shape) and all(
        size == (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size))
        for size, wanted in zip(shape, spec.shape, strict=False)
    )
    if not fits:
        known = ", ".join(f"{letter}={size}" for letter, size in sizes.items())
        raise SchemaError(
            f"{example_id}: {name} has shape {tuple(shape)}, expected "
            f"[{', '.join(map(str, spec.shape))}] ({known})"
        )
