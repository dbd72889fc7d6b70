"""What features are scaled by: sums over rows that add up over any choice of actors or clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

# (corpus, actor), and (corpus, random fold).
Actor = tuple[str, str]
RandomFold = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of rows, feature by feature.

    Attributes:
      count: rows seen.
      mean: float64 `[...]`.
      m2: float64 `[...]`, sum of squared deviations from the mean.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def zero(cls, *shape: int) -> Moments:
        """Return the moments of no rows at all."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, rows: np.ndarray) -> Moments:
        """Compute the moments of `rows` `[N, ...]` over the first axis."""
        rows = np.asarray(rows, np.float64)
        if not len(rows):
            return cls.zero(*rows.shape[1:])
        mean = rows.mean(axis=0)
        return cls(len(rows), mean, np.square(rows - mean).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows (Chan, Golub and LeVeque 1979, equation 2.1)."""
        count = self.count + other.count
        if not count:
            return self
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + np.square(delta) * (self.count * other.count / count),
        )

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation (of the population), float64 `[...]`; zero for no rows."""
        return np.sqrt(self.m2 / max(self.count, 1))


@dataclasses.dataclass(frozen=True)
class MomentsTable:
    """Moments of many groups of rows.

    Attributes:
      count: int64 `[G...]`, rows of each group.
      mean: float64 `[G..., F...]`.
      m2: float64 `[G..., F...]`.
    """

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def of(cls, groups: Sequence[Moments]) -> MomentsTable:
        """Join the moments of at least one group."""
        return cls(
            np.array([group.count for group in groups], np.int64),
            np.stack([group.mean for group in groups]),
            np.stack([group.m2 for group in groups]),
        )

    def reshape(self, *groups: int) -> MomentsTable:
        """Arrange the same groups along other axes."""
        features = self.mean.shape[self.count.ndim :]
        return MomentsTable(
            self.count.reshape(groups),
            self.mean.reshape(*groups, *features),
            self.m2.reshape(*groups, *features),
        )

    def total(self, chosen: np.ndarray) -> Moments:
        """Return the moments of all rows of some groups, bool `[G...]`."""
        count, means, m2 = self.count[chosen], self.mean[chosen], self.m2[chosen]
        rows = int(count.sum())
        if not rows:
            return Moments.zero(*means.shape[1:])
        weights = count.reshape(-1, *(1,) * (means.ndim - 1)).astype(np.float64)
        mean = (weights * means).sum(axis=0) / rows
        return Moments(rows, mean, m2.sum(axis=0) + (weights * (means - mean) ** 2).sum(axis=0))


@dataclasses.dataclass
class GroupSums:
    """Moments that grow record by record.

    Attributes:
      by_actor: (corpus, actor) -> modality -> moments.
      by_random_fold: (corpus, random fold) -> modality -> moments.
    """

    by_actor: dict[Actor, dict[str, Moments]] = dataclasses.field(default_factory=dict)
    by_random_fold: dict[RandomFold, dict[str, Moments]] = dataclasses.field(default_factory=dict)

    def add(
        self, corpus: str, actor: str, random_fold: int, moments: Mapping[str, Moments]
    ) -> None:
        """Add the rows of one record."""
        _add(self.by_actor.setdefault((corpus, actor), {}), moments)
        _add(self.by_random_fold.setdefault((corpus, random_fold), {}), moments)

    def merge(self, other: GroupSums) -> None:
        """Add all rows of another one."""
        for actor, moments in other.by_actor.items():
            _add(self.by_actor.setdefault(actor, {}), moments)
        for fold, moments in other.by_random_fold.items():
            _add(self.by_random_fold.setdefault(fold, {}), moments)


def _add(sums: dict[str, Moments], moments: Mapping[str, Moments]) -> None:
    for modality, each in moments.items():
        sums[modality] = sums[modality] + each if modality in sums else each


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Moments of a data set's rows as a reader gets them, so that any side of any grouping has its.

    Of a modality that can miss in a frame (landmarks), only rows that hold something count.

    Attributes:
      by_actor: modality -> table of `[A]` groups, in the index's order of actors.
      by_random_fold: modality -> table of `[C, K]` groups: corpora in the index's order, and random
        folds.
    """

    by_actor: Mapping[str, MomentsTable]
    by_random_fold: Mapping[str, MomentsTable]

    @classmethod
    def of(
        cls,
        sums: GroupSums,
        actors: Sequence[Actor],
        corpora: Sequence[str],
        num_folds: int,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> Statistics:
        """Compute the statistics from the sums over all records.

        Args:
          sums: over every record.
          actors: in the index's order.
          corpora: in the index's order.
          num_folds: random folds.
          shapes: modality -> sizes beyond the frames.
        """
        folds = [(corpus, fold) for corpus in corpora for fold in range(num_folds)]
        by_actor, by_random_fold = {}, {}
        for modality, shape in shapes.items():
            none = Moments.zero(*shape)
            by_actor[modality] = MomentsTable.of(
                [sums.by_actor.get(actor, {}).get(modality, none) for actor in actors]
            )
            by_random_fold[modality] = MomentsTable.of(
                [sums.by_random_fold.get(fold, {}).get(modality, none) for fold in folds]
            ).reshape(len(corpora), num_folds)
        return cls(by_actor, by_random_fold)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that a file holds: `<grouping>.<modality>.<count, mean or m2>`."""
        return {
            f"{grouping.name}.{modality}.{field.name}": getattr(table, field.name)
            for grouping in dataclasses.fields(self)
            for modality, table in getattr(self, grouping.name).items()
            for field in dataclasses.fields(table)
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, np.ndarray],
        num_actors: int,
        num_corpora: int,
        num_folds: int,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> Statistics:
        """Read what `to_arrays` gave.

        Raises:
          KeyError: for an array that is missing.
          ValueError: for one of another shape or type, or with a value that no rows can have.
        """
        groups = {"by_actor": (num_actors,), "by_random_fold": (num_corpora, num_folds)}
        tables: dict[str, dict[str, MomentsTable]] = {name: {} for name in groups}
        for grouping, sizes in groups.items():
            for modality, shape in shapes.items():
                fields = {
                    "count": (np.int64, sizes),
                    "mean": (np.float64, sizes + shape),
                    "m2": (np.float64, sizes + shape),
                }
                found = {}
                for name, (dtype, wanted) in fields.items():
                    key = f"{grouping}.{modality}.{name}"
                    values = found[name] = arrays[key]
                    if values.shape != wanted or values.dtype != dtype:
                        raise ValueError(
                            f"{key} is {values.dtype} {list(values.shape)}, not "
                            f"{np.dtype(dtype)} {list(wanted)}"
                        )
                    if not np.isfinite(values).all() or (name != "mean" and (values < 0).any()):
                        raise ValueError(f"{key} holds values that no rows can have")
                tables[grouping][modality] = MomentsTable(**found)
        return cls(**tables)
