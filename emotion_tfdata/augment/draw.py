"""What is to be done to each clip, drawn once a clip for both modalities, in proportions."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf

from emotion_tfdata import rng
from emotion_tfdata.rng import Stream


@dataclasses.dataclass(frozen=True)
class Augment:
    """How a training set is enlarged.

    An epoch holds every clip as it is and `factor - 1` copies of it. A copy is altered with
    `probability`; one that is altered is warped, made noisy, or both.

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
    """

    factor: float = 2.0
    probability: float = 0.8
    warp_share: float = 0.4
    noise_share: float = 0.3
    stretch: tuple[float, float] = (0.9, 1.1)
    noise_level: tuple[float, float] = (0.001, 0.01)
    noise_correlation: float = 0.5
    noise_slow_hz: float = 2.0

    def __post_init__(self) -> None:
        def check(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"Augment: {name} must be {allowed}, got {getattr(self, name)!r}")

        check(1 <= self.factor <= 100, "factor", "in [1, 100]")
        for name in ("probability", "warp_share", "noise_share", "noise_correlation"):
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
    """

    stretch: tf.Tensor
    noise_level: tf.Tensor
    noise_key: tf.Tensor


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
    augment = augment or Augment(probability=0.0)

    streams = (Stream.AUGMENTED, Stream.KIND, Stream.STRETCH, Stream.NOISE_LEVEL, Stream.NOISE)
    keys = rng.key(seed, epoch, example, copy, streams)
    chance, kind, stretch, level, _ = tf.unstack(rng.uniform(keys), axis=-1)

    def between(values: tf.Tensor, limits: tuple[float, float]) -> tf.Tensor:
        return limits[0] + (limits[1] - limits[0]) * values

    altered = (copy > 0) & (chance < augment.probability)
    noise_only = (kind >= augment.warp_share) & (kind < augment.warp_share + augment.noise_share)
    warped = altered & ~noise_only
    noisy = altered & (kind >= augment.warp_share)
    stretch = between(stretch, augment.stretch)
    level = tf.cast(between(level, augment.noise_level), tf.float32)
    return Draws(
        stretch=tf.where(warped, stretch, tf.ones_like(stretch)),
        noise_level=tf.where(noisy, level, tf.zeros_like(level)),
        noise_key=tf.cast(keys[..., -1], tf.uint32),
    )
