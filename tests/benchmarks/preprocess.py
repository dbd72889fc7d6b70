"""Clips a second of a build, beside the sum of its parts and a plain sequential script.

    python tests/benchmarks/preprocess.py [--corpus_dir=D] [--repeats=3] [--copies=4]

D holds `crema_d` and `ravdess`, as drawn by `preprocess.sample_corpus` or real. The parts are timed
one after the other on one core; builds with one and two workers, from start to end and, by the
difference to a build of a quarter of the clips, without what every build takes to start and to end
once. The ratios are of the latter. What the whole of both corpora takes follows from the parts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before anything reads it
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

from emotion_tfdata import schema  # noqa: E402
from preprocess import align, audio, checksums, landmarks, media  # noqa: E402
from preprocess.corpora import Clip  # noqa: E402
from preprocess.facts import measure  # noqa: E402
from preprocess.plan import BuildSettings, plan_build  # noqa: E402
from preprocess.workspace import Workspace  # noqa: E402
from preprocess.writer import ShardPlan, write_shard  # noqa: E402

WHOLE_CLIPS = 8690


def parts(clips: Iterable[Clip], work_dir: Path) -> dict[str, float]:
    """Seconds of each part over all clips, on one core, nothing beside it."""
    settings = audio.AudioSettings()
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began_s

    workspace = Workspace(work_dir)
    stored = {}
    for clip in clips:
        assert clip.sound is not None
        assert clip.picture is not None
        with timed("checksum"):
            checksums.sha256_of(clip.picture)
        with timed("decode"):
            sound = media.read_sound(clip.sound)
            pictures = list(media.read_pictures(clip.picture))
        with timed("FaceMesh"):
            track = landmarks.track_face((picture.time_s, picture.rgb) for picture in pictures)
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
            facts = measure(example)
        with timed("write"):
            workspace.store_example(example, facts)
        stored[clip.example_id] = clip
    plan = ShardPlan("fold-0-of-5.tfrecord-00000-of-00001", 0, tuple(stored))
    with timed("write"):
        write_shard(
            work_dir,
            plan,
            lambda name: workspace.load_example(stored[name]),
            dict.fromkeys(stored, 0),
            ("audio", "landmarks"),
        )
    return seconds


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
                sound = media.read_sound(clip.sound)  # type: ignore[arg-type]
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
    """Seconds of a whole build in a process of its own, as a user starts it."""
    shutil.rmtree(out_dir, ignore_errors=True)
    code = (
        "import sys, time; from pathlib import Path; from preprocess.build import build;"
        "from preprocess.plan import BuildSettings\n"
        "if __name__ == '__main__':\n"
        f"  report = build({{k: Path(v) for k, v in { ({k: str(v) for k, v in roots.items()})!r}"
        f".items()}}, Path({str(out_dir)!r}), BuildSettings(), num_workers={num_workers})\n"
        "  print(report.seconds)\n"
    )
    script = out_dir.with_suffix(".py")
    script.write_text(code)
    project = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures and prints."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--corpus_dir", type=Path, default=Path("data/sample/corpus"))
    flags.add_argument("--repeats", type=int, default=3)
    flags.add_argument("--limit", type=int, default=24, help="clips of each corpus")
    arguments = flags.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # Copies of the clips, so that a build sees a corpus of this many and no more.
        settings = BuildSettings(limit=arguments.limit)
        found = {name: arguments.corpus_dir / name for name in ("ravdess", "crema_d")}
        roots = {}
        for clip in plan_build(found, settings).clips:
            roots[clip.corpus] = folder / "corpus" / clip.corpus
            for path in clip.files:
                target = roots[clip.corpus] / path.relative_to(found[clip.corpus])
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        clips = plan_build(roots, BuildSettings()).clips
        some = folder / "some"
        few = {}
        for clip in clips[::4]:
            few[clip.corpus] = some / clip.corpus
            for path in clip.files:
                few[clip.corpus].mkdir(parents=True, exist_ok=True)
                shutil.copy(path, few[clip.corpus] / path.name)
        # What loads libraries comes before what is timed.
        parts(clips[:1], folder / "first")
        checksums.official_files("crema_d")
        print(f"{len(clips)} clips of {arguments.corpus_dir}, medians of {arguments.repeats}")
        rows: dict[str, list[float]] = {}
        for repeat in range(arguments.repeats):
            found_s = parts(clips, folder / f"parts{repeat}")
            for name, seconds in found_s.items():
                rows.setdefault(name, []).append(seconds)
            rows.setdefault("sum", []).append(sum(found_s.values()))
            rows.setdefault("plain script", []).append(plain_script(clips, folder / "plain"))
            share_of_more = 1 - len(clips[::4]) / len(clips)
            for workers in (1, 2):
                out_dir = folder / f"out{workers}"
                whole_s = build_seconds(roots, out_dir, workers)
                rows.setdefault(f"build, {workers} workers", []).append(whole_s)
                more_s = (whole_s - build_seconds(few, out_dir, workers)) / share_of_more
                rows.setdefault(f"without its start, {workers}", []).append(more_s)
            one_s, two_s = (rows[f"without its start, {workers}"][-1] for workers in (1, 2))
            rows.setdefault("two over one", []).append(one_s / two_s)
            rows.setdefault("of cores / sum", []).append(rows["sum"][-1] / 2 / two_s)
    medians = {name: statistics.median(values) for name, values in rows.items()}
    for name, median in medians.items():
        values = " ".join(f"{value:.2f}" for value in rows[name])
        if name in ("two over one", "of cores / sum"):
            print(f"{name:22s} {median:8.2f}      ({values})")
        else:
            per_clip = median / len(clips)
            print(f"{name:22s} {1000 * per_clip:8.1f} ms a clip, {1 / per_clip:6.2f} clips/s")
    for cores in (2, 96):
        hours = WHOLE_CLIPS * medians["sum"] / len(clips) / cores / 0.9 / 3600
        print(f"{WHOLE_CLIPS} clips like these on {cores} cores at 90 %: {hours:.2f} h")


if __name__ == "__main__":
    main()
