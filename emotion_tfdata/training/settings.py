"""Everything a training's outcome depends on, checked when it is made. No TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import Any

from emotion_tfdata.augment.config import Augment
from emotion_tfdata.dataset.protocols import NAMES, check_name
from emotion_tfdata.features import Features
from emotion_tfdata.fields import check, documented, setting
from emotion_tfdata.models.config import ModelConfig
from emotion_tfdata.training.precision import PRECISIONS
from emotion_tfdata.training.schedules import LR_SCHEDULES

# What is counted fits into 32 bits, and what is measured into float32.
_FROM_0, _FROM_1, _NUMBER = "[0, 2147483647]", "[1, 2147483647]", "[0, 1e30)"


@documented
@dataclasses.dataclass(frozen=True)
class Settings:
    """One training. Threads, paths and how often to save are not part of it.

    The defaults are train.py's, which are those of the combined model, `tcn.flags`.

    Attributes:
      model: the network.
      augment: what is done to training clips, None for nothing.
      features: what the model is given; the modalities are named.
    """

    name: str = setting("tcn", "of the system, for the report and --model_dir")
    model: ModelConfig = dataclasses.field(default=ModelConfig())
    augment: Augment | None = dataclasses.field(default=Augment())
    features: Features = dataclasses.field(default=Features("both", "expressive"))
    protocol: str = setting(
        "actor",
        f"who is held out: {', '.join(NAMES)}, or a JSON file of folds, "
        '{"0": ["ravdess/01", ...], ...}. random is leaky: its actors are on both sides',
    )
    train_corpora: tuple[str, ...] = setting(
        (), "corpora to train and select on, e.g. ravdess; all if empty"
    )
    test_corpora: tuple[str, ...] = setting(
        (), "corpora to hold out clips of, e.g. crema_d; all if empty"
    )
    fold: int = setting(0, "fold that is held out for the report", _FROM_0)
    select_on: str = setting(
        "inner",
        "where the best epoch, the learning rate's steps and the stop are decided. inner: on one "
        "more fold taken out of training. held_out: on the held-out fold itself, optimistic. none: "
        "nowhere, the last epoch counts",
        choices=("inner", "held_out", "none"),
    )
    select_by: str = setting(
        "loss",
        "figure decided by: cross-entropy, or unweighted average recall, ties in which go to the "
        "lower loss",
        choices=("loss", "uar"),
    )
    batch_size: int = setting(24, "clips a step", _FROM_1)
    epochs: int = setting(60, "most epochs", _FROM_1)
    learning_rate: float = setting(0.001, "Adam's, of the first epoch", "(0, 10)")
    lr_schedule: str = setting(
        "plateau",
        "plateau: lowered where selection levels off; cosine: to zero at the last epoch",
        choices=LR_SCHEDULES,
    )
    lr_factor: float = setting(0.5, "plateau: what the rate is multiplied by", "(0, 1)")
    lr_patience: int = setting(5, "plateau: epochs without a better one before that", _FROM_1)
    min_learning_rate: float = setting(1e-5, "plateau: lowest rate", _NUMBER)
    early_stopping: int = setting(15, "epochs without a better one that end it; 0: never", _FROM_0)
    class_weights: str = setting(
        "none",
        "balanced: each class's loss is weighted by its rarity",
        choices=("none", "balanced"),
    )
    label_smoothing: float = setting(0.0, "share of the target spread over all classes", "[0, 1)")
    clip_norm: float = setting(0.0, "largest norm of the gradient; 0: not clipped", _NUMBER)
    seed: int = setting(0, "of weights, dropout, order and augmentation", _FROM_0)
    precision: str = setting(
        "float32",
        "mixed_bfloat16: of matrix products; weights, recurrence, statistics and loss are float32. "
        "float64: all of it, twice as slow, to check what rounding does",
        choices=PRECISIONS,
    )

    def __post_init__(self) -> None:
        check(self)
        check_name(self.protocol)
        if self.features.modalities is None:
            raise ValueError("features must be of named modalities")
        if self.select_on == "none" and self.lr_schedule == "plateau":
            raise ValueError(
                "lr_schedule must be cosine or constant with select_on=none, which judges no "
                "epoch, got 'plateau'"
            )

    @property
    def corpora(self) -> dict[str, tuple[str, ...]] | None:
        """The corpora as an argument of `make_dataset`."""
        sides = {"train": self.train_corpora, "test": self.test_corpora}
        return {side: names for side, names in sides.items() if names} or None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [plain(item) for item in value]
            return value

        return plain(dataclasses.asdict(self))
