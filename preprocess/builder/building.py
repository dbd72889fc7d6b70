"""Clips to a data set: process clip by clip in workers, then shards, then the manifest."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from preprocess.builder.ledger import Begun, Ledger
from preprocess.builder.plan import BuildError, BuildSettings
from preprocess.builder.pool import Lost, Pool, Runner, WorkerError
from preprocess.builder.process_clip import PASSING_KINDS, RESUMES, Stop, Work
from preprocess.builder.workspace import Workspace, WorkspaceError
from preprocess.builder.writer import ShardPlan
from preprocess.clip.files import Remote, forget
from preprocess.corpora import Clip, Skipped
from preprocess.corpora.clips_csv import Table
from preprocess.reports.summary import BuildReport, Progress

# So many clips that fail alike before any does not tell of the machine.
_FAILING_ALIKE = 5


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
    tables: Sequence[Table] = (),
) -> BuildReport:
    """Build a data set, resume an interrupted build of it, or find it finished.

    Its bytes depend on clips and settings alone.

    Args:
      roots: corpus -> folder.
      out_dir: where to.
      settings: of the build.
      num_workers: processes, on each node where there are several; None where `make_pool` knows.
      make_pool: makes what runs the work, from what `Pool` takes.
      clip_timeout_s: longest that one clip may take.
      worker_memory_mb: memory that a worker may take, in 10^6 bytes; 0 for no limit.
      overwrite: replaces what another build left in `out_dir`, or this one if it is damaged.
      tables: lists of further clips, as `corpora.clips_csv` reads them; at least one without
        `roots`.

    Raises:
      BuildError: if it cannot be built.
    """
    began_s = time.monotonic()
    # Workers may run in another folder.
    workspace = Workspace(out_dir.absolute(), settings.stored_modalities)
    roots = {corpus: root.absolute() for corpus, root in roots.items()}
    try:
        with workspace.held():
            ledger = Ledger(
                roots,
                settings,
                workspace,
                [table.absolute() if isinstance(table, Path) else table for table in tables],
            )
            begun = ledger.begin(overwrite)
            if not begun.is_finished:
                work = Work(roots, settings, settings.as_dict(), workspace, begun.checked)
                with make_pool(
                    work,
                    num_workers,
                    log_dir=workspace.work_dir,
                    timeout_s=clip_timeout_s,
                    memory_bytes=worker_memory_mb * 10**6,
                ) as pool:
                    _process(ledger, begun, pool, workspace.fetched_dir)
                    _seal(ledger, pool, clip_timeout_s)
                ledger.finish()
            return ledger.report(str(out_dir), time.monotonic() - began_s)
    except (WorkspaceError, WorkerError) as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(f"{error}. Fix it; then {RESUMES}") from error
    except MemoryError as error:
        raise BuildError(f"no memory is left; make room, then {RESUMES}") from error


def _process(ledger: Ledger, begun: Begun, pool: Runner[Clip, Any], fetched_dir: Path) -> None:
    """Process the clips that are not finished.

    Raises:
      BuildError: if nothing can be written.
    """
    if begun.is_damaged:
        print("not all is there that was finished; what is missing is made again", file=sys.stderr)
    if 0 < begun.clips_missing < begun.clips:
        kept = begun.clips - begun.clips_missing
        print(f"{kept} clips were finished before and are kept", file=sys.stderr)
    progress = Progress(begun.clips_missing, "clips")
    # Clips that are still to be read of each recording behind a URL, which is fetched once.
    uses = Counter(
        file for clip in ledger.missing for file in clip.sources if isinstance(file, Remote)
    )
    failing: list[str] | None = []
    for clip, result in pool.run(ledger.missing):
        if isinstance(result, Lost):
            result = Skipped(clip.place(), "failed", result.reason)
        if isinstance(result, Stop):
            raise BuildError(result.reason)
        if failing is not None:
            failing = _still_failing(failing, result)
        ledger.add(clip.example_id, result)
        for file in clip.sources if uses else ():
            if isinstance(file, Remote):
                uses[file] -= 1
                if not uses[file]:
                    forget(file, fetched_dir)
        progress.add(result if isinstance(result, Skipped) else None)


def _still_failing(failing: list[str], result: int | Skipped) -> list[str] | None:
    """Return why all clips so far failed, the next one included; None once one did otherwise.

    Raises:
      BuildError: if so many failed alike that it is not for their own sake.
    """
    if not isinstance(result, Skipped) or result.kind not in PASSING_KINDS:
        return None
    alike = re.split(r"[(:]", result.reason)[0]
    if any(alike != re.split(r"[(:]", reason)[0] for reason in failing):
        return None
    failing = [*failing, result.reason]
    if len(failing) < _FAILING_ALIKE:
        return failing
    raise BuildError(
        f"the first {len(failing)} clips all failed alike, which is hardly their fault "
        f"({result.reason}). Nothing is held against them: fix it; then {RESUMES}"
    )


def _seal(ledger: Ledger, pool: Runner[ShardPlan, Any], clip_timeout_s: float) -> None:
    """Write the shards that are missing.

    Raises:
      BuildError: if one cannot be written.
    """
    unsealed = ledger.plan_shards()
    progress = Progress(len(unsealed), "shards")
    timeout_s = clip_timeout_s * max((len(plan.example_ids) for plan in unsealed), default=0)
    for plan, result in pool.run(unsealed, timeout_s):
        if isinstance(result, Lost):
            raise BuildError(f"{plan.name} could not be written: {result.reason}")
        if isinstance(result, Stop):
            raise BuildError(result.reason)
        progress.add()
