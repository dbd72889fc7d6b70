"""Rate of make_dataset beside what people use instead, on the same clips and the same work.

    python -m tests.benchmarks.input [--rounds=5] [--clips=600] [--peers=...]

The work: clips of 2.2 to 4.8 s, 80 audio features at 100/s, landmarks x 3 at 30/s; every clip as
it is and one copy, altered with probability 0.8 (warp 40 %, noise 30 %, both 30 %); padded batches
of 24 float32; from files to arrays in memory. Each peer runs in a process of its own, on as many
threads or workers as there are cores; the peers take turns, a round after the other, so that what
else the machine does falls on all of them. Peers that are not installed (torch, grain) are passed
over.

`read` is plain tf.data that reads, parses and pads the same records and does nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

AUDIO_FEATURES, BATCH = 80, 24
CORES = os.cpu_count() or 1
NEEDS = {"torch": "torch", "grain": "grain"}
EPOCHS = 3  # the first is a warm-up, the fastest of the others counts

Epoch = Callable[[int], Iterator[Any]]


# --- the work, in numpy, for the peers that do it clip by clip ---------------------------------


def load(folder: str, clip: int) -> tuple[np.ndarray, np.ndarray]:
    """A clip from .npy files: audio float32, landmarks float16 as others keep them."""
    audio = np.load(f"{folder}/audio-{clip}.npy")
    return audio, np.load(f"{folder}/landmarks-{clip}.npy").astype(np.float32)


def warp(x: np.ndarray, stretch: float) -> np.ndarray:
    position = np.linspace(0, len(x) - 1, max(5, int(len(x) * stretch)))
    before = position.astype(int)
    after = np.minimum(before + 1, len(x) - 1)
    weight = (position - before)[:, None].astype(np.float32)
    return x[before] + weight * (x[after] - x[before])


def warp_by_column(x: np.ndarray, stretch: float) -> np.ndarray:
    """In float64 and column by column, as the source document's generator does."""
    position = np.linspace(0, len(x) - 1, max(5, int(len(x) * stretch)))
    columns = [np.interp(position, np.arange(len(x)), x[:, c]) for c in range(x.shape[1])]
    return np.stack(columns, axis=1)


def alter(
    audio: np.ndarray,
    landmarks: np.ndarray,
    rng: np.random.Generator,
    warp: Callable[[np.ndarray, float], np.ndarray] = warp,
) -> tuple[np.ndarray, np.ndarray]:
    if rng.random() >= 0.8:
        return audio, landmarks
    kind = rng.random()
    if kind < 0.4 or kind >= 0.7:
        stretch = rng.uniform(0.9, 1.1)
        audio, landmarks = warp(audio, stretch), warp(landmarks, stretch)
    if kind >= 0.4:
        level = rng.uniform(0.001, 0.01)
        ratio = landmarks.std() / audio.std()
        audio = audio + level * rng.standard_normal(audio.shape).astype(audio.dtype)
        noise = rng.standard_normal(landmarks.shape).astype(landmarks.dtype)
        landmarks = landmarks + level * ratio * noise
    return audio, landmarks


def pad(series: list[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(series), max(map(len, series)), series[0].shape[1]), np.float32)
    for row, x in zip(padded, series, strict=True):
        row[: len(x)] = x
    return padded


# --- the peers: each takes folder and number of clips, and returns epoch -> batches ------------


def generator(folder: str, clips: int) -> Epoch:
    """The source document's own generator, its data in memory."""
    data = []
    for clip in range(clips):
        audio, landmarks = load(folder, clip)
        data.append((audio.astype(np.float64), landmarks.astype(np.float64)))

    def epoch(number: int) -> Iterator[Any]:
        import tensorflow as tf

        rng = np.random.default_rng(number)
        order = rng.permutation(2 * clips)
        for start in range(0, 2 * clips, BATCH):
            batch = []
            for entry in order[start : start + BATCH]:
                clip, copy = divmod(int(entry), 2)
                audio, landmarks = (x.copy() for x in data[clip])
                if copy:
                    audio, landmarks = alter(audio, landmarks, rng, warp_by_column)
                batch.append((audio, landmarks))
            yield tuple(tf.convert_to_tensor(pad(list(x))) for x in zip(*batch, strict=True))

    return epoch


