"""What an epoch's validation figure decides: learning rate, best weights, when to stop.

Plain state machines. Their whole state is a few numbers, so that a checkpoint can hold it exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

LR_SCHEDULES = ("plateau", "cosine", "constant")


@dataclasses.dataclass
class Schedule:
    """Learning rate by epoch, early stopping and the choice of the best epoch.

    An epoch is better than the best one if its score is higher by more than `min_delta`. `plateau`
    multiplies the learning rate by `lr_factor` after `lr_patience` epochs without a better one, as
    Keras's ReduceLROnPlateau; `cosine` falls from the first epoch's rate to zero at the last one's
    end (Loshchilov and Hutter 2017, equation 5, without restarts), epoch by epoch.

    Attributes:
      learning_rate: of the first epoch; `plateau` changes it.
      epochs: the most epochs there will be.
      kind: `plateau`, `cosine` or `constant`.
      lr_factor, lr_patience, min_learning_rate: of `plateau`.
      stop_patience: epochs without a better one that end the training; 0 never does.
      min_delta: what counts as better.
    """

    learning_rate: float
    epochs: int
    kind: str
    lr_factor: float
    lr_patience: int
    min_learning_rate: float
    stop_patience: int
    min_delta: float = 0.0

    best_score: float = -math.inf
    best_epoch: int = -1
    epochs_since_best: int = 0
    epochs_since_change: int = 0

    def rate_of(self, epoch: int) -> float:
        """Return an epoch's learning rate, counted from 0, given what was observed before it."""
        if self.kind == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.learning_rate

    def observe(self, epoch: int, score: float) -> bool:
        """Take in the score of a finished epoch (higher is better); return whether it is the best.

        Raises:
          ValueError: for a score that is not a number.
        """
        if math.isnan(score):
            raise ValueError(f"epoch {epoch + 1}: the score to select on is not a number")
        better = self.best_epoch < 0 or score > self.best_score + self.min_delta
        if better:
            self.best_score, self.best_epoch = score, epoch
            self.epochs_since_best = self.epochs_since_change = 0
            return True
        self.epochs_since_best += 1
        self.epochs_since_change += 1
        if self.kind == "plateau" and self.epochs_since_change >= self.lr_patience:
            lower = max(self.learning_rate * self.lr_factor, self.min_learning_rate)
            self.learning_rate = min(self.learning_rate, lower)  # it may have begun below the least
            self.epochs_since_change = 0
        return False

    @property
    def should_stop(self) -> bool:
        """Whether `stop_patience` epochs have passed without a better one."""
        return 0 < self.stop_patience <= self.epochs_since_best

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: plain numbers."""
        names = (
            "learning_rate",
            "best_score",
            "best_epoch",
            "epochs_since_best",
            "epochs_since_change",
        )
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        for name, value in state.items():
            setattr(self, name, value)
