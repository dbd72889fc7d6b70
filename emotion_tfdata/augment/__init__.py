"""Augmentation: what to do is drawn from keys, then done to whole batches."""

from emotion_tfdata.augment.draw import Augment, Draws, draw

__all__ = ["Augment", "Draws", "draw"]