def torch(folder: str, clips: int) -> Epoch:
    """PyTorch's DataLoader, a worker process a core."""
    import torch as torch_lib

    class Clips:
        def __len__(self) -> int:
            return 2 * clips

        def __getitem__(self, entry: int) -> tuple[np.ndarray, np.ndarray]:
            clip, copy = divmod(entry, 2)
            pair = load(folder, clip)
            return alter(*pair, np.random.default_rng()) if copy else pair

    def collate(batch: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Any, ...]:
        return tuple(torch_lib.from_numpy(pad(list(x))) for x in zip(*batch, strict=True))

    loader: Any = torch_lib.utils.data.DataLoader(
        Clips(),
        BATCH,
        shuffle=True,
        num_workers=CORES,
        collate_fn=collate,
        persistent_workers=True,
        prefetch_factor=4,
    )
    return lambda number: iter(loader)


def grain(folder: str, clips: int) -> Epoch:
    """Grain, on threads."""
    import grain.python as grain_lib

    class Source:
        def __len__(self) -> int:
            return 2 * clips

        def __getitem__(self, entry: int) -> tuple[np.ndarray, np.ndarray, int]:
            clip, copy = divmod(int(entry), 2)
            return (*load(folder, clip), copy)

    class Alter(grain_lib.RandomMapTransform):
        def random_map(self, element: Any, rng: np.random.Generator) -> Any:
            audio, landmarks, copy = element
            return alter(audio, landmarks, rng) if copy else (audio, landmarks)

    def epoch(number: int) -> Iterator[Any]:
        options = grain_lib.ReadOptions(num_threads=CORES, prefetch_buffer_size=64)
        source: Any = Source()
        clips_of_epoch = grain_lib.MapDataset.source(source).seed(number).shuffle()
        batches = clips_of_epoch.random_map(Alter()).to_iter_dataset(options)
        join = lambda batch: tuple(pad(list(x)) for x in zip(*batch, strict=True))  # noqa: E731
        return iter(batches.batch(BATCH, batch_fn=join))

    return epoch


