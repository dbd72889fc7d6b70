"""Whether a model's probabilities are as often right as they say, and what sets them right.

Numpy alone. Guo et al. 2017, "On calibration of modern neural networks": temperature scaling and
the expected calibration error; Brier 1950: his score, summed over the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUM_BINS = 15
_LEAST, _MOST = 0.05, 20.0  # of the temperature: beyond them, nothing is gained


def temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature that makes the labels likeliest, between 0.05 and 20.

    The loss is convex in the inverse of it (the multiplier of the logits), so that the root of its
    slope, found by bisection, is the minimum.

    Args:
      probabilities: `[N, C]`, softmax of the logits.
      labels: int `[N]`.

    Raises:
      ValueError: for no clips.
    """
    if not len(labels):
        raise ValueError("a temperature cannot be fitted to no clips")
    logits = _logits(probabilities)
    own = logits[np.arange(len(labels)), labels]
    low, high = 1 / _MOST, 1 / _LEAST
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        slope = ((_softmax(middle * logits) * logits).sum(axis=1) - own).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities at another temperature, float32 `[N, C]`."""
    return _softmax(_logits(probabilities) / temperature).astype(np.float32)


def figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measure how well calibrated probabilities are.

    Args:
      probabilities: `[N, C]`.
      labels: int `[N]`.

    Returns:
      `cross_entropy`, `brier` (mean squared distance from the truth, 0 to 2), `ece` (expected
      calibration error over `NUM_BINS` equal bins of the highest probability) and `bins`: for each
      `clips`, mean `confidence` and `accuracy` (NaN where it is empty).
    """
    rows = np.arange(len(labels))
    probabilities = np.asarray(probabilities, np.float64)
    truth = np.zeros_like(probabilities)
    truth[rows, labels] = 1
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # Bins are open below and closed above, as in the paper.
    which = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    clips = np.bincount(which, minlength=NUM_BINS)
    sums = [np.bincount(which, weights=v, minlength=NUM_BINS) for v in (confidence, right)]
    return {
        "cross_entropy": float(-np.log(np.maximum(probabilities[rows, labels], 1e-30)).mean()),
        "brier": float(np.square(probabilities - truth).sum(axis=1).mean()),
        "ece": float(np.abs(sums[0] - sums[1]).sum() / len(labels)),
        "bins": bins_of(clips, *sums),
    }


def pooled(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pool the `temperature` (its mean), `before` and `after` of several folds' clips."""
    temperatures = [part["temperature"] for part in parts]
    if None in temperatures:
        return {"temperature": None, "before": _pooled(parts, "before"), "after": None}
    return {
        "temperature": float(np.mean(temperatures)),
        "before": _pooled(parts, "before"),
        "after": _pooled(parts, "after"),
    }


def _pooled(parts: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    of = [part[name] for part in parts]
    clips = np.array([one["bins"]["clips"] for one in of])
    # Bins without clips say null.
    means = [
        np.array([one["bins"][what] for one in of], np.float64)
        for what in ("confidence", "accuracy")
    ]
    sums = [np.nansum(mean * clips, axis=0) for mean in means]
    weights = clips.sum(axis=1) / clips.sum()
    return {
        "cross_entropy": float(weights @ [one["cross_entropy"] for one in of]),
        "brier": float(weights @ [one["brier"] for one in of]),
        "ece": float(np.abs(sums[0] - sums[1]).sum() / clips.sum()),
        "bins": bins_of(clips.sum(axis=0), *sums),
    }


def bins_of(clips: np.ndarray, confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Make bins from their sums, as `figures` gives them."""
    filled = np.where(clips > 0, clips, np.nan)
    return {
        "clips": [int(n) for n in clips],
        "confidence": (confidence / filled).tolist(),
        "accuracy": (right / filled).tolist(),
    }


def _logits(probabilities: np.ndarray) -> np.ndarray:
    # Softmax takes no notice of what is added to all, so the logarithm is as good as the logits.
    logits: np.ndarray = np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-30))
    return logits


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result
