"""Clips a second of a build, beside the sum of its parts and a plain sequential script.

    python tests/benchmarks/preprocess.py [--rounds=2] [--copies=52] [--results=FILE]

The clips are the real ones that are there and a drawn one, each several times over: 416 of them.
Builds with one and two workers are timed from the command's start to its end and, by the difference
to a build of each clip once, without what every build takes to start and to end. The parts and the
script, whose cost a clip does not hang on how many there are, run on every eighth copy. The parts
are measured before the build with two workers and after it, each time in two ways: on one core
while the other has nothing to do, and on two cores at once. A core may be slower while its
neighbour works, which is the machine's doing: the first way counts that against the build, the
second does not. What the whole of both corpora takes follows from the parts and the clips' seconds.
About 7 minutes a round on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before anything reads it
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

import numpy as np  # noqa: E402

from emotion_tfdata.dataset import atomic_file, schema  # noqa: E402
from emotion_tfdata.dataset.manifest import Manifest  # noqa: E402
from preprocess.builder.plan import BuildSettings, plan_build  # noqa: E402
from preprocess.builder.workspace import Workspace  # noqa: E402
from preprocess.builder.writer import ShardPlan, write_shard  # noqa: E402
from preprocess.clip import align, audio, landmarks, media  # noqa: E402
from preprocess.clip.measurements import measure  # noqa: E402
from preprocess.corpora import Clip  # noqa: E402

# Corpus -> clips of the six emotions and their seconds, both by the official wavs.
WHOLE = {"ravdess": (1248, 4659.4), "crema_d": (7442, 18924.1)}
DRAWN = "ITS"  # sentence in the drawn clips' names here
SENTENCES = ("DFA", "IEO", "IOM", "ITH", DRAWN)


class Meter:
    """Processor time beside the clock's, since other processes may want the machine too.

    Attributes:
      others: most cores that all other processes took at a time.
    """

    def __init__(self) -> None:
        self.others = 0.0

    def __call__(self, measure: Callable[[], Any]) -> tuple[Any, float]:
        """What `measure` returns, and seconds of this process and its children meanwhile."""
        began_s, own_s, all_s = self._now()
        result = measure()
        ended_s, own_end_s, all_end_s = self._now()
        cpu_s = own_end_s - own_s
        self.others = max(self.others, (all_end_s - all_s - cpu_s) / (ended_s - began_s))
        return result, cpu_s

    @staticmethod
    def _now() -> tuple[float, float, float]:
        usage = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        own_s = sum(each.ru_utime + each.ru_stime for each in usage)
        ticks = sum(map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4]))
        return time.perf_counter(), own_s, ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def one_core(index: int) -> Iterator[None]:
    """Keeps this process, all its libraries' threads among it, on one of its cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def no_chatter() -> Iterator[None]:
    """Keeps native libraries' words off the terminal."""
    before = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@no_chatter()
def parts(clips: Iterable[Clip], work_dir: Path, core: int = 0) -> dict[str, float]:
    """Seconds of each part over all clips, on one core."""
    with one_core(core):
        return _parts(clips, work_dir)


def _parts(clips: Iterable[Clip], work_dir: Path) -> dict[str, float]:
    settings = audio.AudioSettings()
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began_s

    workspace = Workspace(work_dir)
    names = []
    for clip in clips:
        assert isinstance(clip.sound, str)
        assert isinstance(clip.picture, str)
        with timed("checksum"):
            atomic_file.digest_of(Path(clip.picture))
        with timed("decode"):
            sound = media.read_sound(Path(clip.sound))
            pictures = list(media.read_pictures(Path(clip.picture)))
        with timed("FaceMesh"):
            track = landmarks.track_face((picture.time_s, picture.rgb) for picture in pictures)
            del pictures
        with timed("features"):
            samples = audio.resample(sound.samples, sound.rate_hz)
            ends = sound.start_s, sound.start_s + len(sound.samples) / sound.rate_hz
            span = align.clip_span(ends, align.picture_span(track.times_s))
            mel = audio.log_mel(align.align_sound(samples, sound.start_s, span), settings)
            points, valid = align.align_track(track, span)
            head = np.zeros((len(valid), 4), np.float32)
            points[valid], head[valid] = landmarks.to_face_frame(points[valid])
            texts = (clip.example_id, clip.corpus, clip.actor, clip.emotion, clip.intensity)
            example = schema.Example(*texts, clip.sentence, mel, points, valid, head)
            measurements = measure(example)
        with timed("write"):
            workspace.store_example(example, measurements)
        names.append(clip.example_id)
    shard = "fold-0-of-5.tfrecord-00000-of-00001"
    plan = ShardPlan(shard, 0, tuple(names), (0,) * len(names))
    modalities = BuildSettings(audio=settings).stored_modalities
    with timed("write"):
        workspace.store_shard(write_shard(work_dir, plan, workspace.load_example, modalities))
    return seconds


