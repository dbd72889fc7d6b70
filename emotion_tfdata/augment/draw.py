"""What is to be done to each clip, drawn once a clip for both modalities, in proportions."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf

from emotion_tfdata.augment import rng
from emotion_tfdata.augment.rng import Stream


@dataclasses.dataclass(frozen=True)
class Augment:
    """How a training set is enlarged.

    An epoch holds every clip as it is and `factor - 1` copies of it. A copy is altered with
    `probability`; one that is altered is warped, made noisy, or both. Where they are asked for,
    each altered copy also gets a warp of the mel axis and masks over bands and over time. These
    change its audio alone: a length of the vocal tract has no counterpart in the face, and what
    one modality lacks for a moment is what the other is there for.

    Attributes:
      factor: size of an epoch in clips of the set; 1 adds no copy, 1.5 a copy of half of the clips
        (other ones every epoch), 2 one copy of each.
      probability: that a copy is altered at all.
      warp_share: share of the altered copies that are only warped.
      noise_share: share that are only made noisy; the rest is both.
      stretch: range of the one stretch factor for both modalities: what happens at `t` comes to
        `t * stretch`.
      noise_level: range of the one noise level for both modalities, in standard deviations of each
        feature over the training folds.
      noise_correlation: correlation of the noise of any two features, of one or of both modalities,
        at one instant: the share of its variance that comes from one slow process on the clock that
        both share.
      noise_slow_hz: highest frequency of that slow process, in Hz.
      mel_warp: range of the factor of the mel axis, uniform, about 1: what stood at the frequency
        `f` comes to about `f / factor`. `(1, 1)` leaves it as it is. The formula and its source
        are those of `augment.mel`.
      frequency_masks: how many masks over bands an altered copy gets; 0 for none. Masks may
        overlap, and hide a feature by its mean over the training folds.
      frequency_mask_bands: widest of them, in bands; widths are uniform from 0.
      time_masks: how many masks over time an altered copy gets; 0 for none. They lie among the
        frames of audio that are not masked off, and these stay what they are for `audio_mask`.
      time_mask_s: widest of them, in seconds of the warped clip; widths are uniform from 0.
      time_mask_share: largest share of a clip's frames that its time masks hide together.
      modality_dropout: that a copy loses its voice or its face, either as often: its mask is then
        false throughout. What is trained on such copies serves clips of one modality too.
    """

    factor: float = 2.0
    probability: float = 0.8
    warp_share: float = 0.4
    noise_share: float = 0.3
    stretch: tuple[float, float] = (0.9, 1.1)
    noise_level: tuple[float, float] = (0.001, 0.01)
    noise_correlation: float = 0.5
    noise_slow_hz: float = 2.0
    mel_warp: tuple[float, float] = (1.0, 1.0)
    frequency_masks: int = 0
    frequency_mask_bands: int = 10
    time_masks: int = 0
    time_mask_s: float = 0.2
    time_mask_share: float = 0.3
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        def check(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"Augment: {name} must be {allowed}, got {getattr(self, name)!r}")

        for name in ("stretch", "noise_level", "mel_warp"):
            value = getattr(self, name)
            check(isinstance(value, tuple | list) and len(value) == 2, name, "a range (low, high)")
        check(1 <= self.factor <= 100, "factor", "in [1, 100]")
        shares = ("probability", "warp_share", "noise_share", "noise_correlation")
        for name in (*shares, "modality_dropout"):
            check(0 <= getattr(self, name) <= 1, name, "in [0, 1]")
        check(
            self.warp_share + self.noise_share <= 1 + 1e-9,
            "noise_share",
            f"at most 1 - warp_share = {1 - self.warp_share:g}",
        )
        low, high = self.stretch
        check(0.5 <= low <= high <= 2, "stretch", "a range (low, high) within [0.5, 2]")
        low, high = self.noise_level
        check(0 <= low <= high < math.inf, "noise_level", "a range (low, high) from 0 up")
        check(0 < self.noise_slow_hz <= 15, "noise_slow_hz", "in (0, 15]")
        low, high = self.mel_warp
        check(0.5 <= low <= high <= 2, "mel_warp", "a range (low, high) within [0.5, 2]")
        for name, least, most in (
            ("frequency_masks", 0, 20),
            ("frequency_mask_bands", 1, 1000),
            ("time_masks", 0, 20),
        ):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            check(whole and least <= value <= most, name, f"a whole number in [{least}, {most}]")
        check(0 < self.time_mask_s <= 60, "time_mask_s", "in (0, 60]")
        check(0 < self.time_mask_share < 1, "time_mask_share", "in (0, 1)")

    @property
    def warps_mel(self) -> bool:
        """Whether any copy's mel axis is warped."""
        return self.mel_warp != (1, 1)

    @property
    def copies(self) -> int:
        """How many copies of a clip there can be in an epoch."""
        return math.ceil(self.factor - 1)

    def num_copied(self, copy: int, num_examples: int) -> int:
        """How many clips have a copy number `copy` (from 1) in an epoch."""
        return round(min(max(self.factor - copy, 0.0), 1.0) * num_examples)


