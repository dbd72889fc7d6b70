"""What a data set's size costs: time to the first batch, to that of a further pass, and memory.

  .venv/bin/python tests/benchmarks/scale.py [--records=1000,100000,1000000] [--data_dir=D]

Records are small ones, so that it is their number that counts: shards of a million take 0.8 GB. The
last row is a data set of one's own, beside plain tf.data that reads the same shards, parses and
pads them. Every row is a process of its own; figures are CPU seconds (wall-clock in brackets) and
MB above what TensorFlow takes. Further passes are medians of five.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

_TEMPLATES, _ACTORS, _BATCH, _PASSES = 200, 100, 24, 5


def write(data_dir: str, count: int) -> None:
    """Writes a data set of small records in five shards, by repeating a few with other ids."""
    import tensorflow as tf

    from emotion_tfdata import testing
    from emotion_tfdata.dataset import schema
    from emotion_tfdata.dataset.index import example_key

    examples = testing.fake_examples(
        num_actors=_ACTORS,
        clips_per_actor=_TEMPLATES // _ACTORS,
        duration_s=(0.1, 0.3),
        num_audio_features=4,
        num_landmarks=2,
    )
    examples = [
        dataclasses.replace(each, example_id=f"ravdess/{number:010d}")
        for number, each in enumerate(examples)
    ]
    manifest = testing.write_data_set(data_dir, examples)
    index = manifest.index
    templates = [schema.encode(each) for each in examples]
    of = np.array([int(example_id[-10:]) for example_id in index.example_ids.tolist()])
    repeats = -(-count // len(index))
    rows = np.sort(np.tile(np.arange(len(index)), repeats)[:count])  # in the order of the shards
    ids = np.char.mod(b"ravdess/%010d", np.arange(count) + len(index))
    lengths = index.lengths[rows] + 0
    offsets = np.zeros(count, np.int64)
    for shard, about in enumerate(manifest.shards):
        places = np.flatnonzero(index.shards[rows] == shard)
        offsets[places] = np.concatenate([[0], np.cumsum(lengths[places] + 16)[:-1]])
        with tf.io.TFRecordWriter(os.path.join(data_dir, about.name)) as writer:
            for place in places:
                number = of[rows[place]]
                before = b"ravdess/%010d" % number
                writer.write(templates[number].replace(before, ids[place]))
    columns = ("actors", "emotions", "intensities", "sentences", "random_folds", "shards")
    repeated = dataclasses.replace(
        index,
        example_ids=ids,
        keys=np.array([example_key(each.decode()) for each in ids.tolist()], np.int64),
        offsets=offsets,
        frames={name: column[rows] for name, column in index.frames.items()},
        valid_frames={name: column[rows] for name, column in index.valid_frames.items()},
        **{name: getattr(index, name)[rows] for name in columns},
        lengths=lengths,
    )
    counts = np.bincount(repeated.shards, minlength=len(manifest.shards)).tolist()
    shards = tuple(
        dataclasses.replace(
            shard, records=records, bytes=os.path.getsize(os.path.join(data_dir, shard.name))
        )
        for shard, records in zip(manifest.shards, counts, strict=True)
    )
    dataclasses.replace(manifest, index=repeated, shards=shards).save(data_dir)


def measure(data_dir: str) -> None:
    """Prints the figures of one data set."""
    import tensorflow as tf

    from emotion_tfdata import make_dataset

    next(iter(tf.data.Dataset.range(3).batch(2)))
    before_mb = _peak_mb()
    clock = Clock()
    dataset = make_dataset(data_dir, "train", batch_size=_BATCH)
    made = clock.lap()
    next(iter(dataset))
    first = clock.lap()
    print(f"call {made}, first batch {first}", end=", ")
    small = int(dataset.cardinality()) < 1000
    if small:  # XLA's programs, one for each shape of a batch
        clock.lap()
        taken = sum(1 for _ in dataset)
        print(f"whole first pass of {taken} batches {clock.lap()}", end=", ")
    before, passes = [], []
    for _ in range(_PASSES):
        clock.lap()
        batches = iter(dataset)
        next(batches)
        before.append(clock.lap())
        if small:
            del batches
            clock.lap()
            sum(1 for _ in dataset)
            passes.append(clock.lap())
    print(f"further pass, until its first batch {median(before)}", end=", ")
    if small:
        # The same batches of an iterator that does not end: what a pass costs beyond them.
        batches = iter(make_dataset(data_dir, "train", batch_size=_BATCH, num_epochs=None))
        endless = []
        for _ in range(_PASSES + 1):
            clock.lap()
            for _ in range(taken):
                next(batches)
            endless.append(clock.lap())
        whole, alone = median(passes), median(endless[1:])
        beyond = Lap(whole.cpu_s - alone.cpu_s, whole.wall_s - alone.wall_s)
        print(f"whole {whole}, beyond its batches {beyond}", end=", ")
    print(f"memory {_peak_mb() - before_mb:.0f} MB")


def measure_plain(data_dir: str) -> None:
    """Prints the figures of plain tf.data over the same shards."""
    import tensorflow as tf

    from emotion_tfdata.dataset.manifest import Manifest

    manifest = Manifest.load(data_dir)
    names = [os.path.join(data_dir, shard.name) for shard in manifest.shards]
    widths = {name: each.array.shape for name, each in manifest.modalities.items()}

    def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {name: tf.io.FixedLenFeature([], tf.string) for name in widths}
        parsed = tf.io.parse_single_example(record, spec)
        return {
            name: tf.cast(
                tf.reshape(tf.io.decode_raw(parsed[name], tf.int16), [-1, *shape]), tf.float32
            )
            for name, shape in widths.items()
        }

    clock = Clock()
    dataset = tf.data.TFRecordDataset(names).shuffle(1000).map(parse, tf.data.AUTOTUNE)
    dataset = dataset.padded_batch(_BATCH).prefetch(2)
    made = clock.lap()
    next(iter(dataset))
    first = clock.lap()
    passes = []
    for _ in range(_PASSES):
        clock.lap()
        taken = sum(1 for _ in dataset)
        passes.append(clock.lap())
    print(f"call {made}, first batch {first}, pass of {taken} batches {median(passes)}")


class Lap(NamedTuple):
    """CPU and wall-clock seconds."""

    cpu_s: float
    wall_s: float

    def __str__(self) -> str:
        return f"{self.cpu_s:.2f} s ({self.wall_s:.2f})"


def median(laps: list[Lap]) -> Lap:
    """Of each of the two."""
    return Lap(*np.median(laps, axis=0))


class Clock:
    """CPU and wall-clock seconds from lap to lap."""

    def __init__(self) -> None:
        self._began = time.process_time(), time.monotonic()

    def lap(self) -> Lap:
        """Since the last one."""
        now = time.process_time(), time.monotonic()
        cpu, wall = (b - a for a, b in zip(self._began, now, strict=True))
        self._began = now
        return Lap(cpu, wall)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _row(name: str, data_dir: str) -> None:
    code = f"import scale; scale.{name}({data_dir!r})"
    folder = os.path.dirname(os.path.abspath(__file__))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


def main() -> None:
    """Prints a row for each size, and two for the data set given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", default="1000,100000,1000000", help="sizes, with commas")
    parser.add_argument("--data_dir", help="a data set of one's own, beside plain tf.data")
    arguments = parser.parse_args()
    for count in filter(None, arguments.records.split(",")):
        with tempfile.TemporaryDirectory() as data_dir:
            write(data_dir, int(count))
            print(f"{int(count):>9,} records: ", end="", flush=True)
            _row("measure", data_dir)
    if arguments.data_dir:
        data_dir = os.path.abspath(arguments.data_dir)
        for title, name in (("make_dataset", "measure"), ("plain tf.data", "measure_plain")):
            print(f"{title}: ", end="", flush=True)
            _row(name, data_dir)


if __name__ == "__main__":
    main()
