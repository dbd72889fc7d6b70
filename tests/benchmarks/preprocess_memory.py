"""Peak memory of a build's parent process, for few clips and for many.

Beside it that of the process that lists the clips and draws the report.

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


def peaks_kb(corpus_dir: Path, out_dir: Path) -> tuple[int, int]:
    """Builds; returns the most memory that the parent had resident, and its first child."""
    command = [sys.executable, "-m", "preprocess.build_tfrecords", f"--crema_d_dir={corpus_dir}"]
    command += [f"--out_dir={out_dir}", "--modalities=audio", "--checksums=off"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    parent = clerk = 0
    while process.poll() is None:
        parent = max(parent, peak_kb(process.pid))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        # Python has a process of its own that cleans up after such children.
        spawned = [int(pid) for pid in children if "spawn_main" in command_line(pid)]
        if spawned:
            clerk = max(clerk, peak_kb(min(spawned)))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the build ended with status {process.returncode}")
    return parent, clerk


def peak_kb(pid: int) -> int:
    """Most memory that a process had resident; 0 of one that has just ended."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if "VmHWM:" in status:
            return int(status.split("VmHWM:")[1].split()[0])
    return 0


def command_line(pid: str) -> str:
    """What a process was started with; nothing of one that has just ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", default="200,2000,8690", help="numbers of clips, up to 13104")
    flags = parser.parse_args()
    found: list[tuple[int, tuple[int, int]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for clips in map(int, flags.clips.split(",")):
            draw(Path(folder, f"clips-{clips}", "AudioWAV"), clips)
            peaks = peaks_kb(Path(folder, f"clips-{clips}"), Path(folder, f"out-{clips}"))
            found.append((clips, peaks))
            parent_mb, clerk_mb = (peak / 1e3 for peak in peaks)
            print(f"{clips} clips: parent {parent_mb:.1f} MB, list {clerk_mb:.1f} MB", flush=True)
    few, low = found[0]
    for many, high in found[1:]:
        for name, less, more in zip(("parent", "list"), low, high, strict=True):
            grown = (more - less) / (many - few)
            print(f"{few} to {many} clips, {name}: {grown:.2f} kB a clip, {more / less - 1:.1%}")


if __name__ == "__main__":
    main()
