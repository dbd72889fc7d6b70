"""What lies in one training's folder: what was asked for, how far it is, what it came to."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emotion_tfdata.training import run_dir

REQUEST, HOW = "request.json", "how.txt"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished training's report says.

    Attributes:
      figures: by part, `all` or a corpus, then `uar` and `accuracy`.
      clips: how many were trained on, selected on (0 for none) and held out.
      actors: how many were held out.
      best_epoch: counted from 1.
      epochs: that were trained.
      seconds: that they took.
      selection: what the epoch was chosen on, in words.
      how: in what company it was trained last, in words; empty where nothing says it.
    """

    figures: Mapping[str, Mapping[str, float]]
    clips: tuple[int, int, int]
    actors: int
    best_epoch: int
    epochs: int
    seconds: float
    selection: str
    how: str = ""


def prepare(folder: Path, request: Mapping[str, Any], how: str) -> None:
    """Make the folder and note what is asked for, and how, before anything is trained."""
    folder.mkdir(parents=True, exist_ok=True)
    run_dir.write_text(folder / HOW, f"{how}\n")
    if not (folder / REQUEST).exists():
        run_dir.write_text(folder / REQUEST, json.dumps(request, indent=1) + "\n")


def clear(folder: Path) -> None:
    """Remove the training."""
    shutil.rmtree(folder)


def differences(folder: Path, request: Mapping[str, Any]) -> list[str]:
    """Say how the folder's training differs from what is asked for; empty if it does not."""
    try:
        found = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        there, wanted = list(found["flags"]), list(request["flags"])
        same_data = found["data_manifest_sha256"] == request["data_manifest_sha256"]
    except FileNotFoundError:
        if (folder / run_dir.SETTINGS).exists():
            return ["it was not made by an ablation"]
        return []  # nothing is there yet
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{REQUEST} cannot be read ({error!r})"]
    different = [f"there {arg}" for arg in there if arg not in wanted]
    different += [f"asked for {arg}" for arg in wanted if arg not in there]
    if not different and there != wanted:
        different = [f"there {' '.join(there)}", f"asked for {' '.join(wanted)}"]
    return different + ([] if same_data else ["another data set"])


def outcome(folder: Path, report: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a finished training."""
    how = folder / HOW
    return _outcome(report, how.read_text(encoding="utf-8").strip() if how.exists() else "")


def _outcome(report: Mapping[str, Any], how: str) -> Outcome:
    held_out, clips = report["held_out"], report["clips"]
    parts = {"all": held_out, **held_out["by_corpus"]}
    selected = clips["selection"]
    return Outcome(
        figures={
            name: {key: part[key] for key in ("uar", "accuracy") if part[key] is not None}
            for name, part in parts.items()
        },
        clips=(
            clips["train"]["clips"],
            selected["clips"] if selected else 0,
            clips["held_out"]["clips"],
        ),
        actors=clips["held_out"]["num_actors"],
        best_epoch=report["best_epoch"],
        epochs=report["epochs"],
        seconds=report["seconds"],
        selection=f"{report['select_on']} ({report['selection_meaning']})",
        how=how,
    )
