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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from preprocess import media
from preprocess.pool import Lost, Pool

TIMEOUT_S = 30.0
MEMORY_BYTES = 2048 * 10**6
_ATOMS = (b"moov", b"mdat", b"trak", b"mdia", b"minf", b"stbl", b"stts", b"stsz", b"stco", b"avcC")


def damage(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One kind of damage, by name."""
    data = bytearray(content)
    kind = rng.choice(["flip", "flip head", "truncate", "swap", "atoms", "zero", "insert"])
    if kind.startswith("flip"):
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
    """Reads both streams of a file; names of what came of it. Runs in a worker."""
    outcomes = []
    for name, function in (("sound", media.read_sound), ("picture", _read_pictures)):
        try:
            function(path)
            outcomes.append(f"{name}: read")
        except media.MediaError as error:
            outcomes.append(f"{name}: {error.kind}")
        except Exception as error:
            outcomes.append(f"UNTYPED {name}: {error!r}")
    return outcomes


def _read_pictures(path: Path) -> None:
    for _ in media.read_pictures(path):
        pass


def draw(folder: Path) -> list[Path]:
    """Draws a clip of each corpus and takes a wav from one."""
    import numpy as np
    from scipy.io import wavfile

    from preprocess.corpora import sample
    from preprocess.corpora.sample_write import write_clip

    specs = {spec.corpus: spec for spec in sample.plan_clips(sample.SampleSettings(1, 1))}
    for spec in specs.values():
        write_clip(spec, folder)
    paths = [folder / spec.path for spec in specs.values()]
    sound = media.read_sound(paths[0])
    wavfile.write(folder / "a.wav", sound.rate_hz, (sound.samples * 32767).astype(np.int16))
    return [*paths, folder / "a.wav"]


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
            kind, content = damage(source.read_bytes(), rng)
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
