"""Peak memory of a build's parent process, for few clips and for many.

    python tests/benchmarks/preprocess_memory.py [--clips=200,2000,8690]

The clips are short drawn wavs under CREMA-D's names, built with `--modalities=audio`: what is held
of a clip outside the workers does not hang on its length.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[2]
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
LEVELS = ("XX", "LO")


def draw(folder: Path, clips: int) -> None:
    """Writes so many wavs of 0.6 s at 16 kHz."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = itertools.product(range(1001, 1092), SENTENCES, EMOTIONS, LEVELS)
    for actor, sentence, emotion, level in itertools.islice(names, clips):
        with wave.open(str(folder / f"{actor}_{sentence}_{emotion}_{level}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(rng.normal(0, 3000, 9600).astype(np.int16).tobytes())


def build_peak_kb(corpus_dir: Path, out_dir: Path) -> int:
    """Builds; returns the most memory that the parent had resident."""
    command = [sys.executable, "-m", "preprocess.build_tfrecords", f"--crema_d_dir={corpus_dir}"]
    command += [f"--out_dir={out_dir}", "--modalities=audio", "--checksums=off"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    parent = 0
    while process.poll() is None:
        parent = max(parent, peak_kb(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the build ended with status {process.returncode}")
    return parent


def peak_kb(pid: int) -> int:
    """Most memory that a process had resident; 0 of one that has just ended."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if "VmHWM:" in status:
            return int(status.split("VmHWM:")[1].split()[0])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", default="200,2000,8690", help="numbers of clips, up to 13104")
    flags = parser.parse_args()
    found: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        for clips in map(int, flags.clips.split(",")):
            draw(Path(folder, f"clips-{clips}", "AudioWAV"), clips)
            peak = build_peak_kb(Path(folder, f"clips-{clips}"), Path(folder, f"out-{clips}"))
            found.append((clips, peak))
            print(f"{clips} clips: {peak / 1e3:.1f} MB", flush=True)
    few, low = found[0]
    for many, high in found[1:]:
        print(f"{few} to {many} clips: {(high - low) / (many - few):.2f} kB a clip")


if __name__ == "__main__":
    main()
