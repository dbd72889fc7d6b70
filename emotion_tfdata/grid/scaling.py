"""How many trainings at a time suit this machine, if it was measured.

`python -m tests.benchmarks.scaling` measures and writes the table that is read here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from emotion_tfdata.training import run_dir

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
TABLE = _CACHE / "emotion_tfdata" / "scaling.json"


def save(cores: int, rates: Mapping[int, float], path: Path = TABLE) -> None:
    """Store what was measured.

    Args:
      cores: of the machine, as `usable_cores` counts them.
      rates: trainings at a time -> steps/s of all together, the cores dealt evenly.
      path: of the table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    by_jobs = {str(jobs): rate for jobs, rate in sorted(rates.items())}
    run_dir.write_json(path, {"cores": cores, "steps_per_s_by_jobs": by_jobs})


def best_jobs(cores: int, most: int, path: Path = TABLE) -> int:
    """Return how many trainings at a time do the most steps, of those measured; 0 if unknown.

    Args:
      cores: of this machine; a table of another size is not of it.
      most: trainings at a time that there is room for.
      path: of the table.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        rates = {int(jobs): float(rate) for jobs, rate in table["steps_per_s_by_jobs"].items()}
        if table["cores"] != cores:
            return 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0  # not measured, or damaged: the rule of thumb then
    return max((jobs for jobs in rates if jobs <= most), key=lambda j: rates[j], default=0)