def parts_on_two_cores(clips: Sequence[Sequence[Clip]], work_dir: Path) -> float:
    """Seconds a clip of all parts while two processes do the same, each on a core of its own."""
    spawn = multiprocessing.get_context("spawn")
    together, results = spawn.Barrier(len(clips)), spawn.Queue()
    processes = [
        spawn.Process(
            target=_meet_for_parts, args=(own, work_dir / str(core), core, together, results)
        )
        for core, own in enumerate(clips)
    ]
    for process in processes:
        process.start()
    seconds = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return sum(seconds) / sum(map(len, clips))


def _meet_for_parts(
    clips: Sequence[Clip], work_dir: Path, core: int, together: Any, results: Any
) -> None:
    parts(clips[:1], work_dir / "first", core)  # loads libraries
    together.wait(timeout=600)
    results.put(sum(parts(clips, work_dir, core).values()))


@no_chatter()
def plain_script(clips: Iterable[Clip], path: Path) -> float:
    """Seconds of what one writes in an afternoon: cv2, FaceMesh, librosa and one TFRecordWriter."""
    import cv2
    import librosa
    import mediapipe
    import soundfile
    import tensorflow as tf

    def feature(array: np.ndarray) -> tf.train.Feature:
        return tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[np.asarray(array, np.float32).tobytes()])
        )

    began_s = time.perf_counter()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for clip in clips:
            video = cv2.VideoCapture(str(clip.picture))
            rows = []
            with mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True) as mesh:
                while True:
                    there, picture = video.read()
                    if not there:
                        break
                    faces = mesh.process(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
                    if faces.multi_face_landmarks:
                        points = faces.multi_face_landmarks[0].landmark
                        rows.append([(p.x, p.y, p.z) for p in points])
            video.release()
            with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
                # librosa reads no flv; the usual way round is a file of its sound alone.
                sound = media.read_sound(Path(clip.sound))  # type: ignore[arg-type]
                soundfile.write(wav.name, sound.samples, sound.rate_hz)
                samples, _ = librosa.load(wav.name, sr=16000)
            mel = librosa.power_to_db(
                librosa.feature.melspectrogram(
                    y=samples, sr=16000, n_fft=512, hop_length=160, n_mels=80
                )
            )
            features = {"audio": feature(mel.T), "landmarks": feature(np.array(rows))}
            record = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(record.SerializeToString())
    return time.perf_counter() - began_s


def build_seconds(roots: dict[str, Path], out_dir: Path, num_workers: int) -> float:
    """Seconds of a whole build as a user starts it, the process's own start included."""
    shutil.rmtree(out_dir, ignore_errors=True)
    flags = [f"--{corpus}_dir={root}" for corpus, root in roots.items()]
    flags += [f"--out_dir={out_dir}", f"--num_workers={num_workers}"]
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "preprocess.build_tfrecords", *flags]
    build = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if build.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{build.stdout}{build.stderr}")
    return time.perf_counter() - began_s


