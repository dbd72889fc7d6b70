"""Figures of a classifier and how far they can be trusted. Numpy alone.

Every figure comes from the confusion matrix, so that a report's figures cannot contradict each
other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count clips by true class (rows) and predicted class (columns).

    Args:
      labels: int `[N]`, in `0..num_classes-1`.
      predictions: int `[N]`, the same.
      num_classes: number of classes.

    Returns:
      int64 `[num_classes, num_classes]`.

    Raises:
      ValueError: for arrays of different lengths or a class beyond `num_classes`.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} must be one row each, "
            "of the same length"
        )
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(
                f"{name} hold class {values.min()} to {values.max()}, there are {num_classes}"
            )
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(confusion: np.ndarray) -> float:
    """Return the share of clips given their own class; NaN without clips."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan


def recall_by_class(confusion: np.ndarray) -> np.ndarray:
    """Return each class's share of clips given that class, float64 `[C]`; NaN without clips."""
    clips = confusion.sum(axis=1)
    found = np.diag(confusion).astype(np.float64)
    return np.divide(found, clips, out=np.full(len(clips), math.nan), where=clips > 0)


def precision_by_class(confusion: np.ndarray) -> np.ndarray:
    """Return the share of clips given a class that are of it, float64 `[C]`; NaN without any."""
    return recall_by_class(confusion.T)


def unweighted_average_recall(confusion: np.ndarray) -> float:
    """Return the mean of the classes' recalls, each class counting the same (balanced accuracy).

    Classes without clips do not count in the mean; NaN without clips at all.
    """
    recalls = recall_by_class(confusion)
    present = recalls[~np.isnan(recalls)]
    return float(present.mean()) if present.size else math.nan


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over repeats (folds, seeds) and its confidence interval.

    Attributes:
      mean: of the values.
      half_width: the interval is `mean +- half_width`; NaN for fewer than two values.
      deviation: standard deviation of the values (n - 1); NaN for fewer than two.
      count: how many values.
      confidence: e.g. 0.95.
    """

    mean: float
    half_width: float
    deviation: float
    count: int
    confidence: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return mean and Student's t interval of a few independent values.

    Folds share training clips, so the values are not quite independent and the interval is
    somewhat too narrow (Bengio and Grandvalet 2004: no unbiased estimate of it exists).

    Raises:
      ValueError: for no values, or a confidence outside (0, 1).
    """
    array = np.asarray(values, np.float64)
    if not array.size:
        raise ValueError("an interval needs at least one value")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    count = array.size
    if count == 1:
        return Interval(float(array[0]), math.nan, math.nan, 1, confidence)
    deviation = float(array.std(ddof=1))
    quantile = t_quantile((1 + confidence) / 2, count - 1)
    return Interval(
        float(array.mean()), quantile * deviation / math.sqrt(count), deviation, count, confidence
    )


def t_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t distribution, for 0.5 <= probability < 1.

    Bisection on the closed form for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3
    and 26.7.4).
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"no quantile for probability {probability} and {degrees} degrees")
    low, high = 0.0, 1.0
    while _t_central(high, degrees) < 2 * probability - 1:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if _t_central(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_central(t: float, degrees: int) -> float:
    """Return the probability of `-t..t` under Student's t distribution."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    # Odd: cos + (2/3) cos^3 + (2*4)/(3*5) cos^5 ...; even: 1 + (1/2) cos^2 + (1*3)/(2*4) cos^4 ...
    for k in range(degrees // 2):
        total += term
        term *= math.cos(angle) ** 2 * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    return (2 / math.pi) * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