def tf_data(folder: str, clips: int) -> Epoch:
    """tf.data as its guide shows it: floats in the records, a map a clip, padded_batch."""
    import tensorflow as tf

    path, width = f"{folder}/plain.tfrecord", np.load(f"{folder}/landmarks-0.npy").shape[1]
    if not os.path.exists(path):
        with tf.io.TFRecordWriter(path) as writer:
            for clip in range(clips):
                feature = {
                    name: tf.train.Feature(float_list=tf.train.FloatList(value=x.ravel()))
                    for name, x in zip("al", load(folder, clip), strict=True)
                }
                features = tf.train.Features(feature=feature)
                writer.write(tf.train.Example(features=features).SerializeToString())

    def parse(serialized: Any) -> Any:
        spec = {name: tf.io.VarLenFeature(tf.float32) for name in "al"}
        parsed = tf.io.parse_single_example(serialized, spec)
        audio = tf.reshape(tf.sparse.to_dense(parsed["a"]), [-1, AUDIO_FEATURES])
        return audio, tf.reshape(tf.sparse.to_dense(parsed["l"]), [-1, width])

    def warp(x: Any, stretch: Any) -> Any:
        frames = tf.shape(x)[0]
        out = tf.maximum(5, tf.cast(tf.cast(frames, tf.float32) * stretch, tf.int32))
        position = tf.linspace(0.0, tf.cast(frames - 1, tf.float32), out)
        before = tf.cast(position, tf.int32)
        weight = (position - tf.cast(before, tf.float32))[:, None]
        left = tf.gather(x, before)
        return left + weight * (tf.gather(x, tf.minimum(before + 1, frames - 1)) - left)

    def alter(audio: Any, landmarks: Any) -> Any:
        kind, stretch = tf.random.uniform([]), tf.random.uniform([], 0.9, 1.1)
        level = tf.random.uniform([], 0.001, 0.01)
        audio, landmarks = tf.cond(
            (kind < 0.4) | (kind >= 0.7),
            lambda: (warp(audio, stretch), warp(landmarks, stretch)),
            lambda: (audio, landmarks),
        )
        ratio = tf.math.reduce_std(landmarks) / tf.math.reduce_std(audio)
        return tf.cond(
            kind >= 0.4,
            lambda: (
                audio + level * tf.random.normal(tf.shape(audio)),
                landmarks + level * ratio * tf.random.normal(tf.shape(landmarks)),
            ),
            lambda: (audio, landmarks),
        )

    def maybe(*pair: Any) -> Any:
        return tf.cond(tf.random.uniform([]) < 0.8, lambda: alter(*pair), lambda: pair)

    auto = tf.data.AUTOTUNE
    plain = tf.data.TFRecordDataset(path).map(parse, num_parallel_calls=auto)
    altered = plain.map(maybe, num_parallel_calls=auto)
    both = tf.data.Dataset.sample_from_datasets([plain, altered], [0.5, 0.5]).shuffle(64)
    batches = both.padded_batch(BATCH, ([None, AUDIO_FEATURES], [None, width])).prefetch(auto)
    return lambda number: iter(batches)


def read(folder: str, clips: int) -> Epoch:
    """Reading, parsing and padding our records twice over, in the files' order."""
    import tensorflow as tf

    from emotion_tfdata.manifest import Manifest

    manifest = Manifest.load(f"{folder}/data")
    paths = [f"{folder}/data/{shard.name}" for shard in manifest.shards]
    width = 3 * manifest.num_landmarks
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("audio", "landmarks")}

    def parse(serialized: Any) -> Any:
        parsed = tf.io.parse_single_example(serialized, spec)
        audio = tf.io.decode_raw(parsed["audio"], tf.int16)
        landmarks = tf.io.decode_raw(parsed["landmarks"], tf.int16)
        audio = tf.cast(tf.reshape(audio, [-1, AUDIO_FEATURES]), tf.float32)
        return audio, tf.cast(tf.reshape(landmarks, [-1, width]), tf.float32)

    auto = tf.data.AUTOTUNE
    twice = tf.data.TFRecordDataset(paths).repeat(2).map(parse, num_parallel_calls=auto)
    batches = twice.padded_batch(BATCH, ([None, AUDIO_FEATURES], [None, width])).prefetch(auto)
    return lambda number: iter(batches)


def _ours(folder: str, **options: Any) -> Epoch:
    from emotion_tfdata import Augment, make_dataset

    batches = make_dataset(
        f"{folder}/data", "all", shuffle=True, augment=Augment(), num_epochs=None, **options
    )
    iterator = iter(batches)
    count = int(make_dataset(f"{folder}/data", "all", augment=Augment()).cardinality())

    def epoch(number: int) -> Iterator[Any]:
        for _ in range(count):
            features, _ = next(iterator)
            yield tuple(x for name, x in features.items() if not name.endswith("mask"))

    return epoch


def ours(folder: str, clips: int) -> Epoch:
    return _ours(folder)


def ours_one_thread(folder: str, clips: int) -> Epoch:
    return _ours(folder, num_threads=1)


def ours_cache(folder: str, clips: int) -> Epoch:
    return _ours(folder, cache=True)


def ours_expressive(folder: str, clips: int) -> Epoch:
    return _ours(folder, landmarks="expressive")


def ours_expressive_cache(folder: str, clips: int) -> Epoch:
    return _ours(folder, landmarks="expressive", cache=True)


