"""Builds a data set from RAVDESS, CREMA-D, and clips that a csv lists.

  python -m preprocess.build_tfrecords --ravdess_dir=D --crema_d_dir=D --clips=CSV --out_dir=D

At least one of them. The same command resumes an interrupted build.
"""

from __future__ import annotations

import inspect
import math
import signal
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from preprocess import cli

with cli.importing():
    from emotion_tfdata.fields import define_flags, from_flags
    from preprocess.api import build
    from preprocess.builder.plan import BuildSettings
    from preprocess.clip.audio import AudioSettings
    from preprocess.reports.summary import BuildReport

FLAGS = flags.FLAGS

# Arguments of `build`, under their own names.
flags.DEFINE_string(
    "ravdess_dir", None, "RAVDESS as unzipped from Zenodo, in any nesting of folders."
)
flags.DEFINE_string(
    "ravdess_tracking_dir",
    None,
    "RAVDESS's own tracking record (OpenFace csv, Zenodo 3255102) in place of its videos: 68 "
    "landmarks; --ravdess_dir then needs the wavs alone.",
)
flags.DEFINE_string("crema_d_dir", None, "CREMA-D as cloned, with its media (git lfs pull).")
flags.DEFINE_multi_string(
    "clips",
    [],
    "A csv of clips of any corpus, with columns video and/or audio (paths from the csv's folder, "
    "or URLs), actor, emotion; optional corpus, name, intensity, sentence, and start_s, end_s of a "
    "part of a longer recording. May be given several times.",
)
flags.DEFINE_string("out_dir", None, "Where the data set goes.")
flags.DEFINE_integer(
    "num_workers",
    None,
    "Processes, with Ray those of each node; as many as cores if not given.",
    lower_bound=1,
)
flags.DEFINE_enum(
    "runner",
    "local",
    ["local", "ray"],
    "Where clips are processed: on this machine, or on all nodes of a Ray cluster, which must all "
    "see --out_dir and the corpora under the same paths. On nodes of one kind of processor the "
    "bytes are the same.",
)
flags.DEFINE_string(
    "ray_address",
    "auto",
    "With --runner=ray: `auto` for the cluster that this machine belongs to, `HOST:PORT`, or "
    "`local` for one of its own on this machine.",
)
flags.DEFINE_float(
    "clip_timeout_s", 300.0, "Seconds after which a clip is given up.", lower_bound=1.0
)
flags.register_validator("clip_timeout_s", math.isfinite, message="must be finite")
flags.DEFINE_integer(
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
flags.DEFINE_bool(
    "dry_run",
    False,
    "Says what would be built, how long it would take and how large it would be; writes nothing.",
)
flags.DEFINE_bool(
    "overwrite",
    False,
    "Replaces another build in --out_dir, or this one where it is damaged; else resumes it.",
)
_ARGUMENTS = inspect.signature(build).parameters.keys() - {"settings"}
define_flags(FLAGS, BuildSettings)
define_flags(FLAGS, AudioSettings)


def main(argv: Sequence[str]) -> None:
    """Run the build; end the process with a status and one line where it cannot."""
    if len(argv) > 1:
        cli.fail(f"what is {argv[1]!r}? Flags are written --name=value")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen: dict[str, Any] = {name: FLAGS[name].value for name in _ARGUMENTS}
    face_features = FLAGS.face_features
    if FLAGS.ravdess_tracking_dir and face_features == "facemesh":
        face_features = "openface"
    try:
        audio = from_flags(FLAGS, AudioSettings)
        settings = from_flags(FLAGS, BuildSettings, audio=audio, face_features=face_features)
        report = build(settings=settings, **chosen)
    except ValueError as error:
        cli.fail(str(error))
    except KeyboardInterrupt:
        cli.stopped()
    if isinstance(report, BuildReport) and report.was_finished:
        print("this data set was finished before; nothing was done again")
    print(report)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
