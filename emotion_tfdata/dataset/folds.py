"""Deals actors, and clips at random, to folds; `protocols` says which are held out.

`actor` is the honest protocol: no voice and no face is on both sides. `random` deals clips, so that
every actor is on both sides; published figures often use it, and it flatters them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence


def actor_folds(actors: Iterable[tuple[str, str]], num_folds: int) -> dict[tuple[str, str], int]:
    """Deal each corpus's actors to folds of consecutive actors, as evenly as their number allows.

    Args:
      actors: (corpus, actor) pairs; repeats do not matter.
      num_folds: at least 2.

    Returns:
      The fold of each (corpus, actor). With fewer actors than folds the last folds stay empty.

    Raises:
      ValueError: for fewer than two folds.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, got {num_folds}")
    by_corpus: dict[str, set[str]] = defaultdict(set)
    for corpus, actor in actors:
        by_corpus[corpus].add(actor)
    folds = {}
    for corpus, names in by_corpus.items():
        size = max(len(names), num_folds)
        for rank, actor in enumerate(sorted(names)):
            folds[corpus, actor] = rank * num_folds // size
    return folds


def random_folds(
    example_ids: Sequence[str], emotions: Sequence[str], num_folds: int
) -> dict[str, int]:
    """Deal clips to folds at random within each emotion, whoever acts in them.

    The order is that of a hash of the ids: the same on every machine, and unmoved by the order in
    which files were found.

    Args:
      example_ids: `[N]`, each once.
      emotions: `[N]`, what the deal is stratified by.
      num_folds: at least 2; with 5, one fold held out is the usual 80/20 split.

    Returns:
      The fold of each example id.

    Raises:
      ValueError: for fewer than two folds or an id that stands twice.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, got {num_folds}")
    if len(set(example_ids)) != len(example_ids):
        raise ValueError("example_ids holds an id twice")
    by_emotion: dict[str, list[str]] = defaultdict(list)
    for example_id, emotion in zip(example_ids, emotions, strict=True):
        by_emotion[emotion].append(example_id)
    folds = {}
    position = 0  # carried on from emotion to emotion, so that the folds' sizes differ by one
    for emotion in sorted(by_emotion):
        for example_id in sorted(by_emotion[emotion], key=_digest):
            folds[example_id] = position % num_folds
            position += 1
    return folds


def _digest(example_id: str) -> bytes:
    return hashlib.sha256(f"random fold {example_id}".encode()).digest()