class Draws(NamedTuple):
    """What is to be done, one entry a clip.

    Attributes:
      stretch: float64 `[N]`, 1 where a clip is not warped.
      noise_level: float32 `[N]`, 0 where no noise is added.
      noise_key: uint32 `[N]`, what the noise itself is made from.
      mel_warp: float64 `[N]`, 1 where the mel axis is not warped.
      frequency_masks: float32 `[N, K, 2]`, width and place of each mask in `[0, 1]` of those that
        it can have, as `augment.mask` takes them; 0 for no mask.
      time_masks: float32 `[N, K, 2]`, likewise.
      lost: int32 `[N]`, the modality that a clip loses, a number of `LOST`; 0 for none.
    """

    stretch: tf.Tensor
    noise_level: tf.Tensor
    noise_key: tf.Tensor
    mel_warp: tf.Tensor
    frequency_masks: tf.Tensor
    time_masks: tf.Tensor
    lost: tf.Tensor


# What leaves a clip as it is, field by field.
NOTHING = Draws(1, 0, 0, 1, 0, 0, 0)

LOST = {"audio": 1, "landmarks": 2}


def draw(
    augment: Augment | None, seed: int, epoch: tf.Tensor, example: tf.Tensor, copy: tf.Tensor
) -> Draws:
    """Draws what to do to each of many clips.

    Args:
      augment: None leaves every clip as it is.
      seed: of the run.
      epoch: int64 scalar.
      example: int64 `[N]`, keys of the examples.
      copy: int64 `[N]`, 0 for a clip as it is.

    Returns:
      `Draws` of `[N]` entries.
    """
    if augment is None:
        one, no_mask = tf.ones_like(example, tf.float64), tf.zeros([tf.size(example), 0, 2])
        zero = tf.zeros_like(example, tf.float32)
        none = tf.cast(zero, tf.int32)
        return Draws(one, zero, tf.cast(zero, tf.uint32), one, no_mask, no_mask, none)
    numbers = (Stream.AUGMENTED, Stream.KIND, Stream.STRETCH, Stream.NOISE_LEVEL, Stream.MEL_WARP)
    further = (Stream.NOISE, Stream.FREQUENCY_MASK, Stream.TIME_MASK)
    # All at once: a key of each on its own would be half of the operations of an epoch's plan.
    keys = rng.key(seed, epoch, example, copy, (*numbers, *further))
    drawn = rng.uniform(keys[:, : len(numbers)])
    chance, kind, stretch, level, mel_warp = tf.unstack(drawn, axis=-1)
    noise_key, frequency_key, time_key = tf.unstack(keys[:, len(numbers) :], axis=-1)

    def between(values: tf.Tensor, limits: tuple[float, float]) -> tf.Tensor:
        return limits[0] + (limits[1] - limits[0]) * values

    altered = (copy > 0) & (chance < augment.probability)
    noise_only = (kind >= augment.warp_share) & (kind < augment.warp_share + augment.noise_share)
    warped = altered & ~noise_only
    noisy = altered & (kind >= augment.warp_share)
    stretch = between(stretch, augment.stretch)
    level = tf.cast(between(level, augment.noise_level), tf.float32)
    mel_warp = between(mel_warp, augment.mel_warp)

    def masks(key: tf.Tensor, count: int) -> tf.Tensor:
        if not count:
            return tf.zeros([tf.size(example), 0, 2])
        each = rng.fold_in(key[:, None], tf.range(2 * count, dtype=tf.int64))
        drawn = tf.reshape(tf.cast(rng.uniform(each), tf.float32), [tf.size(example), count, 2])
        return tf.where(altered[:, None, None], drawn, tf.zeros_like(drawn))

    lost = tf.zeros_like(example, tf.int32)
    if augment.modality_dropout:
        one = rng.uniform(rng.key(seed, epoch, example, copy, Stream.MODALITY))
        half = augment.modality_dropout / 2
        which = tf.where(one < half, LOST["audio"], LOST["landmarks"])
        lost = tf.where((copy > 0) & (one < 2 * half), which, lost)
    return Draws(
        stretch=tf.where(warped, stretch, tf.ones_like(stretch)),
        noise_level=tf.where(noisy, level, tf.zeros_like(level)),
        noise_key=tf.cast(noise_key, tf.uint32),
        mel_warp=tf.where(altered, mel_warp, tf.ones_like(mel_warp)),
        frequency_masks=masks(frequency_key, augment.frequency_masks),
        time_masks=masks(time_key, augment.time_masks),
        lost=lost,
    )
