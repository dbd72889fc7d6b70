"""Training rate of the combined model beside two peers that pad each batch to its longest clip.

    python -m tests.benchmarks.train [--landmarks=478] [--lengths=own] [--rounds=3]

Every peer trains on the same drawn clips in the same batches of 24, in a process of its own, in
turns, so that what else the machine does falls on all of them. Ours is the step of train.py, its
looking for NaN included, with the threads that train.py chooses. The peers are the model as its
source document writes it in plain Keras (graph mode, and under XLA where all shapes are equal) and
in PyTorch eager, if the interpreter given by --torch_python has it. Lengths are drawn like those of
RAVDESS (2.9 to 5.3 s) and CREMA-D (1.3 to 5 s), half each, or are all 3.5 s (`--lengths=equal`);
`sorted` groups clips of like length, as a bucketed pipeline does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

BATCH, AUDIO_FEATURES, CLASSES, BATCHES = 24, 80, 6, 8
FILTERS, L2 = 128, 0.001

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def draw_batches(lengths: str, landmarks: int) -> list[Batch]:
    """Batches of audio, its lengths, landmarks, their lengths, labels; padded with zeros."""
    rng = np.random.default_rng(0)
    clips = BATCH * BATCHES
    ravdess = np.clip(rng.normal(3.7, 0.35, clips), 2.9, 5.3)
    crema_d = np.clip(rng.normal(2.54, 0.5, clips), 1.3, 5.0)
    seconds = np.where(rng.random(clips) < 0.5, ravdess, crema_d)
    if lengths == "equal":
        seconds[:] = 3.5
    elif lengths == "sorted":
        seconds = np.sort(seconds)
    batches = []
    for part in np.split(seconds, BATCHES):
        frames = [np.round(part * rate).astype(np.int32) for rate in (100, 30)]
        features = []
        for count, width in zip(frames, (AUDIO_FEATURES, 3 * landmarks), strict=True):
            x = rng.standard_normal((BATCH, count.max(), width), dtype=np.float32)
            x[np.arange(count.max()) >= count[:, None]] = 0
            features.append(x)
        label = rng.integers(0, CLASSES, BATCH).astype(np.int32)
        batches.append((features[0], frames[0], features[1], frames[1], label))
    return batches


def ours(batches: list[Batch], landmarks: int) -> Callable[[int], object]:
    import tensorflow as tf

    from emotion_tfdata.models import ModelConfig
    from emotion_tfdata.training import threads
    from emotion_tfdata.training.learner import Learner
    from emotion_tfdata.training.settings import Settings

    threads.choose(0, 0, 0)  # as train.py does
    model = ModelConfig(num_landmarks=landmarks, num_audio_features=AUDIO_FEATURES)
    learner = Learner(Settings("tcn", model), np.ones(CLASSES, np.float32))
    inputs = []
    for audio, audio_count, video, video_count, label in batches:
        features = {
            "audio": audio,
            "audio_mask": np.arange(audio.shape[1]) < audio_count[:, None],
            "landmarks": video.reshape(*video.shape[:2], -1, 3),
            "landmarks_mask": np.arange(video.shape[1]) < video_count[:, None],
        }
        inputs.append(({k: tf.constant(v) for k, v in features.items()}, tf.constant(label)))
    return lambda i: learner.train(*inputs[i])


def plain_keras(batches: list[Batch], landmarks: int, jit: bool = False) -> Callable[[int], object]:
    import keras
    import tensorflow as tf
    from keras import layers

    penalty = keras.regularizers.L2(L2)
    audio = keras.Input((None, AUDIO_FEATURES))
    a = audio
    for filters in (64, 128):
        a = layers.Conv1D(filters, 3, padding="same", activation="relu")(a)
        a = layers.MaxPooling1D(2)(layers.BatchNormalization()(a))
    a = layers.Bidirectional(layers.LSTM(128, return_sequences=True))(a)
    a = layers.Bidirectional(layers.LSTM(64))(layers.Dropout(0.3)(a))
    a = layers.Dropout(0.4)(layers.Dense(128, "relu", kernel_regularizer=penalty)(a))
    video = keras.Input((None, 3 * landmarks))
    v = video
    for dilation in (1, 2, 4, 8):
        y = v
        for _ in range(2):
            y = layers.Conv1D(
                FILTERS,
                3,
                padding="causal",
                dilation_rate=dilation,
                activation="relu",
                kernel_regularizer=penalty,
            )(y)
            y = layers.Dropout(0.2)(layers.BatchNormalization()(y))
        if v.shape[-1] != FILTERS:
            v = layers.Conv1D(FILTERS, 1, kernel_regularizer=penalty)(v)
        v = layers.ReLU()(layers.Add()([v, y]))
    v = layers.GlobalAveragePooling1D()(v)
    v = layers.Dropout(0.4)(layers.Dense(256, "relu", kernel_regularizer=penalty)(v))
    x = layers.Concatenate()([a, v])
    for units, rate in ((256, 0.5), (128, 0.4)):
        x = layers.Dense(units, "relu", kernel_regularizer=penalty)(x)
        x = layers.Dropout(rate)(layers.BatchNormalization()(x))
    model = keras.Model([audio, video], layers.Dense(CLASSES, kernel_regularizer=penalty)(x))
    inputs = [([tf.constant(a), tf.constant(v)], tf.constant(y)) for a, _, v, _, y in batches]
    return _keras_step(model, inputs, logits=model, jit=jit)


def _keras_step(model, inputs, *, logits, jit: bool) -> Callable[[int], object]:
    import keras
    import tensorflow as tf

    optimizer = keras.optimizers.Adam(0.001)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(features, label):
        with tf.GradientTape() as tape:
            loss = loss_of(label, logits(features, training=True)) + tf.add_n(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    step = tf.function(step, jit_compile=jit, reduce_retracing=not jit)
    return lambda i: float(step(*inputs[i]))


def torch_eager(batches: list[Batch], landmarks: int) -> Callable[[int], object]:
    import torch
    from torch import nn

    torch.set_num_threads(os.cpu_count() or 1)

    class Block(nn.Module):
        def __init__(self, width: int, dilation: int) -> None:
            super().__init__()
            self.pad = (2 * dilation, 0)
            widths = (width, FILTERS)
            self.convs = nn.ModuleList(nn.Conv1d(w, FILTERS, 3, dilation=dilation) for w in widths)
            self.norms = nn.ModuleList(nn.BatchNorm1d(FILTERS) for _ in widths)
            self.around = nn.Conv1d(width, FILTERS, 1) if width != FILTERS else nn.Identity()

        def forward(self, x):
            y = x
            for conv, norm in zip(self.convs, self.norms, strict=True):
                y = norm(torch.relu(conv(nn.functional.pad(y, self.pad))))
                y = nn.functional.dropout(y, 0.2)
            return torch.relu(y + self.around(x))

    class Combined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            convs: list[nn.Module] = []
            for width, filters in ((AUDIO_FEATURES, 64), (64, 128)):
                convs += [nn.Conv1d(width, filters, 3, padding=1), nn.ReLU()]
                convs += [nn.BatchNorm1d(filters), nn.MaxPool1d(2)]
            self.convs = nn.Sequential(*convs)
            self.lstm1 = nn.LSTM(128, 128, batch_first=True, bidirectional=True)
            self.lstm2 = nn.LSTM(256, 64, batch_first=True, bidirectional=True)
            self.audio = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.4))
            widths = (3 * landmarks, FILTERS, FILTERS, FILTERS)
            self.tcn = nn.Sequential(*map(Block, widths, (1, 2, 4, 8)))
            self.video = nn.Sequential(nn.Linear(FILTERS, 256), nn.ReLU(), nn.Dropout(0.4))
            joined: list[nn.Module] = []
            for width, units, rate in ((384, 256, 0.5), (256, 128, 0.4)):
                joined += [nn.Linear(width, units), nn.ReLU()]
                joined += [nn.BatchNorm1d(units), nn.Dropout(rate)]
            self.joined = nn.Sequential(*joined, nn.Linear(128, CLASSES))

        def forward(self, audio, video):
            a = self.convs(audio.transpose(1, 2)).transpose(1, 2)
            a = nn.functional.dropout(self.lstm1(a)[0], 0.3)
            a = self.lstm2(a)[0]
            a = self.audio(torch.cat([a[:, -1, :64], a[:, 0, 64:]], 1))
            v = self.video(self.tcn(video.transpose(1, 2)).mean(2))
            return self.joined(torch.cat([a, v], 1))

    model = Combined()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=L2)
    inputs = [tuple(map(torch.from_numpy, (a, v, y.astype(np.int64)))) for a, _, v, _, y in batches]

    def step(i: int) -> None:
        audio, video, label = inputs[i]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(audio, video), label)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


PEERS: dict[str, Callable[..., Callable[[int], object]]] = {
    "ours": ours,
    "keras": plain_keras,
    "keras_xla": lambda batches, landmarks: plain_keras(batches, landmarks, jit=True),
    "torch": torch_eager,
}


def measure(peer: str, lengths: str, landmarks: int, passes: int) -> dict[str, float]:
    """Milliseconds of a step, of the median and of the best pass, and CPU ms an example."""
    step = PEERS[peer](draw_batches(lengths, landmarks), landmarks)
    for i in range(BATCHES):  # tracing, and memory
        step(i)
    passes_ms, cpu = [], time.process_time()
    for _ in range(passes):
        started = time.perf_counter()
        for i in range(BATCHES):
            step(i)
        passes_ms.append((time.perf_counter() - started) / BATCHES * 1e3)
    cpu_ms = (time.process_time() - cpu) * 1e3 / (passes * BATCHES * BATCH)
    return {
        "median_ms": statistics.median(passes_ms),
        "best_ms": min(passes_ms),
        "cpu_ms_per_example": cpu_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landmarks", type=int, default=478)
    parser.add_argument("--lengths", choices=("own", "sorted", "equal"), default="own")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all peers")
    parser.add_argument("--passes", type=int, default=4, help="passes over the batches in a turn")
    parser.add_argument("--torch_python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--peers", default="", help="of ours,keras,keras_xla,torch; default: all")
    parser.add_argument("--one", choices=sorted(PEERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.lengths, args.landmarks, args.passes)))
        return
    peers = [p for p in args.peers.split(",") if p]
    if not peers:
        peers = [p for p in PEERS if p != "keras_xla" or args.lengths == "equal"]
        if subprocess.run(
            [args.torch_python, "-c", "import torch"], check=False, capture_output=True
        ).returncode:
            print(f"{args.torch_python} has no PyTorch: that peer is skipped.")
            peers.remove("torch")
    results: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    for _ in range(args.rounds):
        for peer in peers:
            python = args.torch_python if peer == "torch" else sys.executable
            command = [python, __file__, f"--one={peer}", f"--lengths={args.lengths}"]
            command += [f"--landmarks={args.landmarks}", f"--passes={args.passes}"]
            root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
            results[peer].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"batch {BATCH}, {args.landmarks} landmarks, lengths: {args.lengths}; ms a step")
    print(f"{'':10s} {'median':>8s} {'best':>8s} {'CPU/clip':>9s}   ours is faster by (each)")
    table = {
        peer: [
            statistics.median(row["median_ms"] for row in rows),
            min(row["best_ms"] for row in rows),
            statistics.median(row["cpu_ms_per_example"] for row in rows),
        ]
        for peer, rows in results.items()
    }
    for peer, (median, best, cpu) in table.items():
        line = f"{peer:10s} {median:8.1f} {best:8.1f} {cpu:9.2f}   "
        if "ours" in table and peer != "ours":
            pairs = zip(table[peer], table["ours"], strict=True)
            line += "  ".join(f"{theirs / mine:.2f}" for theirs, mine in pairs)
        print(line)


if __name__ == "__main__":
    main()
