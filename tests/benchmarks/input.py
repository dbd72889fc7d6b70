"""Rate of make_dataset beside what people use instead, on the same clips and the same work.

    python -m tests.benchmarks.input [--rounds=5] [--clips=600] [--peers=...] [--expressive]
    python -m tests.benchmarks.input --clips=6000 --peers=ours  # its peak memory

The work: clips of 2.2 to 4.8 s, 80 audio features at 100/s, landmarks x 3 at 30/s; every clip as
it is and one copy, altered with probability 0.8 (warp 40 %, noise 30 %, both 30 %); padded batches
of 24 float32; from files to arrays in memory. Each peer runs in a process of its own, on as many
threads or workers as there are cores; the peers take turns, a round after the other, so that what
else the machine does falls on all of them. Peers that are not installed (torch, grain) are passed
over.

`read` is plain tf.data that reads, parses and pads the same records and does nothing else. With
`--expressive` every peer takes the expressive landmarks out of the same files as it loads a clip.
`train_step` reads nothing: it trains the combined model on batches of ours that are kept in memory,
for what a step takes beside its input.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
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

from emotion_tfdata import keep_freed_memory

AUDIO_FEATURES, BATCH = 80, 24
CORES = os.cpu_count() or 1
NEEDS = {"torch": "torch", "grain": "grain"}
EPOCHS = 3  # the first is a warm-up, the fastest of the others counts

Epoch = Callable[[int], Iterator[Any]]


@dataclasses.dataclass(frozen=True)
class Work:
    """What all peers are given.

    Attributes:
      folder: of the clips.
      clips: how many.
      expressive: whether only the expressive landmarks are wanted.
    """

    folder: str
    clips: int
    expressive: bool = False

    @functools.cached_property
    def columns(self) -> np.ndarray | None:
        """Of a frame's flat landmarks, those that are wanted; None: all."""
        if not self.expressive:
            return None
        from emotion_tfdata.dataset import landmark_sets

        points = np.array(landmark_sets.EXPRESSIVE)
        return (3 * points[:, None] + np.arange(3)).ravel()

    def load(self, clip: int) -> tuple[np.ndarray, np.ndarray]:
        """A clip from .npy files: audio float32, landmarks float16 as others keep them."""
        audio = np.load(f"{self.folder}/audio-{clip}.npy")
        landmarks = np.load(f"{self.folder}/landmarks-{clip}.npy")
        if self.columns is not None:
            landmarks = landmarks[:, self.columns]
        return audio, landmarks.astype(np.float32)


# --- the work, in numpy, for the peers that do it clip by clip ---------------------------------


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


# --- the peers: each takes the work, and returns epoch -> batches ------------


def generator(work: Work) -> Epoch:
    """The source document's own generator, its data in memory."""
    data = []
    for clip in range(work.clips):
        audio, landmarks = work.load(clip)
        data.append((audio.astype(np.float64), landmarks.astype(np.float64)))

    def epoch(number: int) -> Iterator[Any]:
        import tensorflow as tf

        rng = np.random.default_rng(number)
        order = rng.permutation(2 * work.clips)
        for start in range(0, 2 * work.clips, BATCH):
            batch = []
            for entry in order[start : start + BATCH]:
                clip, copy = divmod(int(entry), 2)
                audio, landmarks = (x.copy() for x in data[clip])
                if copy:
                    audio, landmarks = alter(audio, landmarks, rng, warp_by_column)
                batch.append((audio, landmarks))
            yield tuple(tf.convert_to_tensor(pad(list(x))) for x in zip(*batch, strict=True))

    return epoch


def torch(work: Work) -> Epoch:
    """PyTorch's DataLoader, a worker process a core."""
    import torch as torch_lib

    class Clips:
        def __len__(self) -> int:
            return 2 * work.clips

        def __getitem__(self, entry: int) -> tuple[np.ndarray, np.ndarray]:
            clip, copy = divmod(entry, 2)
            pair = work.load(clip)
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


def grain(work: Work) -> Epoch:
    """Grain, on threads."""
    import grain.python as grain_lib

    class Source:
        def __len__(self) -> int:
            return 2 * work.clips

        def __getitem__(self, entry: int) -> tuple[np.ndarray, np.ndarray, int]:
            clip, copy = divmod(int(entry), 2)
            return (*work.load(clip), copy)

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


