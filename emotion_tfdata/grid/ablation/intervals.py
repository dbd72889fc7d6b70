"""Mean and 95 % interval of a figure that was measured by seeds and folds.

Trainings that hold out one fold are tested on the same clips, whatever their seed, so seeds times
folds are not that many independent values. Seeds are averaged within a fold first, and the interval
is Student's t over the folds, as it is in train.py's own report over folds.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

from emotion_tfdata.training import metrics

FOLDS, SEEDS = "folds", "seeds"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and how far it can be trusted.

    Attributes:
      mean: over folds, of each fold's mean over its seeds.
      half_width: the 95 % interval is `mean +- half_width`; None for fewer than two units.
      units: what the interval is over: `folds`, or `seeds` where only one fold was held out.
      count: how many of them.
      trainings: how many values there were.
    """

    mean: float
    half_width: float | None
    units: str
    count: int
    trainings: int


def estimate(values: Mapping[tuple[int, int], float], by_fold: bool) -> Estimate | None:
    """Estimate mean and interval from values by (seed, fold).

    Folds share training clips, so their values are not quite independent either and the interval is
    somewhat too narrow (Bengio and Grandvalet 2004: no unbiased estimate of it exists).

    Args:
      values: what was measured; None is returned if nothing was.
      by_fold: whether several folds are to be held out. If not, the interval is over seeds; it says
        how far one training's luck goes, and nothing about other clips.

    Raises:
      ValueError: for several folds with `by_fold` false.
    """
    if not values:
        return None
    folds = sorted({fold for _, fold in values})
    if by_fold:
        units = [statistics.fmean(v for (_, f), v in values.items() if f == fold) for fold in folds]
    elif len(folds) > 1:
        raise ValueError(f"folds {folds} in an interval over seeds")
    else:
        units = list(values.values())
    over, by = metrics.mean_interval(units), FOLDS if by_fold else SEEDS
    half_width = over.half_width if over.count > 1 else None
    return Estimate(over.mean, half_width, by, over.count, len(values))
