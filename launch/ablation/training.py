"""What lies in one training's folder: what was asked for, how far it is, what it came to."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch import progress
from launch.ablation.plan import AblationError

REQUEST, HOW, LOG = "request.json", "how.txt", "train.log"
_REPORT, _SETTINGS = "report.json", "settings.json"
# Lines of train.py's about an epoch that is over, and about one that is not.
_EPOCH = re.compile(rb"epoch (\d+)/(\d+)  (train|batch) ")


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


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def prepare(folder: Path, request: Mapping[str, Any], how: str) -> None:
    """Makes the folder and notes what is asked for, and how, before anything is trained."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / HOW, f"{how}\n")
    if not (folder / REQUEST).exists():
        write_text(folder / REQUEST, json.dumps(request, indent=1) + "\n")


def clear(folder: Path) -> None:
    """Removes the training."""
    shutil.rmtree(folder)


def differences(folder: Path, request: Mapping[str, Any]) -> list[str]:
    """What the folder's training was asked for otherwise, in words; empty if nothing."""
    try:
        found = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        there, wanted = list(found["flags"]), list(request["flags"])
        same_data = found["data_manifest_sha256"] == request["data_manifest_sha256"]
    except FileNotFoundError:
        if (folder / _SETTINGS).exists():
            return ["it was not made by an ablation"]
        return []  # nothing is there yet
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{REQUEST} cannot be read ({error!r})"]
    different = [f"there {arg}" for arg in there if arg not in wanted]
    different += [f"asked for {arg}" for arg in wanted if arg not in there]
    if not different and there != wanted:
        different = [f"there {' '.join(there)}", f"asked for {' '.join(wanted)}"]
    return different + ([] if same_data else ["another data set"])


def outcome(folder: Path) -> Outcome | None:
    """What the training came to; None if it is not finished.

    Raises:
      AblationError: for a report that cannot be read.
    """
    path, how = folder / _REPORT, folder / HOW
    try:
        words = how.read_text(encoding="utf-8").strip() if how.exists() else ""
        return _outcome(json.loads(path.read_text(encoding="utf-8")), words)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AblationError(
            f"{path} cannot be read ({error!r}); remove its folder to train it anew"
        ) from error


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


def epochs_done(folder: Path) -> int:
    """How many epochs the log speaks of as done."""
    log = folder / LOG
    if not log.is_file():
        return 0
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        found = _EPOCH.findall(file.read())
    if not found:
        return 0
    epoch, _, kind = found[-1]
    return int(epoch) - (kind == b"batch")


def last_line(folder: Path) -> str:
    """The last line of the log that says something."""
    return progress.last_line(folder / LOG)