def tf_data(work: Work) -> Epoch:
    """tf.data as its guide shows it: floats in the records, a map a clip, padded_batch."""
    import tensorflow as tf

    path = f"{work.folder}/plain.tfrecord"
    width = np.load(f"{work.folder}/landmarks-0.npy").shape[1]
    whole = dataclasses.replace(work, expressive=False)
    if not os.path.exists(path):
        with tf.io.TFRecordWriter(path) as writer:
            for clip in range(work.clips):
                feature = {
                    name: tf.train.Feature(float_list=tf.train.FloatList(value=x.ravel()))
                    for name, x in zip("al", whole.load(clip), strict=True)
                }
                features = tf.train.Features(feature=feature)
                writer.write(tf.train.Example(features=features).SerializeToString())

    def parse(serialized: Any) -> Any:
        spec = {name: tf.io.VarLenFeature(tf.float32) for name in "al"}
        parsed = tf.io.parse_single_example(serialized, spec)
        audio = tf.reshape(tf.sparse.to_dense(parsed["a"]), [-1, AUDIO_FEATURES])
        return audio, _chosen(work, tf.reshape(tf.sparse.to_dense(parsed["l"]), [-1, width]))

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


def read(work: Work) -> Epoch:
    """Reading, parsing and padding our records twice over, in the files' order."""
    import tensorflow as tf

    from emotion_tfdata.dataset.manifest import Manifest

    manifest = Manifest.load(f"{work.folder}/data")
    paths = [f"{work.folder}/data/{shard.name}" for shard in manifest.shards]
    width = 3 * manifest.num_landmarks
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("audio", "landmarks")}

    def parse(serialized: Any) -> Any:
        parsed = tf.io.parse_single_example(serialized, spec)
        audio = tf.io.decode_raw(parsed["audio"], tf.int16)
        landmarks = tf.io.decode_raw(parsed["landmarks"], tf.int16)
        audio = tf.cast(tf.reshape(audio, [-1, AUDIO_FEATURES]), tf.float32)
        landmarks = _chosen(work, tf.reshape(landmarks, [-1, width]))
        return audio, tf.cast(landmarks, tf.float32)

    auto = tf.data.AUTOTUNE
    twice = tf.data.TFRecordDataset(paths).repeat(2).map(parse, num_parallel_calls=auto)
    batches = twice.padded_batch(BATCH, ([None, AUDIO_FEATURES], [None, width])).prefetch(auto)
    return lambda number: iter(batches)


def _chosen(work: Work, landmarks: Any) -> Any:
    import tensorflow as tf

    return landmarks if work.columns is None else tf.gather(landmarks, work.columns, axis=1)


def _ours(work: Work, **options: Any) -> Epoch:
    from emotion_tfdata import Augment, Features, Reading, make_dataset

    features = Features(landmarks="expressive" if work.expressive else "all")
    whole = functools.partial(
        make_dataset,
        f"{work.folder}/data",
        "all",
        augment=Augment(),
        features=features,
        reading=Reading(**options),
    )
    iterator = iter(whole(shuffle=True, num_epochs=None))
    count = int(whole().cardinality())

    def epoch(number: int) -> Iterator[Any]:
        for _ in range(count):
            features, _ = next(iterator)
            yield tuple(x for name, x in features.items() if not name.endswith("mask"))

    return epoch


def ours(work: Work) -> Epoch:
    return _ours(work)


def ours_one_thread(work: Work) -> Epoch:
    return _ours(work, num_threads=1)


