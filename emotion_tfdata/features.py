"""What is served of each clip, and how it is read. No TensorFlow: settings are made of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from emotion_tfdata.dataset.raters import LABELS
from emotion_tfdata.fields import check, documented, is_whole, setting
from emotion_tfdata.labels import class_names

MODALITIES = {"both": ("audio", "landmarks"), "audio": ("audio",), "landmarks": ("landmarks",)}
META = ("corpus", "actor", "intensity", "sentence")


@documented
@dataclasses.dataclass(frozen=True)
class Features:
    """What is served of each clip. `make_dataset`, trainings, exports and predictions share it.

    Raises:
      ValueError: for a value that is not allowed, when it is made.
    """

    modalities: str | None = setting(
        None, "what is served; None for all that the data set has", choices=tuple(MODALITIES)
    )
    landmarks: str | Sequence[int] = setting(
        "all", "all, expressive, or indices, as a flag 0,13,14; see landmark_sets"
    )
    normalize: bool = setting(
        True,
        "whether each feature is brought to zero mean and unit deviation over the training side; "
        "without it, audio is in dB and landmarks are in distances between the eyes",
        flag=None,
    )
    relative_level: bool = setting(
        False,
        "whether audio counts from the mean of the clip's own energies, over the bands and the "
        "frames that are not masked off: how loud a clip is does not matter",
    )
    trim_silence_db: float | None = setting(
        None,
        "mask the audio before the first and after the last frame that comes within so many dB of "
        "the clip's loudest, and leave the landmarks alone; without it nothing is masked",
        "(0, 200)",
    )
    head: bool = setting(
        False,
        "whether the pose of the head is served, `head`: what the landmarks' own frame took away; "
        "it is warped in time as they are, and neither scaled nor made noisy",
        flag=None,
    )
    with_ids: bool = setting(False, "whether `example_id` is served", flag=None)
    with_meta: bool = setting(
        False,
        "whether `corpus`, `actor`, `intensity` and `sentence` are served, in the corpus's own "
        "codes",
        flag=None,
    )
    num_classes: int | None = setting(
        None, "6 of a data set that was built with 8; None for all that it has"
    )
    labels: str = setting(
        "intended",
        "what a clip's label is. intended: what the actor was to show. perceived: what most of "
        "CREMA-D's raters took the clip for who were given the same modalities, without the clips "
        "they are tied on. votes: their votes as a distribution, tested on the intended. Clips of "
        "other corpora, which nobody rated, keep the intended one",
        choices=tuple(LABELS),
    )

    def __post_init__(self) -> None:
        check(self)
        if self.landmarks not in ("all", "expressive"):
            if not is_sequence_of(self.landmarks, is_whole):
                _refuse(self, "landmarks", "'all', 'expressive' or a list of indices")
            # A tuple, so that equal choices are equal and can be keys.
            object.__setattr__(self, "landmarks", tuple(int(index) for index in self.landmarks))
        if self.num_classes is not None:
            class_names(self.num_classes)

    def chosen(self, stored: Sequence[str], where: str) -> tuple[str, ...]:
        """Return the modalities that are served from a data set.

        Args:
          stored: that it has.
          where: it is, for the error.

        Raises:
          ValueError: if it lacks one that is asked for.
        """
        wanted = tuple(stored) if self.modalities is None else MODALITIES[self.modalities]
        missing = [modality for modality in wanted if modality not in stored]
        if missing:
            raise ValueError(
                f"modalities={self.modalities!r}, but {where} holds no {missing[0]}: it was built "
                f"with --modalities={'both' if len(stored) > 1 else next(iter(stored))}"
            )
        if self.head and "landmarks" not in wanted:
            raise ValueError(f"head=True needs the landmarks, and of {where} only audio is served")
        return wanted


@dataclasses.dataclass(frozen=True)
class Reading:
    """How clips are read. Only `shard` and `num_buckets` change what is served.

    Attributes:
      num_threads: threads that read and augment; None for one a core.
      cache: whether to read everything at once, before the first batch, and keep it in memory, in
        16 bits a value as it is on disk: about 0.3 MB a clip of 3 s with all of FaceMesh.
      num_buckets: how many shapes there may be; more of them pad less and compile longer.
      shard: (index, count): serve these rows of every batch, the `index`-th of `count` equal parts.
      on_corrupt: `"raise"`, or `"skip"`: read everything once before the first batch, skip the
        records that are corrupt and no others, and name them in a warning.

    Raises:
      ValueError: for a value that is not allowed, when it is made.
    """

    num_threads: int | None = None
    cache: bool = False
    num_buckets: int = 8
    shard: tuple[int, int] = (0, 1)
    on_corrupt: str = "raise"

    def __post_init__(self) -> None:
        if self.num_threads is not None:
            check_whole("num_threads", self.num_threads, 1, " or None")
        check_whole("num_buckets", self.num_buckets, 1)
        if not isinstance(self.cache, bool):
            _refuse(self, "cache", "True or False")
        pair = isinstance(self.shard, tuple | list) and len(self.shard) == 2
        if not (pair and all(map(is_whole, self.shard))):
            _refuse(self, "shard", "(index, count), two whole numbers")
        object.__setattr__(self, "shard", tuple(self.shard))
        if self.on_corrupt not in ("raise", "skip"):
            _refuse(self, "on_corrupt", "'raise' or 'skip'")

    def rows(self, batch_size: int) -> list[int]:
        """Return which rows of a batch are served.

        Raises:
          ValueError: for a shard that there is none of.
        """
        index, count = self.shard
        if count < 1 or not 0 <= index < count or batch_size % count:
            raise ValueError(
                "shard must be (index, count) with index < count and a count that divides "
                f"batch_size, got {self.shard} and batch_size={batch_size}"
            )
        part = batch_size // count
        return list(range(index * part, (index + 1) * part))


def is_sequence_of(values: Any, is_one: Callable[[Any], bool]) -> bool:
    """Tell whether values are a list, tuple or array (no text) of what `is_one` holds for."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        return False
    return all(map(is_one, values))


def check_whole(name: str, value: Any, least: int | None, or_none: str = "") -> None:
    """Check that a value is a whole number of at least `least`.

    Raises:
      ValueError: if not; the message ends what is allowed with `or_none`.
    """
    if not is_whole(value):
        raise ValueError(f"{name} must be a whole number{or_none}, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}{or_none}, got {value!r}")


def _refuse(settings: Any, name: str, allowed: str) -> None:
    raise ValueError(f"{name} must be {allowed}, got {getattr(settings, name)!r}")
