"""Several processes train the combined model by Ray Train, one of them killed; and one alone.

    python tests/benchmarks/workers.py [--workers=2] [--epochs=3] [TRAIN_FLAGS ...]

On made-up clips, at the learning rate of `tcn.flags`, in float64: in float32 rounding alone leads
two such trainings apart within a few steps, one process with another number of threads too. Ends
with status 1 if any figure of `history.json` differs by more than 1e-6.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PROJECT_DIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT_DIR))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def figures(model_dir: Path) -> dict[str, float]:
    """Loss and accuracy of each epoch."""
    history = json.loads((model_dir / "history.json").read_text())
    return {
        f"epoch {entry['epoch']}, {part} {name}": entry[part][name]
        for entry in history
        for part in ("train", "selection")
        for name in ("loss", "accuracy")
    }


def main() -> None:
    from emotion_tfdata import testing

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="a divisor of 24")
    parser.add_argument("--epochs", type=int, default=3, help="of six steps each")
    options, further = parser.parse_known_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data_dir = str(folder / "data")
        testing.write_data_set(data_dir, testing.fake_examples(num_actors=10, clips_per_actor=12))

        def start(name: str, *flags: str) -> subprocess.Popen[bytes]:
            command = [
                *(sys.executable, str(PROJECT_DIR / "train.py"), f"--data_dir={data_dir}"),
                *(f"--flagfile={PROJECT_DIR / 'tcn.flags'}", "--landmarks=all"),
                *("--precision=float64", "--early_stopping=0", "--checkpoint_every_s=0.1"),
                *(f"--epochs={options.epochs}", f"--model_dir={folder / name}"),
                *(*flags, *further),
            ]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(process.kill)
            return process

        if start("one").wait():
            sys.exit("the training by one process failed")
        flags = "--runner=ray", "--ray_address=local", f"--workers={options.workers}"
        together = start("several", *flags)
        while not (folder / "several" / "checkpoint.npz").exists():
            if together.poll() is not None:
                sys.exit("the training ended before the first checkpoint")
            time.sleep(0.02)
        children = psutil.Process(together.pid).children(recursive=True)
        workers = [one for one in children if one.cmdline()[:1] == ["ray::RayTrainWorker"]]
        workers[-1].kill()
        if together.wait():
            sys.exit("the training by several processes failed")
        one, several = figures(folder / "one"), figures(folder / "several")
        apart = max(abs(one[name] - several[name]) for name in one)
        print(f"{options.workers} workers, one killed: {len(one)} figures, {apart:.1e} apart")
        sys.exit(0 if one.keys() == several.keys() and apart <= 1e-6 else 1)


if __name__ == "__main__":
    main()
