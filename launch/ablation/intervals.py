"""Mean and 95 % interval of a figure that was measured by seeds and folds.

Trainings that hold out one fold are tested on the same clips, whatever their seed, so seeds times
folds are not that many independent values. Seeds are averaged within a fold first, and the interval
is Student's t over the folds, as it is in train.py's own report over folds.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping

FOLDS, SEEDS = "folds", "seeds"
_CONFIDENCE = 0.95


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
    """Estimates from values by (seed, fold).

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
    count = len(units)
    half_width = None
    if count > 1:
        quantile = t_quantile((1 + _CONFIDENCE) / 2, count - 1)
        half_width = quantile * statistics.stdev(units) / math.sqrt(count)
    return Estimate(
        statistics.fmean(units), half_width, FOLDS if by_fold else SEEDS, count, len(values)
    )


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, for 0.5 < probability < 1.

    Of the angle atan(t / sqrt(degrees)) the density is proportional to cos^(degrees - 1)
    (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4); bisection finds the angle.

    Raises:
      ValueError: for other probabilities, and fewer than one degree of freedom.
    """
    if not 0.5 < probability < 1 or degrees < 1:
        raise ValueError(f"no quantile for probability {probability}, {degrees} degrees of freedom")
    wanted = (2 * probability - 1) * _cosines(math.pi / 2, degrees - 1)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _cosines(middle, degrees - 1) < wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _cosines(angle: float, power: int) -> float:
    """Integral of cos^power from 0 to an angle, by its reduction formula."""
    total = math.sin(angle) if power % 2 else angle
    for n in range(2 + power % 2, power + 1, 2):
        total = (math.cos(angle) ** (n - 1) * math.sin(angle) + (n - 1) * total) / n
    return total
