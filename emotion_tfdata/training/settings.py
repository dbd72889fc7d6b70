"""Everything a training's outcome depends on, checked when it is made."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from emotion_tfdata.dataset.protocols import check_name
from emotion_tfdata.features import Features
from emotion_tfdata.training.precision import PRECISIONS
from emotion_tfdata.training.schedules import LR_SCHEDULES

if TYPE_CHECKING:
    from emotion_tfdata.augment import Augment
    from emotion_tfdata.models import ModelConfig

SELECTIONS = ("inner", "held_out", "none")
CRITERIA = ("loss", "uar")
CLASS_WEIGHTS = ("none", "balanced")


def _default_augment() -> Augment:
    from emotion_tfdata.augment import Augment  # TensorFlow with it

    return Augment()


@dataclasses.dataclass(frozen=True)
class Settings:
    """One training. Threads, paths and how often to save are not part of it.

    The defaults are train.py's, which are those of the combined model, `tcn.flags`.

    Attributes:
      name: of the system, for reports.
      model: the network.
      augment: what is done to training clips, None for nothing.
      features: what the model is given; the modalities are named.
      protocol: how clips are dealt to folds, as `make_dataset` takes it.
      train_corpora: trained and selected on; none for all.
      test_corpora: held out; none for all.
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
      precision: `float32`, or `mixed_bfloat16`: matrix products in bfloat16, the rest in float32;
        `float64`: all of it, twice as slow, to check what rounding does.
    """

    name: str
    model: ModelConfig
    augment: Augment | None = dataclasses.field(default_factory=_default_augment)
    features: Features = dataclasses.field(default=Features("both", "expressive"))
    protocol: str = "actor"
    train_corpora: tuple[str, ...] = ()
    test_corpora: tuple[str, ...] = ()
    fold: int = 0
    select_on: str = "inner"
    select_by: str = "loss"
    batch_size: int = 24
    epochs: int = 60
    learning_rate: float = 0.001
    lr_schedule: str = "plateau"
    lr_factor: float = 0.5
    lr_patience: int = 5
    min_learning_rate: float = 1e-5
    early_stopping: int = 15
    class_weights: str = "none"
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        def check(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}")

        for name, value in vars(self).items():
            if isinstance(value, float):
                check(abs(value) < 1e30, name, "a number that float32 holds")  # nor NaN
            elif isinstance(value, int):  # 32 bits suffice for whatever is counted
                check(value < 2**31, name, "at most 2147483647")
        for name, allowed in (
            ("select_on", SELECTIONS),
            ("select_by", CRITERIA),
            ("lr_schedule", LR_SCHEDULES),
            ("class_weights", CLASS_WEIGHTS),
            ("precision", PRECISIONS),
        ):
            check(getattr(self, name) in allowed, name, f"one of {', '.join(map(str, allowed))}")
        check_name(self.protocol)
        for name in ("batch_size", "epochs", "lr_patience"):
            check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("fold", "early_stopping", "clip_norm", "min_learning_rate"):
            check(getattr(self, name) >= 0, name, "at least 0")
        check(self.features.modalities is not None, "features", "of named modalities")
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

    @property
    def corpora(self) -> dict[str, tuple[str, ...]] | None:
        """As `make_dataset` takes them."""
        sides = {"train": self.train_corpora, "test": self.test_corpora}
        return {side: names for side, names in sides.items() if names} or None

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [plain(item) for item in value]
            return value

        return plain(dataclasses.asdict(self))
