"""A training's whole state in one file, written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from emotion_tfdata.training import run_dir

_STATE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit the model."""


def save(path: str, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Write arrays and a state (JSON values) to `path` (an .npz file), by rename.

    Whoever is killed meanwhile leaves the file that was there before. Floats go through JSON's
    shortest exact form, so they come back to the bit.
    """
    content = to_bytes(arrays, state)  # zipfile, met by a full disk, fails once more when it closes
    with run_dir.replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def to_bytes(arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> bytes:
    """Return what `save` writes."""
    if _STATE in arrays:
        raise CheckpointError(f"an array must not be named {_STATE!r}")
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    np.savez(file, **{_STATE: text}, **arrays)
    return file.getvalue()


def load(path: str | BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save` wrote, or a file of what `to_bytes` gave.

    Raises:
      FileNotFoundError: if there is none.
      CheckpointError: if it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        state = json.loads(arrays.pop(_STATE).tobytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error!r}). Remove it to train from the start."
        ) from error
    return arrays, state


def arrays_of(variables: list[Any], prefix: str) -> dict[str, np.ndarray]:
    """Copy Keras variables, by prefix, position and path."""
    return {
        f"{prefix}/{number:04d}/{variable.path}": np.array(variable)
        for number, variable in enumerate(variables)
    }


def assign(variables: list[Any], arrays: Mapping[str, np.ndarray], prefix: str, where: str) -> None:
    """Put what `arrays_of` took back into the variables.

    Raises:
      CheckpointError: unless names, shapes and dtypes are those of the variables; nothing is
        assigned then.
    """
    wanted = {
        f"{prefix}/{number:04d}/{variable.path}": variable
        for number, variable in enumerate(variables)
    }
    held = {name for name in arrays if name.startswith(f"{prefix}/")}
    if held != set(wanted):
        name = min(held ^ set(wanted))
        has = "only the checkpoint" if name in held else "only the model"
        raise CheckpointError(f"{where} is of another model: {has} has {name}")
    for name, variable in wanted.items():
        array, shape = arrays[name], tuple(variable.shape)
        if array.shape != shape or array.dtype != variable.dtype:
            raise CheckpointError(
                f"{where} is of another model: {name} is {array.dtype} {array.shape}, the model "
                f"has {variable.dtype} {shape}"
            )
    for name, variable in wanted.items():
        variable.assign(arrays[name])
