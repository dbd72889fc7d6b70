"""What is known of a shard that is whole, and the JSON in which a build keeps it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from emotion_tfdata.dataset.index import Record
from emotion_tfdata.dataset.manifest import Shard
from emotion_tfdata.dataset.statistics import GroupSums, Moments
from preprocess.clip.measurements import Measurements


@dataclasses.dataclass(frozen=True)
class WrittenShard:
    """A shard that is whole, and the sums over its records.

    Attributes:
      shard: for the manifest.
      fold: actor fold of all its records.
      records: in the file's order.
      sums: over the shard's rows, as stored.
      measurements: example id -> what was measured of the clip.
    """

    shard: Shard
    fold: int
    records: tuple[Record, ...]
    sums: GroupSums
    measurements: Mapping[str, Measurements]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        content = dataclasses.asdict(self)
        content["sums"] = {
            grouping: [
                [*group, {name: _moments_to_json(each) for name, each in moments.items()}]
                for group, moments in sums.items()
            ]
            for grouping, sums in vars(self.sums).items()
        }
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> WrittenShard:
        """Read what `to_json` gave.

        Raises:
          KeyError, TypeError, ValueError: if it is something else.
        """
        sums = {
            grouping: {
                (corpus, group): {name: _moments_from_json(each) for name, each in moments.items()}
                for corpus, group, moments in groups
            }
            for grouping, groups in content["sums"].items()
        }
        return cls(
            Shard(**content["shard"]),
            content["fold"],
            tuple(map(_record, content["records"])),
            GroupSums(**sums),
            {
                sys.intern(name): measurements_from_json(each)
                for name, each in content["measurements"].items()
            },
        )


def measurements_from_json(content: Mapping[str, Any]) -> Measurements:
    """Make measurements from their JSON values; texts that clips share are held once."""
    texts = {name: tuple(map(sys.intern, content[name])) for name in ("altered", "notes")}
    return Measurements(**{**content, **texts})


def _moments_to_json(moments: Moments) -> dict[str, Any]:
    return {
        "count": moments.count,
        "mean": moments.mean.tolist(),
        "m2": moments.m2.tolist(),
    }


def _moments_from_json(content: Mapping[str, Any]) -> Moments:
    return Moments(content["count"], np.array(content["mean"]), np.array(content["m2"]))


def _record(content: Mapping[str, Any]) -> Record:
    """Make a record from its JSON values; texts that records share are held once."""
    shared: dict[str, Any] = {
        name: sys.intern(value) if isinstance(value, str) else value
        for name, value in content.items()
    }
    return Record(**shared)
