"""What make_dataset serves, batch by batch and clip by clip."""

from __future__ import annotations

from emotion_tfdata import make_dataset


def batches(data_dir, split="train", **options):
    """All batches of a data set of made-up clips, with their ids."""
    return list(make_dataset(data_dir, split, batch_size=8, with_ids=True, **options))


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
