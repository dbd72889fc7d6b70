"""Steps a second of one training on 1, 2, 4, ... cores, and of as many trainings side by side.

    python -m tests.benchmarks.scaling [--steps=N]

Made-up clips of 2.5 s with the features of the default build, the combined model. Each process has
cores of its own. The best number side by side is the machine's `--jobs`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_state: dict[str, Any] = {}


def warm_up(data_dir: str) -> None:
    """Makes the training and does its first steps."""
    from emotion_tfdata.features import Features
    from emotion_tfdata.training import run, threads
    from emotion_tfdata.training.data import Data, with_ids_apart
    from emotion_tfdata.training.learner import Learner
    from emotion_tfdata.training.settings import Settings

    chosen = threads.choose(0, 0, 0)
    model = run.model_config(data_dir, Features(), {})
    settings = Settings(name="scaling", model=model, epochs=10_000)
    data = Data(data_dir, settings, chosen.input)
    _state["learner"] = Learner(settings, data.class_weights())
    _state["stream"] = with_ids_apart(data.training_batches(0, 0)[0])
    steps(8)


def steps(count: int) -> float:
    """Does so many steps; the seconds they took."""
    began_s = time.monotonic()
    for _ in range(count):
        features, labels, _ = next(_state["stream"])
        _state["learner"].train(features, labels)
    return time.monotonic() - began_s


def rate(data_dir: str, jobs: int, cores_each: int, count: int) -> float:
    """Steps/s of so many trainings together."""
    from emotion_tfdata.grid.local import Local

    with Local(jobs, jobs, cores_each) as local:
        # As many calls as processes, all begun before one ends: each process gets one.
        calls: list[tuple[Any, Any]] = [(warm_up, data_dir), (steps, count)]
        for function, argument in calls:
            futures = [local._pool.schedule(function, args=(argument,)) for _ in range(jobs)]
            concurrent.futures.wait(futures)
            seconds = [future.result() for future in futures]
    return sum(count / one for one in seconds)


def main() -> None:
    """Measures and prints the table."""
    from emotion_tfdata import testing
    from emotion_tfdata.training import threads

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    count = parser.parse_args().steps
    cores = threads.usable_cores()
    numbers = [n for n in (2**k for k in range(20)) if n < cores] + [cores]
    with tempfile.TemporaryDirectory() as data_dir:
        testing.write_data_set(
            data_dir,
            testing.fake_examples(
                clips_per_actor=24, duration_s=(2.0, 3.0), num_audio_features=80, num_landmarks=478
            ),
        )
        print("one training\ncores  steps/s")
        for number in numbers:
            print(f"{number:5}  {rate(data_dir, 1, number, count):.2f}", flush=True)
        print("side by side\n jobs  cores each  steps/s together")
        for jobs in numbers:
            together = rate(data_dir, jobs, cores // jobs, count)
            print(f"{jobs:5}  {cores // jobs:10}  {together:.2f}", flush=True)


if __name__ == "__main__":
    main()
