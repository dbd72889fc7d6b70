"""Augmentation: what to do is drawn from keys, then done to whole batches."""

from emotion_tfdata.augment.config import Augment

__all__ = ["Augment"]
