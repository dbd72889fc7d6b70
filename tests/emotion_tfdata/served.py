"""What make_dataset serves, batch by batch and clip by clip."""

from __future__ import annotations

import dataclasses
import functools

from emotion_tfdata import Features, Reading, make_dataset


def make(data_dir, split="train", **options):
    """`make_dataset`, with the fields of `Features` and `Reading` beside its own arguments."""
    for name, kind in (("features", Features), ("reading", Reading)):
        fields = {field.name for field in dataclasses.fields(kind)} & options.keys()
        options[name] = kind(**{field: options.pop(field) for field in fields})
    return make_dataset(data_dir, split, **options)


@functools.cache
def batches(data_dir, split="train", **options):
    """All batches of a data set of made-up clips, with their ids.

    The same call gives the same list, since a stream takes a second to make: leave it as it is.
    """
    return list(make(data_dir, split, batch_size=8, with_ids=True, **options))


def ids(served):
    """The ids of the clips in the batches, in their order."""
    return [i.decode() for features, _ in served for i in features["example_id"].numpy()]


def clips(served):
    """(id, label, audio, landmarks, landmarks mask) of each clip, cut to its own length."""
    for features, label in served:
        f = {name: values.numpy() for name, values in features.items()}
        for row, example_id in enumerate(f["example_id"]):
            rows = f["audio_mask"][row].sum()
            yield (
                example_id.decode(),
                int(label[row]),
                f["audio"][row, :rows],
                f["landmarks"][row],
                f["landmarks_mask"][row],
            )
