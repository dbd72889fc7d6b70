"""How a command is doing, from the files that it keeps and the log that it writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def progress(model_dir: Path) -> dict[str, Any]:
    """The newest epoch of a training: `epoch`, `epochs`, `metrics`, `training`; else empty.

    train.py keeps `history.json`, an entry an epoch, and `settings.json`; of several trainings each
    has a folder, such as `seed-0/fold-1`.
    """
    try:
        newest = max(model_dir.rglob("history.json"), key=lambda path: path.stat().st_mtime_ns)
        history = json.loads(newest.read_text())
        found = {"epochs": json.loads((newest.parent / "settings.json").read_text())["epochs"]}
    except (OSError, ValueError, KeyError):
        return {}  # no training, or being written
    if history:
        found |= {"epoch": history[-1].get("epoch"), "metrics": history[-1]}
    if newest.parent != model_dir:
        found["training"] = newest.parent.relative_to(model_dir).as_posix()
    return found


def last_line(log: Path) -> str:
    """The log's last line that says something; empty for none."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
