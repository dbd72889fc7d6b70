"""Kills builds at random moments, resumes them, and compares every byte with an unbroken build.

python tests/benchmarks/preprocess_kills.py [--corpus_dir=D] [--kills=20] [--limit=12]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def start(flags: list[str], out_dir: Path, workers: int) -> subprocess.Popen[str]:
    """Starts a build as its user does."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "preprocess.build_tfrecords", *flags),
            *(f"--out_dir={out_dir}", f"--num_workers={workers}"),
        ],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def finish(flags: list[str], out_dir: Path, workers: int) -> float:
    """Runs a build to its end; returns its seconds."""
    began_s = time.monotonic()
    process = start(flags, out_dir, workers)
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the build ended with status {process.returncode}:\n{output}")
    return time.monotonic() - began_s


def progress(out_dir: Path) -> tuple[int, int]:
    """Clips and shards that stand in a folder."""
    return len(list(out_dir.glob(".work/clips/*/*.npz"))), len(list(out_dir.glob("fold-*")))


def interrupt(flags: list[str], out_dir: Path, workers: int, rng: random.Random) -> bool:
    """Starts a build and kills it; returns false if it ended first.

    Most are killed a moment after they have finished another clip or shard, so that there is
    something to lose; the others at any moment before.
    """
    before = progress(out_dir)
    process = start(flags, out_dir, workers)
    early = rng.random() < 0.25
    deadline_s = time.monotonic() + (rng.uniform(0.1, 3.0) if early else 600.0)
    while process.poll() is None and time.monotonic() < deadline_s:
        if not early and progress(out_dir) != before:
            early = True
            deadline_s = time.monotonic() + rng.uniform(0.0, 0.5)
        time.sleep(0.005)
    if process.poll() is not None:
        process.communicate()
        return False
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return True


def digests(out_dir: Path) -> dict[str, str]:
    """SHA-256 of every file of a data set."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out_dir.iterdir())
        if path.is_file()
    }


def main() -> None:
    """Runs the campaign; ends with status 1 if a byte differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus_dir", type=Path, default=Path("data/sample/corpus"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--limit", type=int, default=12, help="clips of each corpus")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", nargs="*", default=[], help="more of the build's own")
    arguments = parser.parse_args()
    corpus = arguments.corpus_dir.resolve()
    flags = [
        *(f"--ravdess_dir={corpus / 'ravdess'}", f"--crema_d_dir={corpus / 'crema_d'}"),
        *(f"--limit={arguments.limit}", "--max_shard_size_mb=2", *arguments.flags),
    ]
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        unbroken = Path(scratch) / "unbroken"
        usual_s = finish(flags, unbroken, 2)
        wanted = digests(unbroken)
        print(f"unbroken: {usual_s:.1f} s, {len(wanted)} files", flush=True)
        for workers in arguments.workers:
            moments: list[str] = []
            builds = 0
            while len(moments) < arguments.kills:
                builds += 1
                out_dir = Path(scratch) / f"killed-{workers}-{builds}"
                while len(moments) < arguments.kills and interrupt(flags, out_dir, workers, rng):
                    moments.append("+".join(map(str, progress(out_dir))))
                finish(flags, out_dir, workers)
                found = digests(out_dir)
                for name in sorted(wanted.keys() | found.keys()):
                    if wanted.get(name) != found.get(name):
                        sys.exit(f"{name} differs: {wanted.get(name)}, now {found.get(name)}")
            print(
                f"{workers} workers, {len(moments)} kills in {builds} builds, the same bytes each; "
                f"clips+shards there at each kill: {' '.join(moments)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