def ours_one_core(work: Work) -> Epoch:
    """One thread, and the threads that TensorFlow has besides, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return _ours(work, num_threads=1)


def ours_cache(work: Work) -> Epoch:
    return _ours(work, cache=True)


def train_step(work: Work) -> Epoch:
    """No input at all: the step of train.py on batches that are in memory already."""
    from emotion_tfdata import Augment, Features, make_dataset
    from emotion_tfdata.models import ModelConfig
    from emotion_tfdata.training import threads
    from emotion_tfdata.training.learner import Learner
    from emotion_tfdata.training.settings import Settings

    threads.choose(0, 0, 0)  # as train.py does
    features = Features(landmarks="expressive" if work.expressive else "all")
    dataset = make_dataset(f"{work.folder}/data", "train", augment=Augment(), features=features)
    count = int(dataset.cardinality())
    kept = list(dataset.take(count - 1).shard(2, 0))  # whole ones, of every bucket
    width = kept[0][0]["landmarks"].shape[2]
    model = ModelConfig(num_landmarks=width, num_audio_features=AUDIO_FEATURES)
    learner = Learner(Settings("tcn", model), np.ones(6, np.float32))

    def epoch(number: int) -> Iterator[Any]:
        for features, label in kept:
            learner.train(features, label)
            yield (features["audio"],)

    return epoch


PEERS: dict[str, Callable[[Work], Epoch]] = {
    peer.__name__: peer
    for peer in (
        *(generator, torch, grain, tf_data, read),
        *(ours, ours_one_thread, ours_one_core, ours_cache, train_step),
    )
}


# --- measuring --------------------------------------------------------------------------------


def make_clips(folder: str, clips: int, landmarks: int, for_peers: bool) -> None:
    """The same clips as a data set and, for the peers, as .npy files."""
    from emotion_tfdata import testing

    examples = testing.fake_examples(
        num_actors=clips // 20,
        clips_per_actor=20,
        duration_s=(2.2, 4.8),
        num_audio_features=AUDIO_FEATURES,
        num_landmarks=landmarks,
    )
    testing.write_data_set(f"{folder}/data", examples)
    for clip, example in enumerate(examples if for_peers else ()):
        np.save(f"{folder}/audio-{clip}.npy", example.audio.astype(np.float32))
        flat = example.landmarks.reshape(len(example.landmarks), -1)
        np.save(f"{folder}/landmarks-{clip}.npy", flat.astype(np.float16))


def measure(peer: str, work: Work) -> dict[str, float]:
    """One process's figures: examples/s, CPU time an example, largest memory."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

    def cpu_s() -> float:
        return sum(sum(resource.getrusage(w)[:2]) for w in who)

    keep_freed_memory()  # as train.py has it; the peers are helped by it as well
    epoch = PEERS[peer](work)
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
    parser.add_argument("--expressive", action="store_true", help="the expressive landmarks alone")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--folder", help="where the clips are made; kept if given")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        print(json.dumps(measure(flags.measure, Work(flags.folder, flags.clips, flags.expressive))))
        return
    folder = flags.folder or tempfile.mkdtemp()
    if not Path(folder, "data", "manifest.json").exists():
        Path(folder).mkdir(parents=True, exist_ok=True)
        peers = not all(peer.startswith(("ours", "read")) for peer in flags.peers.split(","))
        make_clips(folder, flags.clips, flags.landmarks, peers)
    figures: dict[str, list[dict[str, float]]] = {}
    for number in range(flags.rounds):
        for peer in flags.peers.split(","):
            if peer in NEEDS and not importlib.util.find_spec(NEEDS[peer]):
                continue
            command = [sys.executable, "-m", "tests.benchmarks.input", f"--measure={peer}"]
            command += [f"--folder={folder}", f"--clips={flags.clips}"]
            command += ["--expressive"] * flags.expressive
            for _ in range(3):  # numpy's reader of .npy heads now and then fails in grain's threads
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if not done.returncode:
                    break
                print(f"{peer} failed, once more:\n{done.stderr[-200:]}", file=sys.stderr)
            else:
                raise SystemExit(f"{peer} failed:\n{done.stderr[-2000:]}")
            figures.setdefault(peer, []).append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}: {peer} {figures[peer][-1]['rate']:.0f}/s", file=sys.stderr)
    which = "expressive" if flags.expressive else "all"
    print(f"{CORES} cores, {flags.clips} clips, {which} landmarks, {flags.rounds} rounds; medians")
    print("| peer | examples/s | of ours | CPU ms/example | peak MB | padding |")
    print("|---|---|---|---|---|---|")
    reference = statistics.median(f["rate"] for f in figures.get("ours", [{"rate": float("nan")}]))
    for peer, runs in figures.items():
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(
            f"| {peer} | {median['rate']:.0f} | {median['rate'] / reference:.2f} | "
            f"{median['cpu_ms']:.2f} | {median['memory_mb']:.0f} | {median['padding']:.1%} |"
        )
    for peer in ("ours", "ours_cache") if "train_step" in figures else ():
        pairs = zip(figures.get(peer, ()), figures["train_step"], strict=False)
        shares = [mine["cpu_ms"] / step["cpu_ms"] for mine, step in pairs]
        if shares:
            each = ", ".join(f"{share:.1%}" for share in shares)
            print(f"{peer}: {statistics.median(shares):.1%} of a training step's CPU ({each})")
    if not flags.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
