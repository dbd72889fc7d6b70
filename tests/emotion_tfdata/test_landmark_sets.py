from __future__ import annotations

import pytest

from emotion_tfdata.dataset import landmark_sets
from emotion_tfdata.dataset.landmark_sets import landmark_indices


def test_expressive_holds_the_contours_that_facemesh_names():
    connections = pytest.importorskip(
        "mediapipe.python.solutions.face_mesh_connections", reason="needs mediapipe"
    )
    expressive = set(landmark_indices("expressive", (478, 3)))
    for name in ("LIPS", "LEFT_EYE", "RIGHT_EYE", "LEFT_EYEBROW", "RIGHT_EYEBROW", "IRISES"):
        contour = getattr(connections, f"FACEMESH_{name}")
        assert {point for pair in contour for point in pair} <= expressive, name
    assert len(expressive) < 130


def test_expressive_of_openface_is_all_but_the_jaw_line():
    assert landmark_indices("expressive", (68, 3)) == tuple(range(17, 68))


def test_all_and_indices():
    assert landmark_indices("all", (5, 3)) == (0, 1, 2, 3, 4)
    assert landmark_indices([3, 1], (5, 3)) == (3, 1)
    # What is no landmark has no expressive part: the trainer's default serves all.
    assert landmark_indices("expressive", (3,)) == landmark_indices("all", (3,)) == (0, 1, 2)
    assert tuple(sorted(set(landmark_sets.EXPRESSIVE))) == landmark_sets.EXPRESSIVE


@pytest.mark.parametrize(
    ("choice", "number", "message"),
    [
        ("lips", 478, "must be 'all', 'expressive' or a list of indices, got 'lips'"),
        ("expressive", 100, "this data set has 100; give indices"),
        ([1, 478], 478, "holds index 478, this data set has 0 to 477"),
        ([-1, 3], 478, "holds index -1, this data set has 0 to 477"),
        ([1, 1], 478, "at least one index, and each only once"),
        ([], 478, "at least one index, and each only once"),
    ],
)
def test_other_choices_are_refused_with_what_is_allowed(choice, number, message):
    with pytest.raises(ValueError, match=message):
        landmark_indices(choice, (number, 3))
