"""Clips to a data set: process clip by clip in workers, then shards, then the manifest."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from emotion_tfdata import schema
from emotion_tfdata.manifest import Manifest
from preprocess import checksums, media, writer
from preprocess.corpora import NO_PICTURE, NO_SOUND, Clip, LeftOut, place
from preprocess.example import make_example
from preprocess.facts import ClipFacts, measure
from preprocess.plan import BuildError, BuildSettings, Plan, plan_build
from preprocess.pool import Lost, Pool, WorkerError
from preprocess.report import write_report
from preprocess.summary import BuildReport, Progress, left_out_csv, left_out_lines
from preprocess.workspace import LEFT_OUT_NAME, Workspace, WorkspaceError

_ALTERED = "not the file that its corpus published (its SHA-256 is another)"
_NAMED = 3


def build(
    roots: Mapping[str, Path],
    out_dir: Path,
    settings: BuildSettings,
    *,
    num_workers: int,
    clip_timeout_s: float = 300.0,
    worker_memory_mb: int = 2048,
    overwrite: bool = False,
) -> BuildReport:
    """Builds a data set, or goes on with one that was interrupted, or finds it finished.

    Its bytes depend on clips and settings alone.

    Args:
      roots: corpus -> folder, at least one.
      out_dir: where to.
      settings: of the build.
      num_workers: processes.
      clip_timeout_s: longest that one clip may take.
      worker_memory_mb: memory that a worker may take, in 10^6 bytes; 0 for no limit.
      overwrite: replaces what another build left in `out_dir`.

    Raises:
      BuildError: if it cannot be built.
    """
    began_s = time.monotonic()
    workspace = Workspace(out_dir)
    try:
        if "audio" in settings.built:
            settings.audio.check_filters()
        workspace.check_writable()
        plan = plan_build(roots, settings)
        description = {"settings": settings.as_dict(), "inputs": plan.inputs()}
        with workspace.claim(description, overwrite) as manifest:
            clips_read = 0
            was_finished = manifest is not None
            if manifest is None:
                pool = functools.partial(
                    Pool,
                    log_dir=workspace.work_dir,
                    timeout_s=clip_timeout_s,
                    memory_bytes=worker_memory_mb * 10**6,
                )
                clips_read = _process(plan, workspace, settings, num_workers, pool)
                manifest, facts = _assemble(plan, workspace, settings)
                write_report(out_dir, manifest, facts)
                manifest.save(str(out_dir))
                workspace.finish()
    except (WorkspaceError, WorkerError, schema.SchemaError) as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(f"{error}. Mend it; then the same command goes on from here") from error
    clips_written = Counter(shard.fold for shard, _ in manifest.records)
    return BuildReport(
        out_dir=str(out_dir),
        provenance=manifest.provenance,
        clips_found=len(plan.clips),
        clips_read=clips_read,
        clips_written=sum(clips_written.values()),
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        left_out=tuple(LeftOut(**entry) for entry in manifest.left_out),
        notes=tuple(manifest.settings["notes"]),
        warnings=tuple(_warnings(clips_written, manifest.num_folds)),
        seconds=time.monotonic() - began_s,
        was_finished=was_finished,
    )


@dataclasses.dataclass(frozen=True)
class _Stop:
    """A worker's word that the build cannot go on, whichever the clip."""

    reason: str


def process_clip(
    clip: Clip,
    *,
    roots: Mapping[str, Path],
    settings: BuildSettings,
    workspace: Workspace,
    checked: Collection[str],
) -> LeftOut | _Stop | None:
    """Makes one clip's example and keeps it in the work folder. Runs in a worker.

    Args:
      clip: which.
      roots: corpus -> folder.
      settings: of the build.
      workspace: of the build.
      checked: corpora whose files are compared with the published ones.

    Returns:
      None where that worked, or why the clip is left out, or why nothing can be kept.
    """
    where = place(clip.corpus, roots[clip.corpus], clip.files[0])
    left_out = None
    try:
        altered = checksums.altered(clip.corpus, clip.files) if clip.corpus in checked else ()
        if altered and settings.checksums == "require":
            raise media.MediaError("checksum", f"{', '.join(altered)}: {_ALTERED}")
        example = make_example(clip, settings.audio, num_landmarks=settings.num_landmarks)
        schema.stored_arrays(example)  # an example that cannot be stored fails here, by name
    except media.MediaError as error:
        reason = str(error)
        if settings.modalities == "both":
            hints = dict([NO_PICTURE, NO_SOUND])
            reason = hints.get(error.kind, reason)
        left_out = LeftOut(where, error.kind, reason)
    except OSError as error:
        left_out = LeftOut(where, "unreadable", f"cannot be read ({error.strerror})")
    except ImportError as error:  # no clip is to blame
        return _Stop(
            f"{error}. Install the extra [preprocess]; what is missing of the system comes with: "
            "apt-get install libgl1 libglib2.0-0"
        )
    except Exception as error:  # whatever a file provokes costs that file alone, and is listed
        traceback.print_exc()
        return LeftOut(where, "failed", f"{type(error).__name__}: {error}")
    try:
        if left_out:
            workspace.store_left_out(clip.example_id, left_out)
        else:
            workspace.store_example(example, measure(example, altered))
    except OSError as error:
        return _Stop(
            f"cannot write in {workspace.work_dir} ({error.strerror}). Make room or mend it"
        )
    return left_out