PEERS: dict[str, Callable[[str, int], Epoch]] = {
    peer.__name__: peer
    for peer in (
        *(generator, torch, grain, tf_data, read, ours, ours_one_thread, ours_cache),
        *(ours_expressive, ours_expressive_cache),
    )
}


# --- measuring --------------------------------------------------------------------------------


def make_clips(folder: str, clips: int, landmarks: int) -> None:
    """The same clips twice: as a data set, and as .npy files for the peers."""
    from emotion_tfdata import testing

    examples = testing.fake_examples(
        num_actors=clips // 20,
        clips_per_actor=20,
        duration_s=(2.2, 4.8),
        num_audio_features=AUDIO_FEATURES,
        num_landmarks=landmarks,
    )
    testing.write_data_set(f"{folder}/data", examples)
    for clip, example in enumerate(examples):
        np.save(f"{folder}/audio-{clip}.npy", example.audio.astype(np.float32))
        flat = example.landmarks.reshape(len(example.landmarks), -1)
        np.save(f"{folder}/landmarks-{clip}.npy", flat.astype(np.float16))


def measure(peer: str, folder: str, clips: int) -> dict[str, float]:
    """One process's figures: examples/s, CPU time an example, largest memory."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

    def cpu_s() -> float:
        return sum(sum(resource.getrusage(w)[:2]) for w in who)

    epoch = PEERS[peer](folder, clips)
    best, cpu_ms = 0.0, 0.0
    frames = padded = 0
    for number in range(EPOCHS):
        start, cpu, examples = time.perf_counter(), cpu_s(), 0
        for batch in epoch(number):
            examples += len(batch[0])
        rate = examples / (time.perf_counter() - start)
        if number and rate > best:
            best, cpu_ms = rate, (cpu_s() - cpu) / examples * 1e3
    for batch in epoch(EPOCHS):
        audio = np.asarray(batch[0])  # landmarks have rows of zeros that are no padding
        frames += audio.shape[0] * audio.shape[1]
        padded += int((~audio.any(axis=-1)).sum())
    # The kernel's own maximum begins with that of the process this one was forked from.
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    memory_mb = (peak_kb + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
    return {"rate": best, "cpu_ms": cpu_ms, "memory_mb": memory_mb, "padding": padded / frames}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--landmarks", type=int, default=478)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--folder", help="where the clips are made; kept if given")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        print(json.dumps(measure(flags.measure, flags.folder, flags.clips)))
        return
    folder = flags.folder or tempfile.mkdtemp()
    if not Path(folder, "data", "manifest.json").exists():
        Path(folder).mkdir(parents=True, exist_ok=True)
        make_clips(folder, flags.clips, flags.landmarks)
    figures: dict[str, list[dict[str, float]]] = {}
    for number in range(flags.rounds):
        for peer in flags.peers.split(","):
            if peer in NEEDS and not importlib.util.find_spec(NEEDS[peer]):
                continue
            command = [sys.executable, "-m", "tests.benchmarks.input", f"--measure={peer}"]
            command += [f"--folder={folder}", f"--clips={flags.clips}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{peer} failed:\n{done.stderr[-2000:]}")
            figures.setdefault(peer, []).append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}: {peer} {figures[peer][-1]['rate']:.0f}/s", file=sys.stderr)
    print(f"{CORES} cores, {flags.clips} clips, {flags.rounds} rounds; medians")
    print("| peer | examples/s | of ours | CPU ms/example | peak MB | padding |")
    print("|---|---|---|---|---|---|")
    reference = statistics.median(f["rate"] for f in figures.get("ours", [{"rate": float("nan")}]))
    for peer, runs in figures.items():
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(
            f"| {peer} | {median['rate']:.0f} | {median['rate'] / reference:.2f} | "
            f"{median['cpu_ms']:.2f} | {median['memory_mb']:.0f} | {median['padding']:.1%} |"
        )
    if not flags.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