def gather(corpora_dir: Path, drawn_dir: Path, folder: Path, copies: int) -> dict[str, Path]:
    """Copies of the real clips and, for every seven of them, a drawn one, under names of their own.

    Returns:
      Corpus -> folder.
    """
    flv = sorted(corpora_dir.glob("crema_d/VideoFlash/*.flv"))
    mp4 = sorted(corpora_dir.glob("ravdess/Video*/*/01-*.mp4"))
    drawn = sorted(drawn_dir.glob("crema_d/VideoFlash/*.flv"))[:copies]
    for found, where in ((flv and mp4, corpora_dir), (drawn, drawn_dir)):
        if not found:
            raise SystemExit(
                f"no clips in {where}. --corpora_dir has real ones, --drawn_dir what "
                "python -m preprocess.sample_corpus draws"
            )
    roots = {"ravdess": folder / "ravdess", "crema_d": folder / "crema_d"}
    for root in roots.values():
        root.mkdir(parents=True)
    for copy in range(copies):
        for index, path in enumerate([*flv, drawn[copy % len(drawn)]]):
            shutil.copy(path, roots["crema_d"] / f"{1001 + copy}_{SENTENCES[index]}_ANG_XX.flv")
        take, actor = divmod(copy, 24)
        for index, path in enumerate(mp4):
            name = f"01-01-{3 + index:02d}-01-{take // 2 + 1:02d}-{take % 2 + 1:02d}"
            shutil.copy(path, roots["ravdess"] / f"{name}-{actor + 1:02d}.mp4")
    return roots


def origin(example_id: str) -> str:
    """`ravdess`, `crema_d` or `drawn`."""
    return "drawn" if DRAWN in example_id else example_id.split("/")[0]


