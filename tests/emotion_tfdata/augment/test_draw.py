from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from emotion_tfdata.augment import Augment
from emotion_tfdata.augment.draw import draw

_N = 20_000


def _draw(augment, copy=1, epoch=0, seed=0):
    examples = tf.range(_N, dtype=tf.int64)
    draws = draw(augment, seed, epoch, examples, tf.fill([_N], tf.constant(copy, tf.int64)))
    return [values.numpy() for values in draws]


def test_shares_of_warp_noise_and_both_are_as_stated():
    stretch, level, *_ = _draw(Augment())
    warped, noisy = stretch != 1, level != 0
    for share, expected in (
        ((warped & ~noisy).mean(), 0.8 * 0.4),
        ((~warped & noisy).mean(), 0.8 * 0.3),
        ((warped & noisy).mean(), 0.8 * 0.3),
        ((~warped & ~noisy).mean(), 0.2),
    ):
        assert share == pytest.approx(expected, abs=0.012)  # 3.5 standard errors


def test_stretch_and_level_are_uniform_in_their_ranges():
    stretch, level, *_ = _draw(Augment(stretch=(0.8, 1.3), noise_level=(0.01, 0.05)))
    assert stats.kstest(stretch[stretch != 1], stats.uniform(0.8, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(level[level != 0], stats.uniform(0.01, 0.04).cdf).pvalue > 1e-3


def test_originals_and_no_augmentation_leave_clips_alone():
    every = {"mel_warp": (0.8, 1.2), "frequency_masks": 2, "time_masks": 3}
    none = Augment(probability=0, **every)
    for augment, copy in ((Augment(**every), 0), (None, 0), (None, 1), (none, 1)):
        stretch, level, _, mel_warp, *masks = _draw(augment, copy)
        assert (stretch == 1).all()
        assert (level == 0).all()
        assert (mel_warp == 1).all()
        assert not any(mask.any() for mask in masks)


def test_every_altered_copy_has_its_factor_of_the_mel_axis_and_its_masks():
    augment = Augment(mel_warp=(0.8, 1.3), frequency_masks=2, time_masks=3)
    stretch, level, _, mel_warp, bands, frames, _ = _draw(augment)
    altered = (stretch != 1) | (level != 0)
    np.testing.assert_array_equal(mel_warp != 1, altered)
    assert stats.kstest(mel_warp[altered], stats.uniform(0.8, 0.5).cdf).pvalue > 1e-3
    drawn = [mel_warp[altered], stretch[altered]]
    for masks, count in ((bands, 2), (frames, 3)):
        assert masks.shape == (_N, count, 2)
        assert not masks[~altered].any()
        columns = masks[altered].reshape(-1, 2 * count).T
        for column in columns:
            assert stats.kstest(column, "uniform").pvalue > 1e-3
        drawn.extend(columns)
    unrelated = np.corrcoef(drawn) - np.eye(len(drawn))
    assert np.abs(unrelated).max() < 0.035  # 4.4 standard errors, of 66 pairs


def test_what_is_drawn_without_the_options_has_not_changed_since_there_were_none():
    stretch, level, key, *_ = _draw(Augment(), epoch=5, seed=3)
    digest = hashlib.sha256(stretch.tobytes() + level.tobytes() + key.tobytes()).hexdigest()
    assert digest == "930761bee5dc2259c697a318b27b3925d47ab994eb73ba162add9ccc3afb4558"
    everything = Augment(mel_warp=(0.9, 1.1), frequency_masks=2, time_masks=2)
    for one, other in zip(
        _draw(everything, epoch=5, seed=3)[:3], (stretch, level, key), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_other_epochs_copies_and_seeds_draw_other_things():
    base = _draw(Augment())[0]
    for other in (_draw(Augment(), epoch=1), _draw(Augment(), copy=2), _draw(Augment(), seed=1)):
        both = (base != 1) & (other[0] != 1)
        assert abs(np.corrcoef(base[both], other[0][both])[0, 1]) < 0.05


def test_an_entry_depends_on_its_own_key_alone():
    examples = tf.constant([7, 99, 12345], tf.int64)
    copies = tf.constant([1, 2, 1], tf.int64)
    augment = Augment(mel_warp=(0.9, 1.1), frequency_masks=1, time_masks=2)
    together = draw(augment, 3, 4, examples, copies)
    for i in range(3):
        alone = draw(augment, 3, 4, examples[i : i + 1], copies[i : i + 1])
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], other[i])


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"factor": 0.5}, r"factor must be in \[1, 100\], got 0\.5"),
        ({"probability": 1.5}, r"probability must be in \[0, 1\], got 1\.5"),
        ({"warp_share": 0.8}, r"noise_share must be at most 1 - warp_share = 0\.2, got 0\.3"),
        ({"stretch": (1.1, 0.9)}, r"stretch must be a range \(low, high\), got \(1\.1, 0\.9\)"),
        ({"stretch": 1.1}, r"stretch must be 2 numbers in \[0\.5, 2\], got 1\.1"),
        ({"noise_level": (0.1,)}, r"noise_level must be 2 numbers in .*, got \(0\.1,\)"),
        ({"noise_level": (-1, 0)}, r"noise_level must be 2 numbers in \[0, 1e30\)"),
        ({"noise_correlation": 2}, r"noise_correlation must be in \[0, 1\], got 2"),
        ({"noise_slow_hz": 0}, r"noise_slow_hz must be in \(0, 15\], got 0"),
        ({"mel_warp": (1.1, 0.9)}, r"mel_warp must be a range \(low, high\), got"),
        ({"frequency_masks": -1}, r"frequency_masks must be a whole number in \[0, 20\], got -1"),
        ({"frequency_mask_bands": 0}, r"frequency_mask_bands must be a whole number in \[1, "),
        ({"time_masks": 1.5}, r"time_masks must be a whole number in \[0, 20\], got 1\.5"),
        ({"time_mask_s": 0}, r"time_mask_s must be in \(0, 60\], got 0"),
        ({"time_mask_share": 1}, r"time_mask_share must be in \(0, 1\), got 1"),
        ({"modality_dropout": 2}, r"modality_dropout must be in \[0, 1\], got 2"),
    ],
)
def test_values_out_of_range_are_refused_with_what_is_allowed(field, message):
    with pytest.raises(ValueError, match=message):
        Augment(**field)


def test_factor_says_how_many_clips_are_copied():
    assert [Augment(factor=2.0).num_copied(1, 10), Augment(factor=1.5).num_copied(1, 10)] == [10, 5]
    assert [Augment(factor=3.3).num_copied(c, 10) for c in (1, 2, 3)] == [10, 10, 3]
    assert Augment(factor=1.0).copies == 0
