"""A training's folder: whose it is, and that one process at a time uses it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SETTINGS = "settings.json"
CHECKPOINT = "checkpoint.npz"
HISTORY = "history.json"
REPORT_JSON = "report.json"
REPORT_TEXT = "report.md"
REPORT_HTML = "report.html"
CONFUSION_PNG = "confusion_matrix.png"
PREDICTIONS = "predictions.csv"
BEST_MODEL = "best.keras"
SAVED_MODEL = "saved_model"
TFLITE = "model.tflite"
FEATURES = "features.json"  # inside it
TENSORBOARD = "tensorboard"
_LOCK = ".lock"
_OURS = (
    SETTINGS,
    CHECKPOINT,
    HISTORY,
    REPORT_JSON,
    REPORT_TEXT,
    REPORT_HTML,
    CONFUSION_PNG,
    PREDICTIONS,
    BEST_MODEL,
    SAVED_MODEL,
    TENSORBOARD,
)


class RunDirError(ValueError):
    """A model folder that cannot be used for this training."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file or folder, which then takes the place of `path`.

    Whoever fails meanwhile leaves what was there before, and nothing else.
    """
    temporary = path.with_name(f".{path.name}")  # Keras wants the name to end as it does
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():  # a folder replaces an empty one at most
            _remove(path)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; a NaN, which JSON does not have, is written as null."""
    write_text(path, json.dumps(_finite(content), indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_report(model_dir: Path) -> dict[str, Any] | None:
    """Return the report of a finished training; None where there is none that can be read."""
    try:
        report = read_json(model_dir / REPORT_JSON)
    except (FileNotFoundError, ValueError):
        return None
    return report if isinstance(report, dict) and "held_out" in report else None


@contextlib.contextmanager
def locked(model_dir: Path, name: str = _LOCK, whose: str = "another training") -> Iterator[None]:
    """Make the folder and hold it for this process, however that ends.

    Args:
      model_dir: the folder.
      name: of the file that says so.
      whose: who else may hold it, for the message.

    Raises:
      RunDirError: if the folder cannot be written, or another process trains into it.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        lock = open(model_dir / name, "a")  # noqa: SIM115 (closed below, kept while yielding)
    except OSError as error:
        raise RunDirError(f"--model_dir={model_dir} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunDirError(
                f"--model_dir={model_dir} is in use by {whose}; wait for it or choose another "
                "folder"
            ) from error
        yield


def claim(model_dir: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Check that what lies in the folder comes from these settings.

    Args:
      model_dir: an existing folder.
      settings: as JSON holds them.
      overwrite: remove another run's files instead of refusing. This very run's stay, so that a
        command with `--overwrite` resumes like any other; files that are not a training's are never
        touched.

    Raises:
      RunDirError: if the folder holds a run of other settings and `overwrite` is false.
    """
    for name in _OURS:
        _remove(model_dir / f".{name}")  # what a killed process left
    path = model_dir / SETTINGS
    wanted = json.loads(json.dumps(settings))
    problem = ""
    try:
        different = differences(json.loads(path.read_text(encoding="utf-8")), wanted)
        if not different:
            return
        problem = (
            f"--model_dir={model_dir} holds a training with other settings "
            f"({'; '.join(different[:4])}{'; ...' if len(different) > 4 else ''}). "
            "Choose another --model_dir, or --overwrite it."
        )
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        problem = f"{path} cannot be read ({error}); --overwrite trains again"
    if problem and not overwrite:
        raise RunDirError(problem)
    if overwrite:
        _clear(model_dir)
    write_json(path, wanted)


def _clear(model_dir: Path) -> None:
    """Remove a training's files; the one that says whose they are goes last."""
    for name in sorted(_OURS, key=lambda name: name == SETTINGS):
        _remove(model_dir / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Return what differs between two JSON values, as `name: there X, asked for Y`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            text
            for key in sorted(found.keys() | wanted.keys())
            for text in differences(
                found.get(key), wanted.get(key), f"{name}.{key}" if name else str(key)
            )
        ]
    return [] if found == wanted else [f"{name}: there {found}, asked for {wanted}"]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
