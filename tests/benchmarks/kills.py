"""Kills a training at random moments and compares where it ends with an unbroken one.

    python tests/benchmarks/kills.py [--kills=10] [--epochs=60] [TRAIN_FLAGS ...]

Trains on made-up clips; further flags go to train.py. Each attempt is killed with SIGKILL at a
random moment after it has written a checkpoint of its own, and the same command is run again. Ends
with status 1 unless every array of the last checkpoint is equal to the bit.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROJECT_DIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT_DIR))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def attempt(command: list[str], checkpoint: Path, rng: random.Random) -> bool:
    """Runs until a random moment after its first checkpoint; true if it had ended by itself."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
            time.sleep(rng.uniform(0, 1))
            process.kill()
            break
        time.sleep(0.02)
    status = process.wait()
    if status not in (0, -9):
        sys.exit(f"the training ended with status {status}: {' '.join(command)}")
    return status == 0


def main() -> None:
    from emotion_tfdata import testing

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options, further = parser.parse_known_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = os.path.join(folder, "data")
        testing.write_data_set(data_dir, testing.fake_examples(num_actors=10, clips_per_actor=12))

        def command(name: str) -> list[str]:
            return [
                *(sys.executable, str(PROJECT_DIR / "train.py"), f"--data_dir={data_dir}"),
                *("--landmarks=all", "--early_stopping=0", "--checkpoint_every_s=0.05"),
                *(f"--epochs={options.epochs}", f"--model_dir={folder}/{name}", *further),
            ]

        subprocess.run(command("whole"), check=True, stdout=subprocess.DEVNULL)
        killed = 0
        while killed < options.kills:
            if attempt(command("killed"), Path(folder, "killed", "checkpoint.npz"), rng):
                sys.exit(f"it ended after {killed} kills: give it more --epochs")
            killed += 1
            print(f"killed {killed} times", flush=True)
        subprocess.run(command("killed"), check=True, stdout=subprocess.DEVNULL)
        whole, broken = (
            dict(np.load(Path(folder, name, "checkpoint.npz"))) for name in ("whole", "killed")
        )
        for one in (whole, broken):
            one.pop("state.json")  # has seconds in it
        different = [
            name
            for name in whole.keys() | broken.keys()
            if name not in whole
            or name not in broken
            or whole[name].tobytes() != broken[name].tobytes()
        ]
        print(f"{len(whole)} arrays, {len(different)} different after {killed} kills")
        sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
