"""Augmentation: what to do is drawn from keys (`draw`), then done to whole batches (`warp`, `noise`)."""

from emotion_tfdata.augment.draw import Augment, Draws, draw

__all__ = ["Augment", "Draws", "draw"]
