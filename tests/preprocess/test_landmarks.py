"""Faces in drawn pictures, and the face's own frame."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.clip import landmarks as lm


def face(seed=0):
    """A made-up mesh: random points about two eyes, `[478, 3]` in picture widths."""
    rng = np.random.default_rng(seed)
    points = rng.normal(0.5, 0.1, (lm.NUM_LANDMARKS, 3))
    points[list(lm.RIGHT_EYE)] = [[0.40, 0.31, 0.01], [0.46, 0.30, 0.0]]
    points[list(lm.LEFT_EYE)] = [[0.60, 0.32, 0.0], [0.54, 0.31, -0.01]]
    return points


def turned(points, angle, about=(0.3, 0.4)):
    cos, sin = np.cos(angle), np.sin(angle)
    result = points.copy()
    x, y = points[..., 0] - about[0], points[..., 1] - about[1]
    result[..., 0] = about[0] + cos * x - sin * y
    result[..., 1] = about[1] + sin * x + cos * y
    return result


@given(
    seed=st.integers(0, 1000),
    angle=st.floats(-3, 3),
    scale=st.floats(0.2, 3),
    shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)),
)
@settings(max_examples=50, deadline=None)
def test_the_face_frame_takes_away_place_size_and_roll_and_nothing_else(seed, angle, scale, shift):
    points = face(seed)
    moved = turned(points, angle) * scale + np.array(shift)
    landmarks, _ = lm.to_face_frame(points[None])
    moved_landmarks, _ = lm.to_face_frame(moved[None])
    np.testing.assert_allclose(moved_landmarks, landmarks, atol=1e-4)


@given(seed=st.integers(0, 1000), angle=st.floats(-3, 3), scale=st.floats(0.2, 3))
@settings(max_examples=50, deadline=None)
def test_the_face_frame_can_be_undone(seed, angle, scale):
    points = turned(face(seed), angle)[None] * scale
    landmarks, head = lm.to_face_frame(points)
    x, y, distance, roll = head.T
    along, across = landmarks[..., 0], landmarks[..., 1]
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    turned_back = [cos * along - sin * across, sin * along + cos * across, landmarks[..., 2]]
    back = np.stack(turned_back, axis=2) * distance[:, None, None]
    back[..., :2] += np.stack([x, y], axis=1)[:, None]
    np.testing.assert_allclose(back[..., :2], points[..., :2], atol=1e-5)
    eyes_z = points[:, [*lm.RIGHT_EYE, *lm.LEFT_EYE], 2].mean()
    np.testing.assert_allclose(back[..., 2] + eyes_z, points[..., 2], atol=1e-5)


def test_the_eyes_are_one_apart_level_and_centred():
    landmarks, head = lm.to_face_frame(face()[None])
    right = landmarks[0, list(lm.RIGHT_EYE)].mean(axis=0)
    left = landmarks[0, list(lm.LEFT_EYE)].mean(axis=0)
    np.testing.assert_allclose((left + right) / 2, 0, atol=1e-6)
    assert np.linalg.norm(left - right) == pytest.approx(1, abs=1e-6)
    assert left[1] == pytest.approx(right[1], abs=1e-6)
    np.testing.assert_allclose(head[0, :2], [0.5, 0.31], atol=1e-6)
    assert head[0, 2] == pytest.approx(np.linalg.norm([0.14, 0.01, -0.01]), abs=1e-6)
    assert head[0, 3] == pytest.approx(np.arctan2(0.01, 0.14), abs=1e-6)


def test_mouth_opening_is_the_distance_of_the_inner_lips():
    points = face()
    points[13], points[14] = [0.5, 0.6, 0.0], [0.53, 0.64, 0.0]
    assert lm.mouth_opening(points) == pytest.approx(0.05)


@pytest.fixture(scope="module")
def pictures(drawn):
    return list(drawn.pictures(25, width=320, height=240))


def test_a_drawn_face_is_found_in_every_picture_with_its_height_in_widths(pictures):
    tall = np.pad(pictures[0], ((0, 120), (0, 0), (0, 0)), constant_values=238)
    track = lm.track_face((i / 25, picture) for i, picture in enumerate(pictures))
    assert track.found.all()
    assert track.points.shape == (len(pictures), lm.NUM_LANDMARKS, 3)
    # More picture below the face does not move it: y is not in heights of the picture.
    below = lm.track_face([(0.0, tall)])
    assert np.abs(below.points[0] - track.points[0])[:, :2].max() < 0.02
    assert np.abs(track.points[0, :, :2].mean(axis=0) - [0.5, 0.375]).max() < 0.15


def test_points_are_those_that_mediapipe_s_message_has_one_by_one(pictures):
    with contextlib.closing(lm.FaceTracker()) as tracker:
        (found,) = tracker._mesh.process(pictures[0]).multi_face_landmarks
    one_by_one = [(point.x, point.y, point.z) for point in found.landmark]
    np.testing.assert_array_equal(lm.points_of(found), np.array(one_by_one, np.float32))


def test_each_clip_has_a_tracker_of_its_own(pictures):
    timed = [(i / 25, picture) for i, picture in enumerate(pictures[:6])]
    first = lm.track_face(timed)
    lm.track_face((time_s, picture[:, ::-1].copy()) for time_s, picture in timed)
    np.testing.assert_array_equal(lm.track_face(timed).points, first.points)


def test_nothing_is_found_where_no_face_is(blank_pictures, pictures):
    clip = [blank_pictures[0][:240, :320], pictures[0], blank_pictures[0]]
    track = lm.track_face((i / 25, picture) for i, picture in enumerate(clip))
    assert track.found.tolist() == [False, True, False]
    assert not track.points[~track.found].any()
    for empty in ([], [(0.0, blank_pictures[0])]):
        track = lm.track_face(empty)
        assert track.points.shape == (len(empty), lm.NUM_LANDMARKS, 3)
        assert not track.found.any()


def test_a_mesh_that_no_face_can_have_is_not_taken_for_one():
    far = face()
    far[0] = [0.5, 1.2, 0]
    flat = face() * [1, 1, 0.1]
    one_point = np.full((lm.NUM_LANDMARKS, 3), 0.5)
    unknown, endless = face(), face()
    unknown[7], endless[7] = np.nan, np.inf
    faces = lm.are_faces(np.stack([flat, far, one_point, unknown, endless, flat]))
    assert faces.tolist() == [True, False, False, False, False, True]
    assert lm.are_faces(np.zeros((0, lm.NUM_LANDMARKS, 3))).shape == (0,)
