"""Builds a data set from RAVDESS, CREMA-D, and clips that a csv lists.

  python -m preprocess.build_tfrecords --ravdess_dir=D --crema_d_dir=D --clips=CSV --out_dir=D

At least one of them. The same command resumes an interrupted build.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from typing import cast

from absl import app, flags

from preprocess import cli

with cli.importing():
    from emotion_tfdata.dataset.protocols import NAMES
    from preprocess.api import build
    from preprocess.builder.plan import BuildSettings
    from preprocess.clip.audio import AudioSettings
    from preprocess.corpora import MODALITIES, Modalities
    from preprocess.corpora.checksums import CHECKSUMS, Checksums
    from preprocess.reports.summary import BuildReport

_RAVDESS_DIR = flags.DEFINE_string(
    "ravdess_dir", None, "RAVDESS as unzipped from Zenodo, in any nesting of folders."
)
_RAVDESS_TRACKING_DIR = flags.DEFINE_string(
    "ravdess_tracking_dir",
    None,
    "RAVDESS's own tracking record (OpenFace csv, Zenodo 3255102) in place of its videos: 68 "
    "landmarks; --ravdess_dir then needs the wavs alone.",
)
_CREMA_D_DIR = flags.DEFINE_string(
    "crema_d_dir", None, "CREMA-D as cloned, with its media (git lfs pull)."
)
_CLIPS = flags.DEFINE_multi_string(
    "clips",
    [],
    "A csv of clips of any corpus, with columns video and/or audio (paths from the csv's folder, "
    "or URLs), actor, emotion; optional corpus, name, intensity, sentence, and start_s, end_s of a "
    "part of a longer recording. May be given several times.",
)
_OUT_DIR = flags.DEFINE_string("out_dir", None, "Where the data set goes.")
_MODALITIES = flags.DEFINE_enum(
    "modalities", "both", list(MODALITIES), "What is built. With audio the wavs alone will do."
)
_NUM_CLASSES = flags.DEFINE_enum(
    "num_classes",
    "6",
    ["6", "8"],
    "6: what both corpora have; 8: calm and surprised too.",
)
_CLASSES = flags.DEFINE_list(
    "classes", [], "Names of other classes than these, e.g. negative,neutral,positive."
)
_NUM_FOLDS = flags.DEFINE_integer("num_folds", 5, "Folds of actors, and of clips.", lower_bound=2)
_MAX_SHARD_SIZE_MB = flags.DEFINE_float("max_shard_size_mb", 64.0, "Largest shard.")
_LIMIT = flags.DEFINE_integer(
    "limit", None, "Only so many clips of each corpus, spread over its actors.", lower_bound=1
)
_AUDIO_FEATURES = flags.DEFINE_string(
    "audio_features",
    "logmel",
    "What sound becomes: logmel, mfcc (of the same mel bands), egemaps (openSMILE's low-level "
    "descriptors, for research alone), or package.module:name of an extractor of one's own; see "
    "preprocess/clip/extractors.py.",
)
_NUM_MFCC = flags.DEFINE_integer("num_mfcc", 13, "Cepstral coefficients of mfcc.", lower_bound=1)
_MFCC_DELTAS = flags.DEFINE_integer(
    "mfcc_deltas", 2, "Derivatives of mfcc over time.", lower_bound=0, upper_bound=2
)
_FACE_FEATURES = flags.DEFINE_string(
    "face_features",
    "facemesh",
    "What pictures become: facemesh, openface (with --ravdess_tracking_dir), none, or "
    "package.module:name of an extractor of one's own; see preprocess/clip/face_extractors.py.",
)
_NUM_MELS = flags.DEFINE_integer("num_mels", 80, "Mel bands of the audio.", lower_bound=1)
_N_FFT = flags.DEFINE_integer("n_fft", 512, "Samples of the audio's window, at 16 kHz.")
_FMIN_HZ = flags.DEFINE_float("fmin", 50.0, "Lower edge of the mel bands, in Hz.")
_FMAX_HZ = flags.DEFINE_float("fmax", 8000.0, "Upper edge of the mel bands, in Hz.")
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "Processes, with Ray those of each node; as many as cores if not given.",
    lower_bound=1,
)
_RUNNER = flags.DEFINE_enum(
    "runner",
    "local",
    ["local", "ray"],
    "Where clips are processed: on this machine, or on all nodes of a Ray cluster, which must all "
    "see --out_dir and the corpora under the same paths. On nodes of one kind of processor the "
    "bytes are the same.",
)
_RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    "auto",
    "With --runner=ray: `auto` for the cluster that this machine belongs to, `HOST:PORT`, or "
    "`local` for one of its own on this machine.",
)
_CLIP_TIMEOUT_S = flags.DEFINE_float(
    "clip_timeout_s", 300.0, "Seconds after which a clip is given up.", lower_bound=1.0
)
flags.register_validator("clip_timeout_s", math.isfinite, message="must be finite")
_WORKER_MEMORY_MB = flags.DEFINE_integer(
    "worker_memory_mb",
    2048,
    "Memory that a worker may take; a clip that needs more is skipped. 0: no limit.",
    lower_bound=0,
    upper_bound=10**9,
)
flags.register_validator(
    "worker_memory_mb",
    lambda value: not value or value >= 400,
    message="must be 0 or at least 400: FaceMesh alone takes nearly as much",
)
_SPLIT_PROTOCOL = flags.DEFINE_string(
    "split_protocol",
    "actor",
    f"What shards are cut by, beside actor folds: {', '.join(NAMES)} or a JSON file of folds. "
    "Layout alone: every data set serves all protocols.",
)
_CHECKSUMS = flags.DEFINE_enum(
    "checksums",
    "warn",
    list(CHECKSUMS),
    "Files that differ from those their corpus published are built and named, skipped, or not "
    "looked for. Drawn clips are never compared.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Says what would be built, how long it would take and how large it would be; writes nothing.",
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "Replaces another build in --out_dir, or this one where it is damaged; else resumes it.",
)


def main(argv: Sequence[str]) -> None:
    """Runs the build; ends the process with a status and one line where it cannot."""
    if len(argv) > 1:
        cli.fail(f"what is {argv[1]!r}? Flags are written --name=value")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    face_features = _FACE_FEATURES.value
    if _RAVDESS_TRACKING_DIR.value and face_features == "facemesh":
        face_features = "openface"
    try:
        settings = BuildSettings(
            modalities=cast(Modalities, _MODALITIES.value),
            num_classes=int(_NUM_CLASSES.value),
            classes=tuple(_CLASSES.value),
            num_folds=_NUM_FOLDS.value,
            max_shard_size_mb=_MAX_SHARD_SIZE_MB.value,
            limit=_LIMIT.value,
            split_protocol=_SPLIT_PROTOCOL.value,
            face_features=face_features,
            checksums=cast(Checksums, _CHECKSUMS.value),
            audio_features=_AUDIO_FEATURES.value,
            num_mfcc=_NUM_MFCC.value,
            mfcc_deltas=_MFCC_DELTAS.value,
            audio=AudioSettings(
                num_mels=_NUM_MELS.value,
                n_fft=_N_FFT.value,
                fmin_hz=_FMIN_HZ.value,
                fmax_hz=_FMAX_HZ.value,
            ),
        )
        report = build(
            _OUT_DIR.value,
            _CLIPS.value,
            settings,
            ravdess_dir=_RAVDESS_DIR.value,
            ravdess_tracking_dir=_RAVDESS_TRACKING_DIR.value,
            crema_d_dir=_CREMA_D_DIR.value,
            num_workers=_NUM_WORKERS.value,
            runner=_RUNNER.value,
            ray_address=_RAY_ADDRESS.value,
            clip_timeout_s=_CLIP_TIMEOUT_S.value,
            worker_memory_mb=_WORKER_MEMORY_MB.value,
            overwrite=_OVERWRITE.value,
            dry_run=_DRY_RUN.value,
        )
    except ValueError as error:
        cli.fail(str(error))
    except KeyboardInterrupt:
        cli.stopped()
    if isinstance(report, BuildReport) and report.was_finished:
        print("this data set was finished before; nothing was done again")
    print(report)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
