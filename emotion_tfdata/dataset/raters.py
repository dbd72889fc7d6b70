"""Who acts in the corpora, and what other people saw and heard in them.

CREMA-D alone had every clip rated: about ten votes each for its voice, its face and both, by 2,443
raters (Cao et al. 2014). Votes and the actors' age and sex are in `official/crema_d_people.npz`,
under the corpus's own terms, ODbL 1.0 (database) and DbCL 1.0 (contents). No TensorFlow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emotion_tfdata.labels import EMOTIONS, Classes, class_names

# What a clip's label may be: what the actor was to show, what most raters took it for, or how many
# took it for what.
LABELS = ("intended", "perceived", "votes")
SHOWN = ("voice", "face", "both")
# What raters were shown, where a model is given these modalities.
SHOWN_FOR = {"audio": "voice", "landmarks": "face", "both": "both"}
RATED = "crema_d"
_AGE_GROUPS = ((20, 29), (30, 39), (40, 49), (50, 59), (60, 99))
_FILE = Path(__file__).parents[1] / "official" / "crema_d_people.npz"


@functools.cache
def _official() -> dict[str, np.ndarray]:
    with np.load(_FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@functools.cache
def _places() -> tuple[dict[str, int], dict[str, int]]:
    official = _official()
    actors, takes = ({str(n): i for i, n in enumerate(official[k])} for k in ("actors", "takes"))
    return actors, takes


def votes(example_ids: Sequence[str], shown: str, classes: Classes = 6) -> np.ndarray:
    """Count the raters who chose each class.

    Args:
      example_ids: `[N]`, like `crema_d/1001_DFA_ANG_XX`; others have no votes.
      shown: what the raters were given: `voice`, `face` or `both`.
      classes: 6, 8 or names; nobody could choose any but the first six of `EMOTIONS`.

    Returns:
      uint8 `[N, C]`, all zero where there are no votes.

    Raises:
      ValueError: for anything else shown, or other classes than there can be.
    """
    if shown not in SHOWN:
        raise ValueError(f"shown must be one of {', '.join(SHOWN)}, got {shown!r}")
    names = class_names(classes)
    counts = np.zeros((len(example_ids), len(names)), np.uint8)
    of = _official()["votes"][:, :, SHOWN.index(shown)]
    chosen = [(names.index(n), i) for i, n in enumerate(EMOTIONS[: of.shape[-1]]) if n in names]
    to, source = map(list, zip(*chosen, strict=True)) if chosen else ([], [])
    actors, takes = _places()
    for row, example_id in enumerate(example_ids):
        corpus, _, clip = example_id.partition("/")
        actor, _, take = clip.partition("_")
        if corpus == RATED and actor in actors and take in takes:
            counts[row, to] = of[actors[actor], takes[take], source]
    return counts


def majority(counts: np.ndarray) -> np.ndarray:
    """Return the class with most votes, int64 `[N]` of `counts` `[N, C]`; -1 for a tie or none."""
    best = counts.argmax(axis=-1)
    most = counts.max(axis=-1, keepdims=True)
    return np.where(((counts == most).sum(axis=-1) == 1) & (most[..., 0] > 0), best, -1)


def shares(counts: np.ndarray) -> np.ndarray:
    """Return votes as a distribution, float32 `[N, C]` of `counts` `[N, C]`; zero without votes."""
    totals = counts.sum(axis=-1, keepdims=True, dtype=np.float32)
    return (counts / np.maximum(totals, 1)).astype(np.float32)


def targets(
    labels: str,
    example_ids: Sequence[str],
    intended: np.ndarray,
    modalities: str,
    classes: Classes = 6,
) -> np.ndarray:
    """Return what a model is to say of clips: votes, or the intended label where there are none.

    Args:
      labels: one of `LABELS`.
      example_ids: `[N]`.
      intended: int32 `[N]`.
      modalities: `audio`, `landmarks` or `both`, which the model is given: raters count who were
        given the same.
      classes: 6, 8 or names.

    Returns:
      int32 `[N]`, -1 where raters are tied; with `votes` float32 `[N, C]`, shares.
    """
    if labels == "intended":
        return intended
    counts = votes(example_ids, SHOWN_FOR[modalities], classes)
    rated = counts.any(axis=1)
    if labels == "perceived":
        return np.where(rated, majority(counts), intended).astype(np.int32)
    own = np.eye(counts.shape[1], dtype=np.float32)[intended]
    return np.where(rated[:, None], shares(counts), own)


def sex(corpus: str, actor: str) -> str | None:
    """Return an actor's sex, `male` or `female`; None where it is not known."""
    if corpus == "ravdess" and actor.isdigit():
        return "male" if int(actor) % 2 else "female"
    actors, _ = _places()
    known = corpus == RATED and actor in actors
    return str(_official()["sexes"][actors[actor]]) if known else None


def age_group(corpus: str, actor: str) -> str | None:
    """Return an actor's age in whole decades: `20-29`, ..., `60+`; None where it is not known."""
    actors, _ = _places()
    if corpus != RATED or actor not in actors:
        return None
    age = int(_official()["ages"][actors[actor]])
    first, last = next(group for group in _AGE_GROUPS if group[0] <= age <= group[1])
    return f"{first}+" if (first, last) == _AGE_GROUPS[-1] else f"{first}-{last}"
