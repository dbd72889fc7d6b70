"""How a training is doing, from the files that train.py keeps in its folder.

`settings.json` has `epochs`, `history.json` one entry an epoch, and `report.json` is there when the
training is finished. A training over several folds has a folder `fold-K` for each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def progress(model_dir: Path) -> dict[str, Any]:
    """The newest epoch: `epoch`, `epochs`, `metrics`, and `fold` where there are several."""
    histories = [*model_dir.glob("history.json"), *model_dir.glob("fold-*/history.json")]
    if not histories:
        return {}
    newest = max(histories, key=lambda path: path.stat().st_mtime_ns)
    try:
        history = json.loads(newest.read_text())
        settings = json.loads((newest.parent / "settings.json").read_text())
    except (OSError, ValueError):
        return {}  # being written; the next look sees it
    found: dict[str, Any] = {"epochs": settings.get("epochs")}
    if history:
        found |= {"epoch": history[-1].get("epoch"), "metrics": history[-1]}
    if newest.parent != model_dir:
        found["fold"] = newest.parent.name.removeprefix("fold-")
    return found


def is_finished(model_dir: Path) -> bool:
    """Whether the training has reported."""
    return (model_dir / "report.json").is_file()


def last_line(log: Path) -> str:
    """The log's last line that says something."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else ""
