"""Builds from Python: what `python -m preprocess.build_tfrecords` does, for notebooks too."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from preprocess.builder import building
from preprocess.builder.dry_run import Estimate, estimate
from preprocess.builder.plan import RAVDESS_TRACKING, BuildError, BuildSettings
from preprocess.builder.pool import Pool, Runner
from preprocess.clip.audio import AudioSettings
from preprocess.corpora.clips_csv import Clip, Table
from preprocess.reports.summary import BuildReport

__all__ = [
    "AudioSettings",
    "BuildError",
    "BuildReport",
    "BuildSettings",
    "Clip",
    "Estimate",
    "build",
]

PathLike = str | os.PathLike[str]
_DEFAULTS = BuildSettings()


def build(
    out_dir: PathLike | None,
    clips: PathLike | Iterable[PathLike | Clip] = (),
    settings: BuildSettings = _DEFAULTS,
    *,
    ravdess_dir: PathLike | None = None,
    ravdess_tracking_dir: PathLike | None = None,
    crema_d_dir: PathLike | None = None,
    num_workers: int | None = None,
    runner: str = "local",
    ray_address: str = "auto",
    clip_timeout_s: float = 300.0,
    worker_memory_mb: int = 2048,
    overwrite: bool = False,
    dry_run: bool = False,
) -> BuildReport | Estimate:
    """Build a data set, resume an interrupted build of it, or find it finished.

    Progress goes to standard error. Clips are processed by workers, which are spawned processes:
    a script calls this below `if __name__ == "__main__":`.

    Args:
      out_dir: where the data set goes; None is enough for a dry run.
      clips: each a `Clip`, or a csv that lists some, as `--clips` takes it.
      settings: what the data set's bytes depend on.
      ravdess_dir: RAVDESS as unzipped.
      ravdess_tracking_dir: RAVDESS's tracking record, with `settings.face_features="openface"`.
      crema_d_dir: CREMA-D as cloned.
      num_workers: processes, with Ray those of each node; None for as many as cores.
      runner: `"local"`, or `"ray"` for all nodes of a Ray cluster.
      ray_address: of the cluster: `"auto"`, `"HOST:PORT"` or `"local"`.
      clip_timeout_s: seconds after which a clip is given up.
      worker_memory_mb: memory that a worker may take, in 10^6 bytes; 0 for no limit.
      overwrite: replaces another build in `out_dir`, or this one if it is damaged.
      dry_run: plans the build and measures a few clips; writes nothing.

    Returns:
      What was done; with `dry_run` what would be. `str()` of either is for a person.

    Raises:
      BuildError: if it cannot be built, in one line that says what to do.
    """
    given = {
        "ravdess": ravdess_dir,
        "crema_d": crema_d_dir,
        RAVDESS_TRACKING: ravdess_tracking_dir,
    }
    roots = {corpus: Path(folder) for corpus, folder in given.items() if folder}
    tables = _tables([clips] if isinstance(clips, str | os.PathLike) else clips)
    if not roots and not tables:
        raise BuildError("nothing to build from: give --ravdess_dir, --crema_d_dir or --clips")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cores = len(os.sched_getaffinity(0))
    if dry_run:
        return estimate(
            roots,
            settings,
            num_workers=num_workers or cores,
            clip_timeout_s=clip_timeout_s,
            tables=tables,
        )
    if not out_dir:
        raise BuildError("nowhere to build: give --out_dir")
    return building.build(
        roots,
        Path(out_dir),
        settings,
        num_workers=num_workers or (cores if runner == "local" else None),
        make_pool=_make_pool(runner, ray_address),
        clip_timeout_s=clip_timeout_s,
        worker_memory_mb=worker_memory_mb,
        overwrite=overwrite,
        tables=tables,
    )


def _tables(clips: Iterable[PathLike | Clip]) -> list[Table]:
    """Make lists of clips: one of each csv, and one of all single clips."""
    paths: list[Path] = []
    single: list[Clip] = []
    for each in clips:
        if isinstance(each, Clip):
            single.append(each)
        else:
            paths.append(Path(each))
    return [*paths, *([single] if single else [])]


def _make_pool(runner: str, ray_address: str) -> Callable[..., Runner[Any, Any]]:
    if runner == "local":
        return Pool
    if runner != "ray":
        raise BuildError(f"runner must be local or ray, got {runner!r}")
    try:
        from preprocess.builder.ray_pool import RayPool
    except ImportError as error:
        raise BuildError(
            f"--runner=ray needs Ray ({error}). Install the extra [ray], on every node: "
            "pip install -c launch/constraints.txt '.[preprocess,ray]'"
        ) from error
    return functools.partial(RayPool, address=ray_address)
