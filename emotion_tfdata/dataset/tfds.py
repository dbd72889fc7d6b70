"""What TensorFlow Datasets reads of a data set: `features.json` and `dataset_info.json`.

`tfds.builder_from_directory(data_dir).as_dataset(split="fold_0")` then serves its records as they
are stored. `as_data_source` it gives for ArrayRecord and Parquet alone, never for TFRecord, in
which it knows no record's place; `Records` serves these at random.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion_tfdata.dataset.manifest import Modality, Shard

FEATURES_NAME = "features.json"
INFO_NAME = "dataset_info.json"
_TEXTS = ("example_id", "corpus", "actor", "emotion", "intensity", "sentence")
_FEATURES = "tensorflow_datasets.core.features."


def features(modalities: Mapping[str, Modality]) -> dict[str, Any]:
    """Return the content of `features.json`, which says how a record's features are parsed."""
    found: dict[str, Any] = {
        name: {"pythonClassName": f"{_FEATURES}text_feature.Text", "text": {}} for name in _TEXTS
    }
    for name, modality in modalities.items():
        for array_name, array in {name: modality.array, **modality.beside}.items():
            found[array_name] = {
                "pythonClassName": f"{_FEATURES}tensor_feature.Tensor",
                "tensor": {
                    "shape": {"dimensions": ["-1", *map(str, array.shape)]},
                    "dtype": array.dtype,
                    "encoding": "bytes",
                },
            }
    return {
        "type": f"{_FEATURES}features_dict.FeaturesDict",
        "content": {"features": found},
        "proto_cls": "tensorflow_datasets.FeaturesDict",
    }


def info(
    modalities: Mapping[str, Modality], shards: Sequence[Shard], provenance: str
) -> dict[str, Any]:
    """Return the content of `dataset_info.json`: each split's shards, and the records of each."""
    splits: dict[str, dict[str, Any]] = {}
    for shard in shards:
        stem = shard.name.partition(".")[0]
        split = splits.setdefault(
            stem,
            {
                "name": re.sub(r"-of-\d+", "", stem).replace("-", "_"),
                "shardLengths": [],
                "numBytes": 0,
                "filepathTemplate": f"{stem}.{{FILEFORMAT}}-{{SHARD_X_OF_Y}}",
            },
        )
        split["shardLengths"].append(str(shard.records))
        split["numBytes"] += shard.bytes
    units = [
        f"{name}: {array.unit}" + (f", stored in units of {array.step:g}" if array.step else "")
        for modality in modalities
        for name, array in {
            modality: modalities[modality].array,
            **modalities[modality].beside,
        }.items()
        if array.unit
    ]
    return {
        "name": "emotion_tfdata",
        "version": "2.0.0",
        "description": "; ".join(filter(None, [provenance, *units])),
        "fileFormat": "tfrecord",
        "splits": [{**each, "numBytes": str(each["numBytes"])} for each in splits.values()],
    }


def contents(
    modalities: Mapping[str, Modality], shards: Sequence[Shard], provenance: str
) -> dict[str, bytes]:
    """Return the content of both files, by name."""
    files = {FEATURES_NAME: features(modalities), INFO_NAME: info(modalities, shards, provenance)}
    return {name: (json.dumps(each, indent=1) + "\n").encode() for name, each in files.items()}