def measure_round(
    folder: Path, corpora_dir: Path, drawn_dir: Path, copies: int
) -> dict[str, float]:
    """One round, each contestant once. Milliseconds a clip, unless the name says otherwise."""
    samples = [
        gather(corpora_dir, drawn_dir, folder / name, -(-copies // 16)) for name in ("a", "b")
    ]
    many = gather(corpora_dir, drawn_dir, folder / "many", copies)
    few = gather(corpora_dir, drawn_dir, folder / "few", 1)
    clips = [plan_build(roots, BuildSettings()).clips for roots in samples]
    parts(clips[0][:1], folder / "first")  # what loads libraries comes before what is timed
    meter = Meter()
    found: dict[str, float] = {}

    def add(name: str, seconds: float, count: int) -> None:
        found[name] = found.get(name, 0.0) + 1000 * seconds / count

    def add_parts(half: int) -> None:
        both_s = parts_on_two_cores(clips, folder / f"parts-{half}-both")
        add("sum of the parts, two cores busy", both_s, 2)
        for corpus in (*many, "drawn"):
            own = [clip for clip in clips[half] if origin(clip.example_id) == corpus]
            measure = functools.partial(parts, own, folder / f"parts-{half}-{corpus}")
            measured, cpu_s = meter(measure)
            add("cpu sum of the parts", cpu_s, 2 * len(clips[half]))
            for name, seconds in measured.items():
                add(name, seconds, 2 * len(clips[half]))
                add("sum of the parts", seconds, 2 * len(clips[half]))
                add(f"{corpus} sum", seconds, 2 * len(own))

    # Parts on either side of the build they are compared with: how fast the machine is changes.
    add_parts(0)
    for workers in (2, 1):
        build = f"build, {workers} workers"
        out_dir = folder / f"out{workers}"
        few_s, few_cpu_s = meter(functools.partial(build_seconds, few, out_dir, workers))
        few_count = len(Manifest.load(str(out_dir)).index)
        many_s, many_cpu_s = meter(functools.partial(build_seconds, many, out_dir, workers))
        manifest = Manifest.load(str(out_dir))
        found["clips"] = count = len(manifest.index)
        more = count - few_count
        add(f"{build}, whole", many_s, count)
        add(f"{build}, a further clip", many_s - few_s, more)
        add(f"cpu {build}, a further clip", many_cpu_s - few_cpu_s, more)
        found[f"{build}, start and end (s)"] = few_s - (many_s - few_s) * few_count / more
        if workers == 2:
            add_parts(1)
    script_s, cpu_s = meter(functools.partial(plain_script, clips[1], folder / "plain"))
    add("plain script", script_s, len(clips[1]))
    add("cpu plain script", cpu_s, len(clips[1]))
    found["others"] = meter.others
    for corpus in many:
        records = [each for each in manifest.index.records if origin(each.example_id) == corpus]
        found[f"{corpus} clip_s"] = sum(record.frames["audio"] for record in records) / 100
        found[f"{corpus} clip_s"] /= len(records)
        found[f"{corpus} bytes"] = sum(record.length + 16 for record in records) / len(records)
    return found


def report(rounds: list[dict[str, float]]) -> None:
    """Prints medians over the rounds, and what follows for the whole of both corpora."""
    median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    others = max(each["others"] for each in rounds)
    print(
        f"builds of {median['clips']:.0f} clips, medians of {len(rounds)} rounds, while other "
        f"processes took up to {others:.2f} cores; ms a clip"
    )
    for name in median:
        if not name.startswith(("ravdess", "crema_d", "drawn", "clips", "others")):
            each_round = " ".join(f"{each[name]:.1f}" for each in rounds)
            print(f"{name:40s} {median[name]:8.1f}   ({each_round})")
    for kind in ("whole", "a further clip"):
        one, two = (f"build, {workers} workers, {kind}" for workers in (1, 2))
        ratios = {
            "of cores / sum": [each["sum of the parts"] / 2 / each[two] for each in rounds],
            "of cores / sum on busy cores": [
                each["sum of the parts, two cores busy"] / 2 / each[two] for each in rounds
            ],
            "times one worker": [each[one] / each[two] for each in rounds],
            "times the plain script": [each["plain script"] / each[two] for each in rounds],
        }
        print(f"two workers, {kind}:")
        for name, values in ratios.items():
            each_round = " ".join(f"{value:.3f}" for value in values)
            print(f"  {statistics.median(values):.3f} {name} ({each_round})")
    cpu_share = median["cpu sum of the parts"] / median["cpu build, 2 workers, a further clip"]
    print(f"processor time of the parts over that of the build, two workers: {cpu_share:.3f}")
    work_s = size_gb = 0.0
    for corpus, (_, total_s) in WHOLE.items():
        times = total_s / median[f"{corpus} clip_s"]
        work_s += times * median[f"{corpus} sum"] / 1000
        size_gb += times * median[f"{corpus} bytes"] / 1e9
    count = sum(clips for clips, _ in WHOLE.values())
    reached = median["sum of the parts"] / 2 / median["build, 2 workers, a further clip"]
    print(
        f"both corpora, computed: {count} clips, {work_s / 3600:.2f} h of one core, "
        f"{size_gb:.2f} GB"
    )
    for cores in (2, 96):
        total_s = work_s / cores / reached + median["build, 2 workers, start and end (s)"]
        print(f"  {cores} cores: {total_s / 60:.1f} min, {count / total_s:.1f} clips/s")


def main() -> None:
    """Measures and prints."""
    flags = argparse.ArgumentParser(description=__doc__)
    shared = PROJECT.parent / "shared" / "corpora"
    flags.add_argument("--corpora_dir", type=Path, default=shared, help="real clips")
    flags.add_argument("--drawn_dir", type=Path, default=PROJECT / "data/sample/corpus")
    flags.add_argument("--rounds", type=int, default=2)
    flags.add_argument("--copies", type=int, default=52, help="of each clip, 2 to 91")
    flags.add_argument("--results", type=Path, help="json that earlier rounds are in, and these")
    arguments = flags.parse_args()
    rounds: list[dict[str, float]] = []
    if arguments.results and arguments.results.exists():
        rounds = json.loads(arguments.results.read_text())
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            rounds.append(
                measure_round(
                    Path(scratch), arguments.corpora_dir, arguments.drawn_dir, arguments.copies
                )
            )
        if arguments.results:
            arguments.results.write_text(json.dumps(rounds, indent=1))
    report(rounds)


if __name__ == "__main__":
    main()
