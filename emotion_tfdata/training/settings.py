"""Everything a training's outcome depends on, checked when it is made."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from emotion_tfdata.splits import PROTOCOLS
from emotion_tfdata.training.schedules import LR_SCHEDULES

if TYPE_CHECKING:
    from emotion_tfdata.augment import Augment
    from emotion_tfdata.models import ModelConfig

SELECTIONS = ("inner", "held_out", "none")
CRITERIA = ("loss", "uar")
CLASS_WEIGHTS = ("none", "balanced")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One training. Threads, paths and how often to save are not part of it.

    Attributes:
      name: of the system, for reports.
      model: the network.
      augment: what is done to training clips, None for nothing.
      modalities: `both`, `audio` or `landmarks`.
      landmarks: `all`, `expressive` or a list of indices.
      num_classes: 6 or 8.
      trim_silence_db: mask the audio before and after what comes within so many dB of the clip's
        loudest frame; 0 does not.
      protocol: `actor` or `random`.
      fold: the fold held out, on which the report's figures are made.
      select_on: where the best epoch, the learning rate's steps and the stop are decided: `inner`,
        one more fold taken out of the training part; `held_out`, the held-out fold itself, which
        flatters the figures; `none`, the last epoch of a fixed schedule.
      select_by: `loss` or `uar`; ties in UAR go to the lower loss.
      batch_size: clips.
      epochs: the most there will be.
      learning_rate: Adam's, of the first epoch.
      lr_schedule: `plateau`, `cosine` or `constant`.
      lr_factor, lr_patience, min_learning_rate: of `plateau`; the patience in epochs.
      early_stopping: epochs without a better one that end the training; 0 never does.
      class_weights: `none` or `balanced`, each class's loss weighted by its rarity.
      label_smoothing: share of the target spread over all classes.
      clip_norm: largest norm of the gradient; 0 does not clip.
      seed: of weights, dropout, order and augmentation.
    """

    name: str
    model: ModelConfig
    augment: Augment | None
    modalities: str
    landmarks: str | tuple[int, ...]
    num_classes: int
    trim_silence_db: float
    protocol: str
    fold: int
    select_on: str
    select_by: str
    batch_size: int
    epochs: int
    learning_rate: float
    lr_schedule: str
    lr_factor: float
    lr_patience: int
    min_learning_rate: float
    early_stopping: int
    class_weights: str
    label_smoothing: float
    clip_norm: float
    seed: int

    def __post_init__(self) -> None:
        def check(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}")

        for name, allowed in (
            ("modalities", ("both", "audio", "landmarks")),
            ("protocol", PROTOCOLS),
            ("select_on", SELECTIONS),
            ("select_by", CRITERIA),
            ("lr_schedule", LR_SCHEDULES),
            ("class_weights", CLASS_WEIGHTS),
            ("num_classes", (6, 8)),
        ):
            check(getattr(self, name) in allowed, name, f"one of {', '.join(map(str, allowed))}")
        for name in ("batch_size", "epochs", "lr_patience"):
            check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("fold", "early_stopping", "trim_silence_db", "clip_norm", "min_learning_rate"):
            check(getattr(self, name) >= 0, name, "at least 0")
        check(0 < self.learning_rate < 10, "learning_rate", "between 0 and 10")
        check(0 < self.lr_factor < 1, "lr_factor", "between 0 and 1")
        check(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1")
        check(0 <= self.seed < 2**31, "seed", "from 0 to 2147483647")
        if self.select_on == "none":
            check(
                self.lr_schedule != "plateau",
                "lr_schedule",
                "cosine or constant with select_on=none, which judges no epoch",
            )

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [plain(item) for item in value]
            return value

        return plain(dataclasses.asdict(self))
