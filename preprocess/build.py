"""Clips to a data set: process clip by clip in workers, then shards, then the manifest."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emotion_tfdata.manifest import Manifest
from preprocess import writer
from preprocess.corpora import Clip, LeftOut, place
from preprocess.facts import ClipFacts
from preprocess.plan import BuildError, BuildSettings, Plan, plan_build
from preprocess.pool import Lost, Pool, Runner, WorkerError
from preprocess.report import summarize, write_report
from preprocess.summary import BuildReport, Progress, left_out_csv, left_out_lines
from preprocess.work import ALTERED, GOES_ON, Stop, Work
from preprocess.workspace import LEFT_OUT_NAME, Workspace, WorkspaceError
from preprocess.writer import ShardPlan

_NAMED = 3


def build(
    roots: Mapping[str, Path],
    out_dir: Path,
    settings: BuildSettings,
    *,
    num_workers: int | None,
    make_pool: Callable[..., Runner[Any, Any]] = Pool,
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
      num_workers: processes, on each node where there are several; None where `make_pool` knows.
      make_pool: makes what runs the work, from what `Pool` takes.
      clip_timeout_s: longest that one clip may take.
      worker_memory_mb: memory that a worker may take, in 10^6 bytes; 0 for no limit.
      overwrite: replaces what another build left in `out_dir`, or this one if it is damaged.

    Raises:
      BuildError: if it cannot be built.
    """
    began_s = time.monotonic()
    # Workers may run in another folder.
    workspace = Workspace(out_dir.absolute())
    roots = {corpus: root.absolute() for corpus, root in roots.items()}
    try:
        workspace.check_writable()
        plan = plan_build(roots, settings)
        clips_found = len(plan.clips)
        inputs = {"settings": settings.as_dict(), "inputs": plan.inputs()}
        with workspace.claim(inputs, overwrite) as manifest:
            del inputs
            clips_read = 0
            was_finished = manifest is not None
            if manifest is None:
                work = Work(plan.roots, settings, settings.as_dict(), workspace, plan.checked)
                with make_pool(
                    work,
                    num_workers,
                    log_dir=workspace.work_dir,
                    timeout_s=clip_timeout_s,
                    memory_bytes=worker_memory_mb * 10**6,
                ) as pool:
                    clips_read = _process(plan, workspace, settings, pool)
                    _seal(workspace, pool, clip_timeout_s)
                manifest, summary = _describe(plan, workspace, settings)
                del plan  # larger than the manifest, and the report needs room
                write_report(workspace.out_dir, manifest, summary)
                manifest.save(str(workspace.out_dir))
                workspace.finish()
    except (WorkspaceError, WorkerError) as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(f"{error}. Mend it; then {GOES_ON}") from error
    clips_written = Counter(shard.fold for shard, _ in manifest.records)
    return BuildReport(
        out_dir=str(out_dir),
        provenance=manifest.provenance,
        clips_found=clips_found,
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


def _process(
    plan: Plan, workspace: Workspace, settings: BuildSettings, pool: Runner[Clip, Any]
) -> int:
    """Processes what is not yet; then fixes which clips go into which shard. Returns their number.

    Raises:
      BuildError: if no clip survives, or nothing can be written.
    """
    if workspace.load_shards_plan():
        if workspace.can_be_sealed():
            return 0
        print("not all is there that was finished; what is missing is made again", file=sys.stderr)
        workspace.drop_shards()
    outcomes = workspace.outcomes()
    missing = [clip for clip in plan.clips if clip.example_id not in outcomes]
    if 0 < len(missing) < len(plan.clips):
        kept = len(plan.clips) - len(missing)
        print(f"{kept} clips were finished before and are kept", file=sys.stderr)
    progress = Progress(len(missing), "clips")
    for clip, result in pool.run(missing):
        if isinstance(result, Lost):
            where = place(clip.corpus, plan.roots[clip.corpus], clip.files[0])
            result = LeftOut(where, "failed", result.reason)
        if isinstance(result, Stop):
            raise BuildError(result.reason)
        outcomes[clip.example_id] = result
        progress.add(result if isinstance(result, LeftOut) else None)
    left_out = [outcome for outcome in outcomes.values() if isinstance(outcome, LeftOut)]
    sizes = [
        (name, plan.actor_folds[name], plan.random_folds[name], outcome)
        for name, outcome in outcomes.items()
        if not isinstance(outcome, LeftOut)
    ]
    if not sizes:
        lines = "\n".join(left_out_lines(left_out))
        workspace.clear()
        raise BuildError(f"not one of {len(plan.clips)} clips could be built:\n{lines}")
    workspace.store_shards_plan(
        writer.plan_shards(
            sizes,
            settings.num_folds,
            round(settings.max_shard_size_mb * 1e6),
            by_random_fold=settings.split_protocol == "random",
        ),
        left_out,
    )
    return len(missing)


def _seal(workspace: Workspace, pool: Runner[ShardPlan, Any], clip_timeout_s: float) -> None:
    """Writes the shards that do not stand yet.

    Raises:
      BuildError: if one cannot be written.
    """
    plans, _ = _loaded(workspace)
    standing = workspace.standing_shards()
    # The largest first, so that none is left for last.
    missing = sorted(
        (plan for plan in plans if plan.name not in standing),
        key=lambda plan: (-len(plan.example_ids), plan.name),
    )
    if not missing:
        return
    progress = Progress(len(missing), "shards")
    timeout_s = clip_timeout_s * len(missing[0].example_ids)
    for plan, result in pool.run(missing, timeout_s):
        if isinstance(result, Lost):
            raise BuildError(f"{plan.name} could not be written: {result.reason}")
        if isinstance(result, Stop):
            raise BuildError(result.reason)
        progress.add()


def _loaded(workspace: Workspace) -> tuple[list[ShardPlan], list[LeftOut]]:
    found = workspace.load_shards_plan()
    assert found is not None
    return found


def _describe(
    plan: Plan, workspace: Workspace, settings: BuildSettings
) -> tuple[Manifest, dict[str, Any]]:
    """Makes the manifest of shards that stand, and what the report says of them."""
    shard_plans, left_out = _loaded(workspace)
    written = [workspace.load_shard(shard_plan.name) for shard_plan in shard_plans]
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
    return manifest, summarize(manifest, facts)


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
                f"{corpus}: of {len(names)} files each is {ALTERED}: "
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
