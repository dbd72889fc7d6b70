from __future__ import annotations

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from emotion_tfdata.augment.mask import hidden_bands, hidden_frames

_SHARES = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=4
)


def _covered(shares, widest, room):
    """Which of `room` places SpecAugment's masks cover, one mask and one place at a time."""
    hidden = np.zeros(room, bool)
    for width_share, place_share in shares:
        width = min(int(np.float32(width_share) * np.float32(widest + 1)), widest)
        start = min(int(np.float32(place_share) * np.float32(room - width + 1)), room - width)
        for place in range(start, start + width):
            hidden[place] = True
    return hidden


def _bands(shares, bands, widest):
    return hidden_bands(tf.constant([shares], tf.float32), bands, widest).numpy()[0]


def _frames(shares, valid, widest_frames, share):
    masks = tf.constant([shares], tf.float32)
    return hidden_frames(masks, tf.constant([valid]), widest_frames, share).numpy()[0]


@settings(max_examples=60, deadline=None)
@given(_SHARES, st.integers(1, 12), st.integers(12, 80))
def test_bands_are_those_of_the_definition(shares, widest, bands):
    np.testing.assert_array_equal(_bands(shares, bands, widest), _covered(shares, widest, bands))


@settings(max_examples=60, deadline=None)
@given(
    _SHARES,
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(1, 30),
    st.floats(0.05, 0.95),
)
def test_frames_are_those_of_the_definition_among_the_valid_ones(shares, valid, widest, share):
    room = sum(valid)
    limit = int(min(widest, share * room / len(shares)) + 1e-3)
    expected = np.zeros(len(valid), bool)
    expected[np.flatnonzero(valid)] = _covered(shares, limit, room)
    hidden = _frames(shares, valid, float(widest), share)
    np.testing.assert_array_equal(hidden, expected)
    assert hidden.sum() <= share * room + 1e-2
    assert not hidden[~np.array(valid)].any()


def test_padding_changes_nothing():
    valid, shares = [True] * 40, [[0.9, 0.4], [0.7, 0.8]]
    short = _frames(shares, valid, 8.0, 0.5)
    long = _frames(shares, valid + [False] * 25, 8.0, 0.5)
    np.testing.assert_array_equal(long[:40], short)
    assert short.sum() > 8
    assert not long[40:].any()


def test_a_mask_without_width_and_a_clip_without_frames_hide_nothing():
    assert not _bands([[0, 0]] * 3, 80, 10).any()
    assert not _frames([[0, 0]] * 3, [True] * 50, 20.0, 0.5).any()
    assert not _frames([[1, 1]] * 3, [False] * 50, 20.0, 0.5).any()


def test_widths_are_uniform_from_0_and_places_uniform_where_they_fit():
    shares = np.random.default_rng(0).random((20_000, 1, 2)).astype(np.float32)
    hidden = hidden_bands(tf.constant(shares), 80, 10).numpy()
    widths = hidden.sum(axis=1)
    assert stats.chisquare(np.bincount(widths, minlength=11)).pvalue > 1e-3
    starts = hidden[widths == 10].argmax(axis=1)
    assert stats.chisquare(np.bincount(starts, minlength=71)).pvalue > 1e-3
