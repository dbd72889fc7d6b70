"""The floor that a network for the voice has to beat: a support vector machine on clip statistics.

    python tests/benchmarks/svm_floor.py DATA_DIR

Each clip becomes the mean and the deviation over time of each log-mel band, standardised by the
training folds; the machine has an RBF kernel and classes weighted by their rarity. Prints the
unweighted average recall, mean and 95 % interval over the folds, with actors held out and on the
random split of clips, which is leaky, for a mild and a hard margin. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def clip_statistics(data_dir: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Reads a data set: statistics float64 `[N, 2 M]`, classes `[N]`, and folds by protocol."""
    from emotion_tfdata.dataset import schema
    from emotion_tfdata.dataset.manifest import Manifest
    from emotion_tfdata.labels import class_index

    rows, classes = [], []
    folds: dict[str, list[int]] = {"actor": [], "random": []}
    manifest = Manifest.load(data_dir)
    index = manifest.index
    for place, record in enumerate(index.records):
        label = class_index(record.emotion, 6)
        if label is None or not record.frames["audio"]:
            continue
        shard = manifest.shards[index.shards[place]].name
        with open(os.path.join(data_dir, shard), "rb") as file:
            file.seek(record.offset + 12)  # past TFRecord's length and its checksum
            audio = schema.decode(file.read(record.length), shard).audio
        rows.append(np.concatenate([audio.mean(axis=0), audio.std(axis=0)]))
        classes.append(label)
        folds["actor"].append(int(index.folds[place]))
        folds["random"].append(record.random_fold)
    return np.array(rows), np.array(classes), {name: np.array(of) for name, of in folds.items()}


def recall_by_fold(
    rows: np.ndarray, classes: np.ndarray, folds: np.ndarray, cost: float
) -> list[float]:
    """Unweighted average recall on each fold, trained on all others."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    recalls = []
    for fold in sorted(set(folds)):
        held_out = folds == fold
        machine = make_pipeline(StandardScaler(), SVC(C=cost, class_weight="balanced"))
        machine.fit(rows[~held_out], classes[~held_out])
        predicted = machine.predict(rows[held_out])
        recalls.append(float(balanced_accuracy_score(classes[held_out], predicted)))
    return recalls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", help="a data set with sound")
    rows, classes, folds = clip_statistics(parser.parse_args().data_dir)
    print(f"{len(rows)} clips, {rows.shape[1]} statistics each")

    from emotion_tfdata.training.metrics import mean_interval

    for protocol, meaning in (("actor", "actors held out"), ("random", "leaky: random split")):
        for cost in (1.0, 10.0):
            over = mean_interval(recall_by_fold(rows, classes, folds[protocol], cost))
            print(
                f"{protocol} ({meaning}), C = {cost:g}: UAR {over.mean:.3f} +- "
                f"{over.half_width:.3f} (95 % over {over.count} folds), "
                f"deviation {over.deviation:.3f}"
            )


if __name__ == "__main__":
    main()
