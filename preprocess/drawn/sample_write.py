"""The sample corpus: from plan to files, and what to do with files that are there already."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2

from emotion_tfdata.dataset.atomic_file import digest_of, replacing
from preprocess.drawn import sample, sample_face
from preprocess.drawn.sample_encode import encode_clip
from preprocess.drawn.sample_render import draw_clip

# Settings and paths of a corpus that is being written: the marker itself comes last.
_UNFINISHED_NAME = "SAMPLE_CORPUS.unfinished.json"


@dataclasses.dataclass(frozen=True)
class Format:
    """How a corpus keeps its clips."""

    container: str
    video_codec: str
    audio_codec: str
    audio_rate_hz: int
    width: int
    height: int
    background: sample_face.Colour


FORMATS: dict[sample.Corpus, Format] = {
    # RAVDESS: 1280x720 before white, CREMA-D: 480x360 before green; here smaller.
    "ravdess": Format("mp4", "libx264", "aac", 48000, 320, 180, (238, 238, 236)),
    "crema_d": Format("flv", "flv", "libmp3lame", 44100, 320, 240, (118, 152, 118)),
}


@dataclasses.dataclass(frozen=True)
class Written:
    """What `write_corpus` did: how many clips it drew, and found whole."""

    drawn: int
    reused: int


def write_clip(spec: sample.ClipSpec, corpus_dir: str | os.PathLike[str]) -> None:
    """Draw one clip and write it as its corpus would."""
    form = FORMATS[spec.corpus]
    clip = draw_clip(spec)
    path = Path(corpus_dir) / spec.path
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_clip(
        path,
        clip.pictures(width=form.width, height=form.height, background=form.background),
        clip.audio(form.audio_rate_hz),
        audio_rate_hz=form.audio_rate_hz,
        container=form.container,
        video_codec=form.video_codec,
        audio_codec=form.audio_codec,
        comment=sample.NOTICE,
    )


def write_corpus(
    settings: sample.SampleSettings,
    out_dir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Draw a sample corpus into `out_dir/ravdess` and `out_dir/crema_d`.

    The files are a function of the settings alone. What an earlier run with the same settings
    left whole is kept; the markers are written last.

    Args:
        settings: Which corpus.
        out_dir: Where. Made if it is missing.
        overwrite: Whether a sample corpus of other settings in `out_dir` is replaced.
        num_workers: Processes; by default one a core.
        progress: Called with the number of clips drawn and to be drawn.

    Returns:
        How many clips were drawn and reused.

    Raises:
        ValueError: `out_dir` holds something else: a sample corpus of other settings (without
            `overwrite`), a damaged marker, or clips that are not a sample corpus's.
        OSError: A file cannot be written.
    """
    root = Path(out_dir)
    specs = sample.plan_clips(settings)
    whole = _reusable(root, settings, specs, overwrite)
    missing = [spec for spec in specs if _relative(spec) not in whole]
    if missing:
        root.mkdir(parents=True, exist_ok=True)
        plan = {"settings": settings.as_dict(), "clips": [{"path": _relative(s)} for s in specs]}
        _write_json(root / _UNFINISHED_NAME, plan)
        for folder in _folders(root):
            (folder / sample.MARKER_NAME).unlink(missing_ok=True)
        _draw_all(missing, root, num_workers or len(os.sched_getaffinity(0)), progress)
    if missing or any(not (f / sample.MARKER_NAME).is_file() for f in _folders(root)):
        _write_markers(root, settings, specs)
    (root / _UNFINISHED_NAME).unlink(missing_ok=True)
    return Written(drawn=len(missing), reused=len(whole))


def _relative(spec: sample.ClipSpec) -> str:
    return f"{spec.corpus}/{spec.path}"


def _folders(root: Path) -> list[Path]:
    """Return where markers lie; the root's is written last."""
    return [*(root / corpus for corpus in sample.CORPORA), root]


def _reusable(
    root: Path,
    settings: sample.SampleSettings,
    specs: Iterable[sample.ClipSpec],
    overwrite: bool,
) -> set[str]:
    """Return paths of clips that an earlier run finished; remove what other settings left."""
    finished, unfinished = root / sample.MARKER_NAME, root / _UNFINISHED_NAME
    found = next((path for path in (unfinished, finished) if path.is_file()), None)
    if found is None:
        for corpus in sample.CORPORA:
            if (root / corpus).is_dir() and any((root / corpus).iterdir()):
                raise ValueError(
                    f"{root / corpus} is not empty and no sample corpus: choose another --out_dir"
                )
        return set()
    try:
        earlier = json.loads(found.read_text(encoding="utf-8"))
        earlier_settings, records = earlier["settings"], earlier["clips"]
        paths = [str(record["path"]) for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{found} is damaged ({error!r}): remove {root} and try again") from error
    if earlier_settings != settings.as_dict():
        wanted = settings.as_dict()
        differing = ", ".join(
            f"{key}={earlier_settings.get(key)} there, {wanted[key]} here"
            for key in wanted
            if earlier_settings.get(key) != wanted[key]
        )
        if not overwrite:
            raise ValueError(
                f"{root} holds a sample corpus of other settings ({differing}): give "
                "--overwrite to replace it, or another --out_dir"
            )
        for path in paths:
            (root / path).unlink(missing_ok=True)
        return set()
    for stale in root.glob("*/**/.*.tmp"):
        stale.unlink(missing_ok=True)
    if found == unfinished:
        # A clip gets its name by a rename once it is whole.
        return {path for path in map(_relative, specs) if (root / path).is_file()}
    return {record["path"] for record in records if _is_whole(root, record)}


def _is_whole(root: Path, record: dict[str, Any]) -> bool:
    path = root / record["path"]
    return path.is_file() and digest_of(path) == record.get("sha256")


def _draw_all(
    specs: list[sample.ClipSpec],
    root: Path,
    num_workers: int,
    progress: Callable[[int, int], None],
) -> None:
    # A worker takes seconds to start: not worth it for a few clips.
    num_workers = min(num_workers, 1 + len(specs) // 16)
    if num_workers == 1:
        for done, spec in enumerate(specs, start=1):
            write_clip(spec, root / spec.corpus)
            progress(done, len(specs))
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers,
        # Forking a process that has run OpenCV's threads may hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=cv2.setNumThreads,
        initargs=(1,),
    )
    try:
        futures = [pool.submit(write_clip, spec, root / spec.corpus) for spec in specs]
        for done, future in enumerate(concurrent.futures.as_completed(futures), start=1):
            future.result()
            progress(done, len(specs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_markers(
    root: Path, settings: sample.SampleSettings, specs: Iterable[sample.ClipSpec]
) -> None:
    digests = {spec: digest_of(root / _relative(spec)) for spec in specs}
    for folder in _folders(root):
        clips = [
            {"path": (root / _relative(spec)).relative_to(folder).as_posix(), "sha256": digest}
            for spec, digest in digests.items()
            if folder in (root, root / spec.corpus)
        ]
        marker = {
            "what": sample.DESCRIPTION,
            "notice": sample.NOTICE,
            "settings": settings.as_dict(),
            "clips": clips,
        }
        _write_json(folder / sample.MARKER_NAME, marker)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