def _process(
    plan: Plan,
    workspace: Workspace,
    settings: BuildSettings,
    num_workers: int,
    make_pool: Callable[..., Pool[Clip, LeftOut | _Stop | None]],
) -> int:
    """Processes what is not yet; then fixes which clips go into which shard. Returns their number.

    Raises:
      BuildError: if no clip survives, or nothing can be written.
    """
    if workspace.load_shards_plan():
        return 0
    outcomes = {clip.example_id: workspace.outcome(clip.example_id) for clip in plan.clips}
    missing = [clip for clip in plan.clips if outcomes[clip.example_id] is False]
    if 0 < len(missing) < len(plan.clips):
        kept = len(plan.clips) - len(missing)
        print(f"{kept} clips were finished before and are kept", file=sys.stderr)
    task = functools.partial(
        process_clip,
        roots=plan.roots,
        settings=settings,
        workspace=workspace,
        checked=plan.checked,
    )
    progress = Progress(len(missing))
    workers = min(num_workers, len(missing))
    with make_pool(task, workers) as pool:
        for clip, result in pool.run(missing):
            if isinstance(result, Lost):
                where = place(clip.corpus, plan.roots[clip.corpus], clip.files[0])
                result = LeftOut(where, "failed", result.reason)
            if isinstance(result, _Stop):
                raise BuildError(f"{result.reason}; then the same command goes on from here")
            outcomes[clip.example_id] = True if result is None else result
            progress.add(result)
    left_out = [outcome for outcome in outcomes.values() if isinstance(outcome, LeftOut)]
    sizes = [
        (example_id, plan.actor_folds[example_id], workspace.array_bytes(example_id))
        for example_id, outcome in outcomes.items()
        if outcome is True
    ]
    if not sizes:
        lines = "\n".join(left_out_lines(left_out))
        workspace.clear()
        raise BuildError(f"not one of {len(plan.clips)} clips could be built:\n{lines}")
    max_shard_bytes = round(settings.max_shard_size_mb * 1e6)
    workspace.store_shards_plan(
        writer.plan_shards(
            sizes,
            settings.num_folds,
            max_shard_bytes,
            plan.random_folds if settings.split_protocol == "random" else None,
        ),
        left_out,
    )
    return len(missing)


def _assemble(
    plan: Plan, workspace: Workspace, settings: BuildSettings
) -> tuple[Manifest, dict[str, ClipFacts]]:
    """Writes the shards that do not stand yet, and makes the manifest and the clips' facts."""
    found = workspace.load_shards_plan()
    assert found is not None
    shard_plans, left_out = found
    clips = {clip.example_id: clip for clip in plan.clips}
    written = []
    for shard_plan in shard_plans:
        shard = workspace.load_shard(shard_plan.name)
        if shard is None:
            shard = writer.write_shard(
                workspace.out_dir,
                shard_plan,
                lambda example_id: workspace.load_example(clips[example_id]),
                plan.random_folds,
                settings.built,
            )
            facts = {name: workspace.load_facts(name) for name in shard_plan.example_ids}
            shard = dataclasses.replace(shard, facts=facts)
            workspace.store_shard(shard)
        written.append(shard)
    facts = {name: each for shard in written for name, each in shard.facts.items()}
    everything = sorted([*plan.left_out, *left_out], key=lambda entry: entry.path)
    (workspace.out_dir / LEFT_OUT_NAME).write_text(left_out_csv(everything), encoding="utf-8")
    manifest = Manifest(
        settings={**settings.as_dict(), "notes": [*plan.notes, *_altered_notes(facts)]},
        provenance=plan.provenance,
        modalities=settings.built,
        num_audio_features=settings.audio.num_mels,
        num_landmarks=settings.num_landmarks,
        num_classes=settings.num_classes,
        num_folds=settings.num_folds,
        shards=tuple(shard.shard for shard in written),
        statistics=writer.statistics(written, settings.num_folds, settings.built),
        left_out=tuple(dataclasses.asdict(entry) for entry in everything),
    )
    return manifest, facts


def _altered_notes(facts: Mapping[str, ClipFacts]) -> list[str]:
    """One note a corpus on files that are not the published ones."""
    by_corpus: dict[str, list[str]] = {}
    for example_id, each in facts.items():
        by_corpus.setdefault(example_id.split("/")[0], []).extend(each.altered)
    notes = []
    for corpus, names in sorted(by_corpus.items()):
        if names:
            names.sort()
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            notes.append(
                f"{corpus}: of {len(names)} files each is {_ALTERED}: "
                f"{', '.join(names[:_NAMED])}{more}; --checksums=require leaves them out"
            )
    return notes


def _warnings(clips: Mapping[int, int], num_folds: int) -> list[str]:
    empty = [str(fold) for fold in range(num_folds) if not clips.get(fold)]
    if not empty:
        return []
    return [
        f"no clip in actor fold {', '.join(empty)} of {num_folds}: "
        "fewer actors than folds; lower --num_folds or add actors"
    ]
