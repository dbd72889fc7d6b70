"""One clock: what each row's time is, where rows are valid, and the lag between the modalities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emotion_tfdata.dataset.timebase import frame_times_s, num_frames
from preprocess.clip import align
from preprocess.clip.align import Span
from preprocess.clip.landmarks import Track


def track(times_s, found=None):
    """Three landmarks that move smoothly with time; zero where no face is."""
    times_s = np.asarray(times_s, np.float64)
    found = np.ones(len(times_s), bool) if found is None else np.asarray(found, bool)
    points = np.stack([moving(times_s + i) for i in range(3)], axis=1)
    points[~found] = 0
    return Track(times_s, points.astype(np.float32), found)


def moving(times_s):
    return np.stack([np.sin(3 * times_s), np.cos(2 * times_s), times_s], axis=-1)


@pytest.mark.parametrize(
    ("sound", "picture", "expected"),
    [
        ((0.0, 2.0), None, (0.0, 2.0)),
        (None, (0.5, 2.5), (0.5, 2.5)),
        ((0.0, 2.0), (0.027, 1.95), (0.0, 1.95)),  # as in CREMA-D's files
        ((0.0, 2.0), (0.4, 1.95), (0.0, 1.95)),  # a late picture
        ((0.4, 2.0), (0.0, 1.95), (0.0, 1.95)),  # late sound
        ((0.03, 2.0), (0.0, 1.95), (0.03, 1.95)),  # sound behind its encoder's delay
        ((0.0, 2.0), (0.0, 3.0), (0.0, 3.0)),  # sound that ends early
        ((0.0, 3.0), (0.0, 2.0), (0.0, 3.0)),  # a picture that ends early
        ((5.0, 7.0), (5.0, 7.0), (5.0, 7.0)),  # a container that does not begin at zero
    ],
)
def test_the_span_is_what_both_streams_cover_but_for_what_one_has_alone(sound, picture, expected):
    span = align.clip_span(sound, picture)
    assert (span.start_s, span.end_s) == expected


def test_a_clip_of_nothing_has_no_span():
    with pytest.raises(ValueError, match="a clip needs sound or picture"):
        align.clip_span(None, None)


def test_the_last_picture_is_shown_as_long_as_the_usual_one():
    assert align.picture_span(np.array([0.1, 0.14, 0.18, 0.26])) == pytest.approx((0.1, 0.3))
    assert align.picture_span(np.array([0.1])) == pytest.approx((0.1, 0.1 + 1 / 30))


@pytest.mark.parametrize("start_s", [-0.25, 0.0, 0.25, 1.5])
def test_sound_is_put_at_its_time(start_s):
    samples = np.arange(1, 16001, dtype=np.float32)
    aligned = align.align_sound(samples, 5.0 + start_s, Span(5.0, 6.2))
    assert len(aligned) == 19200
    for index in range(0, 19200, 997):
        sent = index - round(start_s * 16000)
        assert aligned[index] == (samples[sent] if 0 <= sent < 16000 else 0)


@given(
    rate_hz=st.sampled_from([12.0, 15.0, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60.0]),
    start_s=st.floats(-0.04, 0.5),
    duration_s=st.floats(0.3, 3),
    zero_s=st.floats(-2, 2),
)
@settings(max_examples=60, deadline=None)
def test_rows_lie_on_the_line_between_pictures(rate_hz, start_s, duration_s, zero_s):
    times_s = zero_s + start_s + np.arange(round(duration_s * rate_hz)) / rate_hz
    assume(len(times_s) > 1)
    given_track = track(times_s)
    points, valid = align.align_track(given_track, Span(zero_s, times_s[-1] + 1 / rate_hz))
    rows_s = zero_s + frame_times_s(len(points), 30)
    for landmark in range(3):
        for axis in range(3):
            column = given_track.points[:, landmark, axis]
            expected = np.interp(rows_s, times_s, column)
            np.testing.assert_allclose(points[valid, landmark, axis], expected[valid], atol=1e-5)
    inside = (rows_s >= times_s[0]) & (rows_s <= times_s[-1])
    assert valid[inside].all()
    early, late = times_s[0] - rows_s, rows_s - times_s[-1]
    assert not valid[(early > 0.0501) | (late > 0.0501)].any()
    assert valid[(early < 0.0499) & (late < 0.0499)].all()


@given(
    sound=st.tuples(st.floats(-0.5, 0.5), st.floats(0.3, 4)),
    picture=st.tuples(st.floats(-0.5, 0.5), st.integers(5, 90)),
)
@settings(max_examples=60, deadline=None)
def test_both_modalities_cover_the_same_interval(sound, picture):
    times_s = picture[0] + np.arange(picture[1]) / 25
    span = align.clip_span((sound[0], sum(sound)), align.picture_span(times_s))
    assume(span.duration_s > 0.2)
    points, _ = align.align_track(track(times_s), span)
    samples = align.align_sound(np.ones(round(sound[1] * 16000), np.float32), sound[0], span)
    assert len(points) == num_frames(span.duration_s, 30)
    assert len(samples) // 160 + 1 == num_frames(span.duration_s, 100)


def test_a_row_is_valid_where_its_nearest_picture_has_a_face():
    found = [True, True, False, False, True, True]
    points, valid = align.align_track(track(np.arange(6) / 25, found), Span(0, 0.2))
    # Rows at 0, 33, 67, 100, 133, 167, 200 ms; pictures at 0, 40, 80, 120, 160, 200 ms.
    assert valid.tolist() == [True, True, False, False, False, True, True]
    assert not points[~valid].any()
    points, valid = align.align_track(track(np.arange(4) / 15, [1, 0, 1, 1]), Span(0, 0.2))
    assert valid.tolist() == [True, False, False, True, True, True, True]


def test_one_face_is_held_for_half_the_way_to_a_picture_without_one():
    times_s = np.arange(3) * 0.05
    given_track = track(times_s, [True, False, True])
    points, valid = align.align_track(given_track, Span(-0.01, 0.1))
    # Rows at -10, 23, 57, 90 ms.
    assert valid.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(points[0], given_track.points[0])
    np.testing.assert_array_equal(points[1], given_track.points[0])
    np.testing.assert_array_equal(points[3], given_track.points[2])


def test_nothing_is_known_between_pictures_far_apart():
    _, valid = align.align_track(track([0.0, 0.04, 0.54, 0.58]), Span(0, 0.6))
    rows_s = frame_times_s(len(valid), 30)
    missing = (rows_s > 0.0901) & (rows_s < 0.4899)
    np.testing.assert_array_equal(valid, ~missing)


def speaking(lag_s, duration_s=2.0, seed=0):
    """Sound in smooth bumps, and lips that part in proportion, `lag_s` later."""
    rng = np.random.default_rng(seed)
    centres_s = np.arange(0.3, duration_s - 0.2, 0.23)
    centres_s += rng.uniform(-0.05, 0.05, len(centres_s))
    heights = rng.uniform(0.3, 1, len(centres_s))

    def loudness(times_s):
        distance = (np.asarray(times_s)[:, None] - centres_s) / 0.06
        return (heights * np.exp(-(distance**2))).sum(axis=1)

    audio_s = frame_times_s(num_frames(duration_s, 100), 100)
    rows_s = frame_times_s(num_frames(duration_s, 30), 30)
    audio_db = 20 * np.log10(loudness(audio_s)[:, None] + 1e-3) + np.array([0, -10, -20])
    landmarks = np.zeros((len(rows_s), 478, 3))
    landmarks[:, 14, 1] = 0.1 + 0.4 * loudness(rows_s - lag_s)
    return audio_db, landmarks, np.ones(len(rows_s), bool)


@given(lag_s=st.floats(-0.15, 0.15), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_the_lag_is_found_far_below_a_frame(lag_s, seed):
    assert align.mouth_lag_s(*speaking(lag_s, seed=seed)) == pytest.approx(lag_s, abs=0.001)


def test_rows_without_a_face_do_not_move_the_lag():
    audio_db, landmarks, valid = speaking(0.04)
    valid[10:14] = valid[40:] = False
    landmarks[~valid] = 7.0
    assert align.mouth_lag_s(audio_db, landmarks, valid) == pytest.approx(0.04, abs=0.002)


def test_there_is_no_lag_where_there_is_nothing_to_go_by():
    audio_db, landmarks, valid = speaking(0.0)
    still = np.zeros_like(landmarks)
    assert align.mouth_lag_s(audio_db, still, valid) is None
    assert align.mouth_lag_s(np.full_like(audio_db, -100), landmarks, valid) is None
    assert align.mouth_lag_s(audio_db, landmarks, np.zeros_like(valid)) is None
    assert align.mouth_lag_s(np.zeros((0, 3)), landmarks, valid) is None


@pytest.mark.parametrize("first_s", [0.0, 0.021, 1.4])
@pytest.mark.parametrize(("rate_hz", "is_hole"), [(9, True), (9.8, True), (10, False), (12, False)])
def test_only_pictures_further_than_a_tenth_of_a_second_apart_leave_a_hole(
    rate_hz, is_hole, first_s
):
    """Whatever the times' last binary digit, or a container's rounding to a millisecond, says."""
    for round_to in (12, 3):
        times_s = np.round(first_s + np.arange(40) / rate_hz, round_to)
        rows, valid = align.align_track(track(times_s), Span(first_s, times_s[-1]))
        assert not valid.all() if is_hole else valid.all()
        if not is_hole:
            at_s = first_s + frame_times_s(len(rows), 30)
            np.testing.assert_allclose(rows[:, 0, 2], at_s, atol=0.0011)


def test_a_tail_of_just_a_tenth_of_a_second_is_cut():
    for start_s in np.arange(0, 2, 0.1):
        sound, picture = (start_s, start_s + 1.1), (start_s, start_s + 1.0)
        assert align.clip_span(sound, picture).end_s == picture[1]
