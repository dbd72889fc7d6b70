"""How a model stands to people: beside CREMA-D's raters on the same clips, and by who acts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emotion_tfdata.dataset import raters
from emotion_tfdata.training import metrics


def beside_raters(
    example_ids: Sequence[str],
    intended: np.ndarray,
    predicted: np.ndarray,
    modalities: str,
    class_names: Sequence[str],
) -> dict[str, Any] | None:
    """Compare what raters and a model made of the clips that raters saw too.

    Args:
      example_ids: `[N]`.
      intended: int `[N]`, the class that the actor was to show.
      predicted: int `[N]`, by the model.
      modalities: that the model was given: raters count who were given the same.
      class_names: in the order of their indices.

    Returns:
      Counts of clips and votes, which add up over folds, and their figures (`with_figures`); None
      where no clip has votes.
    """
    shown = raters.SHOWN_FOR[modalities]
    votes = raters.votes(example_ids, shown, class_names).astype(np.int64)
    rated = votes.sum(axis=1) > 0
    if not rated.any():
        return None
    votes, intended, predicted = votes[rated], intended[rated], predicted[rated]
    majority = raters.majority(votes)
    num_classes = len(class_names)
    as_votes = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(as_votes, intended, votes)
    # Ties have a column of their own, the last.
    as_majority = np.zeros((num_classes, num_classes + 1), np.int64)
    np.add.at(as_majority, (intended, majority), 1)
    return with_figures(
        {
            "shown": shown,
            "clips": int(rated.sum()),
            "ties": int((majority < 0).sum()),
            "model_agrees_with_majority": int((predicted == majority).sum()),
            "classes": list(class_names),
            "model": metrics.confusion_matrix(intended, predicted, num_classes).tolist(),
            "majority": as_majority.tolist(),
            "votes": as_votes.tolist(),
        }
    )


def with_figures(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Add recall by class and UAR, of the intended emotion, to the counts of `beside_raters`."""
    result = dict(counts)
    for name in ("model", "majority", "votes"):
        matrix = np.array(counts[name])
        square = matrix[:, : len(matrix)]
        clips = matrix.sum(axis=1)
        recall = np.where(clips > 0, np.diag(square) / np.maximum(clips, 1), np.nan)
        result[f"{name}_recall"] = recall.tolist()
        result[f"{name}_uar"] = float(np.nanmean(recall))
    result["agreement"] = counts["model_agrees_with_majority"] / max(
        counts["clips"] - counts["ties"], 1
    )
    return result


def pooled_raters(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Pool `beside_raters` of several folds."""
    there = [part for part in parts if part]
    if not there:
        return None
    total = dict(there[0])
    for name in ("clips", "ties", "model_agrees_with_majority"):
        total[name] = sum(part[name] for part in there)
    for name in ("model", "majority", "votes"):
        total[name] = np.sum([part[name] for part in there], axis=0).tolist()
    return with_figures(total)


def by_group(by_actor: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return UAR by sex and by age of the actors.

    Args:
      by_actor: `corpus/actor` -> figures, with `clips` and `uar`.

    Returns:
      `sex` and `age` -> group -> `actors`, `clips`, and the mean of its actors' UAR with the half
      width of its 95 % interval (Student's t, over actors; NaN for one). Actors of whom it is not
      known are in no group: of RAVDESS's, no age is published.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, group_of in (("sex", raters.sex), ("age", raters.age_group)):
        members: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for actor, figures in by_actor.items():
            corpus, _, who = actor.partition("/")
            group = group_of(corpus, who)
            if group is not None:
                members[group].append(figures)
        groups[name] = {}
        for group in sorted(members):
            over = metrics.mean_interval([figures["uar"] for figures in members[group]])
            groups[name][group] = {
                "actors": over.count,
                "clips": sum(figures["clips"] for figures in members[group]),
                "uar": over.mean,
                "half_width_95": over.half_width,
            }
    return groups
