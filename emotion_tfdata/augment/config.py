"""What is done to the copies of training clips. No TensorFlow: flags are made of it."""

from __future__ import annotations

import dataclasses
import math

from emotion_tfdata.fields import check, documented, setting


@documented
@dataclasses.dataclass(frozen=True)
class Augment:
    """How a training set is enlarged.

    An epoch holds every clip as it is and `factor - 1` copies of it. A copy is altered with
    `probability`; one that is altered is warped, made noisy, or both. Where they are asked for,
    each altered copy also gets a warp of the mel axis and masks over bands and over time. These
    change its audio alone: a length of the vocal tract has no counterpart in the face, and what
    one modality lacks for a moment is what the other is there for.

    Raises:
      ValueError: for a value that is not allowed.
    """

    factor: float = setting(
        2.0,
        "size of an epoch in clips of the set; 1 adds no copy, 1.5 a copy of half of the clips "
        "(other ones every epoch), 2 one copy of each",
        "[1, 100]",
    )
    probability: float = setting(0.8, "that a copy is altered at all", "[0, 1]")
    warp_share: float = setting(
        0.4, "share of the altered copies that are only warped in time", "[0, 1]"
    )
    noise_share: float = setting(
        0.3, "share of them that only get noise; the rest get both", "[0, 1]"
    )
    stretch: tuple[float, float] = setting(
        (0.9, 1.1),
        "range of the one factor of the time warp of both modalities: what happens at t comes to "
        "t * stretch",
        "[0.5, 2]",
    )
    noise_level: tuple[float, float] = setting(
        (0.001, 0.01),
        "range of the one noise level of both modalities, in standard deviations of each feature "
        "over the training folds",
        "[0, 1e30)",
    )
    noise_correlation: float = setting(
        0.5,
        "correlation of the noise of any two features, of one or of both modalities, at one "
        "instant: the share of its variance that comes from one slow process on their common clock",
        "[0, 1]",
    )
    noise_slow_hz: float = setting(2.0, "highest frequency of that slow process, in Hz", "(0, 15]")
    mel_warp: tuple[float, float] = setting(
        (1.0, 1.0),
        "range of the factor of every altered copy's mel axis, uniform: what stood at frequency f "
        "comes to about f / factor (emotion_tfdata/augment/mel.py); 1,1 leaves it as it is",
        "[0.5, 2]",
    )
    frequency_masks: int = setting(
        0,
        "masks over bands of an altered copy; they may overlap, and hide a feature by its mean "
        "over the training folds",
        "[0, 20]",
    )
    frequency_mask_bands: int = setting(
        10, "widest of them, in bands; widths are uniform from 0", "[1, 1000]"
    )
    time_masks: int = setting(
        0,
        "masks over time of an altered copy's audio; they lie among the frames that are not masked "
        "off, and these stay what they are for audio_mask",
        "[0, 20]",
    )
    time_mask_s: float = setting(
        0.2, "widest of them, in seconds of the warped clip; widths are uniform from 0", "(0, 60]"
    )
    time_mask_share: float = setting(
        0.3, "largest share of a clip's frames that its time masks hide together", "(0, 1)"
    )
    modality_dropout: float = setting(
        0.0,
        "that a copy loses its voice or its face, either as often: its mask is then false "
        "throughout, so that the model serves clips of one alone",
        "[0, 1]",
    )

    def __post_init__(self) -> None:
        check(self)
        for name in ("stretch", "noise_level", "mel_warp"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be a range (low, high), got {(low, high)}")
        if self.warp_share + self.noise_share > 1 + 1e-9:
            raise ValueError(
                f"noise_share must be at most 1 - warp_share = {1 - self.warp_share:g}, got "
                f"{self.noise_share}"
            )

    @property
    def warps_mel(self) -> bool:
        """Whether any copy's mel axis is warped."""
        return self.mel_warp != (1, 1)

    @property
    def copies(self) -> int:
        """How many copies of a clip there can be in an epoch."""
        return math.ceil(self.factor - 1)

    def num_copied(self, copy: int, num_examples: int) -> int:
        """Return how many clips have a copy number `copy` (from 1) in an epoch."""
        return round(min(max(self.factor - copy, 0.0), 1.0) * num_examples)
