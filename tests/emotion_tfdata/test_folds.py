from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_tfdata.dataset.folds import actor_folds, random_folds


@given(st.integers(5, 91), st.integers(2, 5))
def test_actor_folds_are_consecutive_and_even(num_actors, num_folds):
    actors = [("crema_d", str(1001 + i)) for i in range(num_actors)]
    folds = actor_folds(actors[::-1], num_folds)
    in_order = [folds[actor] for actor in actors]
    assert in_order == sorted(in_order)
    sizes = Counter(in_order)
    assert set(sizes) == set(range(num_folds))
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_each_corpus_is_dealt_over_all_folds():
    actors = [("ravdess", f"{i:02d}") for i in range(1, 25)]
    actors += [("crema_d", str(1000 + i)) for i in range(1, 92)]
    folds = actor_folds(actors, 5)
    assert {folds[a] for a in actors if a[0] == "ravdess"} == set(range(5))
    assert Counter(folds[a] for a in actors if a[0] == "crema_d")[0] in (18, 19)


def test_fewer_actors_than_folds_leave_the_last_ones_empty():
    assert actor_folds([("r", "1"), ("r", "2")], 5) == {("r", "1"): 0, ("r", "2"): 1}


def test_random_folds_are_stratified_and_know_no_order():
    ids = [f"crema_d/{i:04d}" for i in range(600)]
    emotions = [("happy", "sad", "angry")[i % 3] for i in range(600)]
    folds = random_folds(ids, emotions, 5)
    counts = Counter((emotions[i], folds[ids[i]]) for i in range(600))
    assert set(counts.values()) == {40}
    assert random_folds(ids[::-1], emotions[::-1], 5) == folds
    # Not a regular deal: neighbours do not follow each other round the folds.
    steps = Counter((folds[ids[i + 3]] - folds[ids[i]]) % 5 for i in range(597))
    assert max(steps.values()) < 200


def test_bad_numbers_of_folds_and_repeated_ids_are_refused():
    with pytest.raises(ValueError, match="num_folds must be at least 2, got 1"):
        actor_folds([("r", "1")], 1)
    with pytest.raises(ValueError, match="num_folds must be at least 2, got 0"):
        random_folds(["a"], ["sad"], 0)
    with pytest.raises(ValueError, match="holds an id twice"):
        random_folds(["a", "a"], ["sad", "sad"], 2)
