"""Damages real headers and containers and reads them: typed errors only, no crash, no hang.

    python tests/benchmarks/fuzz_media.py [--cases=500] [--seed=0] [FILE ...]

Each case runs in a worker of the build's own pool, with its time and memory limits, so that a crash
or a hang is seen and costs that case alone. Without files, clips are drawn.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from emotion_tfdata.dataset import schema
from preprocess.builder.pool import Lost, Pool
from preprocess.clip import face_extractors, media
from preprocess.clip.audio import AudioSettings
from preprocess.clip.example import make_example
from preprocess.corpora import Clip

TIMEOUT_S = 30.0
MEMORY_BYTES = 2048 * 10**6
_CELLS = (
    b"",
    b" nan",
    b" -inf",
    b" 1e308",
    b" -1e308",
    b" 1e-320",
    b" 0",
    b'"',
    b"\n",
    b"\0",
    b"x",
)
_ATOMS = (b"moov", b"mdat", b"trak", b"mdia", b"minf", b"stbl", b"stts", b"stsz", b"stco", b"avcC")


def damage(content: bytes, rng: random.Random, table: bool = False) -> tuple[str, bytes]:
    """One kind of damage, by name; a table (csv) has cells, other files have atoms."""
    data = bytearray(content)
    kinds = ["flip", "flip head", "truncate", "swap", "zero", "insert"]
    kind = rng.choice([*kinds, "cell", "cell"] if table else [*kinds, "atoms"])
    if kind == "cell":
        cells = content.split(b",")
        for _ in range(rng.choice([1, 5, 50])):
            cells[rng.randrange(len(cells))] = rng.choice(_CELLS)
        data = bytearray(b",".join(cells))
    elif kind.startswith("flip"):
        end = min(len(data), 600) if kind == "flip head" else len(data)
        for _ in range(rng.choice([1, 5, 50])):
            data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del data[rng.randrange(len(data)) :]
    elif kind == "swap":
        size = rng.randrange(1, max(2, len(data) // 4))
        one, other = sorted(rng.randrange(len(data) - size) for _ in range(2))
        data[one : one + size], data[other : other + size] = (
            data[other : other + size],
            data[one : one + size],
        )
        data = data[: len(content)]
    elif kind == "atoms":
        found = [name for name in _ATOMS if name in data]
        if len(found) > 1:
            first, second = rng.sample(found, 2)
            at_first, at_second = data.index(first), data.index(second)
            data[at_first : at_first + 4], data[at_second : at_second + 4] = second, first
        # And one size or count gone wild.
        at = rng.randrange(min(len(data), 2000) - 4)
        data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    elif kind == "zero":
        at, size = rng.randrange(len(data)), rng.randrange(1, 5000)
        data[at : at + size] = bytes(len(data[at : at + size]))
    else:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.randrange(1, 3000))
    return kind, bytes(data)


def read(path: Path) -> list[str]:
    """Reads a file as a build would; names of what came of it. Runs in a worker."""
    outcomes = []
    functions: list[tuple[str, Callable[[Path], Any]]]
    functions = [("sound", media.read_sound), ("picture", _read_pictures)]
    if path.suffix == ".csv":
        functions = [("tracking", _read_tracking)]
    for name, function in functions:
        try:
            function(path)
            outcomes.append(f"{name}: read")
        except media.MediaError as error:
            outcomes.append(f"{name}: {error.kind}")
        except MemoryError:  # a wild size; a build lists it as such
            outcomes.append(f"{name}: too much memory")
        except Exception as error:
            outcomes.append(f"UNTYPED {name}: {error!r}")
    return outcomes


def _read_pictures(path: Path) -> None:
    for _ in media.read_pictures(path):
        pass


def _read_tracking(path: Path) -> None:
    clip = Clip("ravdess", path.stem, "01", "happy", "normal", "01", str(path), None)
    schema.stored_arrays(make_example(clip, AudioSettings(), face=face_extractors.OPENFACE))


def write_tracking(path: Path) -> Path:
    """Writes a tracking record in OpenFace's format: a second of a face that turns."""
    import numpy as np

    rng = np.random.default_rng(0)
    face_mm = rng.uniform(-60, 60, (68, 3))
    for index, x in ((36, -45), (39, -15), (42, 15), (45, 45)):
        face_mm[index] = (x, -30, -20)
    names = ["frame", "face_id", "timestamp", "confidence", "success"]
    names += [f"gaze_{i}" for i in range(367)]
    names += [f"{axis}_{i}" for axis in "xyXYZ" for i in range(68)]
    rows = [", ".join(names)]
    for frame in range(30):
        angle = 0.3 * np.sin(frame / 5)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, 1]])
        space = face_mm @ turn.T + [20, -10, 600]
        flat = 1400 * space[:, :2] / space[:, 2:] + [640, 360]
        values = [frame + 1, 0, frame / 29.97, 0.98, 1, *[0] * 367, *flat.T.flat, *space.T.flat]
        rows.append(", ".join(f"{value:.4f}" for value in values))
    path.write_text("\n".join(rows) + "\n")
    return path


def draw(folder: Path) -> list[Path]:
    """Draws a clip of each corpus, takes a wav from one, and adds a tracking record."""
    import numpy as np
    from scipy.io import wavfile

    from preprocess.drawn import sample
    from preprocess.drawn.sample_write import write_clip

    specs = {spec.corpus: spec for spec in sample.plan_clips(sample.SampleSettings(1, 1))}
    for spec in specs.values():
        write_clip(spec, folder)
    paths = [folder / spec.path for spec in specs.values()]
    sound = media.read_sound(paths[0])
    wavfile.write(folder / "a.wav", sound.rate_hz, (sound.samples * 32767).astype(np.int16))
    return [*paths, folder / "a.wav", write_tracking(folder / "a.csv")]


def main() -> None:
    """Runs all cases; ends with status 1 if one crashed, hung or raised something untyped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = arguments.files or draw(folder)
        cases = []
        kinds = {}
        for case in range(arguments.cases):
            source = sources[case % len(sources)]
            kind, content = damage(source.read_bytes(), rng, table=source.suffix == ".csv")
            path = folder / f"case-{case}{source.suffix}"
            path.write_bytes(content)
            kinds[path] = kind
            cases.append(path)
        counts: Counter[str] = Counter()
        bad = []
        with Pool(read, 2, folder, TIMEOUT_S, MEMORY_BYTES) as pool:
            for path, result in pool.run(cases):
                outcomes = [f"LOST {result.reason}"] if isinstance(result, Lost) else result
                counts.update(outcomes)
                bad += [
                    f"{path.name} ({kinds[path]}): {outcome}"
                    for outcome in outcomes
                    if outcome.startswith(("UNTYPED", "LOST"))
                ]
    print(f"{arguments.cases} cases, seed {arguments.seed}, {time.monotonic() - began_s:.0f} s")
    print(", ".join(f"{kind} {count}" for kind, count in Counter(kinds.values()).items()))
    for outcome, count in counts.most_common():
        print(f"{count:6d} {outcome}")
    for line in bad:
        print(line)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
