"""What is to be known of all of a build's clips at once: the plan, and what became of each."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from emotion_tfdata.dataset.manifest import Manifest
from preprocess.builder import writer
from preprocess.builder.plan import BuildError, BuildSettings, Plan, plan_build
from preprocess.builder.process_clip import ALTERED
from preprocess.builder.workspace import OLD_SKIPPED_NAME, SKIPPED_NAME, Workspace
from preprocess.builder.writer import ShardPlan
from preprocess.clip.measurements import Measurements
from preprocess.corpora import Clip, Skipped
from preprocess.corpora.clips_csv import Table
from preprocess.reports.report import summarize, write_report
from preprocess.reports.summary import BuildReport, skipped_csv, skipped_lines

_NAMED = 3
# The least deviation of a feature, in errors of storing it: at most 2 % of its power is noise.
_LEAST_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Begun:
    """Where a build stands when it begins.

    Attributes:
      checked: corpora whose files are compared with the published ones.
      clips: that are to be read.
      clips_missing: those of them that no earlier run has finished.
      is_finished: whether the data set stands.
      is_damaged: whether some of what had been finished is gone, and made again.
    """

    checked: frozenset[str]
    clips: int
    clips_missing: int
    is_finished: bool = False
    is_damaged: bool = False


class Ledger:
    """A build's plan and what became of each clip.

    Args:
      roots: corpus -> folder.
      settings: of the build.
      workspace: of the build, held.
      tables: lists of further clips.
    """

    def __init__(
        self,
        roots: Mapping[str, Path],
        settings: BuildSettings,
        workspace: Workspace,
        tables: Sequence[Table] = (),
    ) -> None:
        self._roots = roots
        self._tables = tables
        self._settings = settings
        self._workspace = workspace
        self._plan: Plan | None = None
        self._manifest: Manifest | None = None
        self._begun: Begun | None = None
        self._outcomes: dict[str, Skipped | int] = {}
        self._missing: list[Clip] = []

    def begin(self, overwrite: bool) -> Begun:
        """Plan the build and make the folder its own."""
        plan = self._plan = plan_build(self._roots, self._settings, self._tables)
        workspace = self._workspace
        description = {"settings": self._settings.as_dict(), "inputs": plan.inputs()}
        self._manifest = workspace.take_over(description, overwrite)
        is_damaged = False
        if not self._manifest:
            is_damaged = workspace.has_shards_plan() and not workspace.can_be_sealed()
            if is_damaged:
                workspace.drop_shards()
            if not workspace.has_shards_plan():
                self._outcomes = workspace.outcomes()
                self._missing = [
                    clip for clip in plan.clips if clip.example_id not in self._outcomes
                ]
        self._begun = Begun(
            plan.checked,
            len(plan.clips),
            len(self._missing),
            is_finished=self._manifest is not None,
            is_damaged=is_damaged,
        )
        return self._begun

    @property
    def missing(self) -> Sequence[Clip]:
        """The clips that no earlier run has finished."""
        return self._missing

    def add(self, example_id: str, outcome: Skipped | int) -> None:
        """Note what became of a clip: the bytes stored of it, or why it is skipped.

        What workers have written is not looked up instead, since a file system that several
        machines share may show it later.
        """
        self._outcomes[example_id] = outcome

    def plan_shards(self) -> Sequence[ShardPlan]:
        """Return the shards that are missing; which clip goes into which is decided once.

        From here on clips are not asked for: what is held of them makes room for the manifest.
        """
        assert self._plan is not None
        if not self._workspace.has_shards_plan():
            self._store_shards_plan()
        self._plan = dataclasses.replace(
            self._plan, clips=(), actor_folds={}, random_folds={}, apart={}
        )
        self._outcomes, self._missing = {}, []
        plans, _ = self._workspace.load_shards_plan()
        standing = self._workspace.standing_shards()
        # The largest first, so that none is left for last.
        return sorted(
            (plan for plan in plans if plan.name not in standing),
            key=lambda plan: (-len(plan.example_ids), plan.name),
        )

    def finish(self) -> None:
        """Write the manifest of finished shards, and the report."""
        assert self._plan is not None
        plans, skipped = self._workspace.load_shards_plan()
        written = [self._workspace.load_shard(plan.name) for plan in plans]
        measurements = {
            name: each for shard in written for name, each in shard.measurements.items()
        }
        everything = sorted([*self._plan.skipped, *skipped], key=lambda entry: entry.path)
        out_dir, settings = self._workspace.out_dir, self._settings
        (out_dir / SKIPPED_NAME).write_text(skipped_csv(everything), encoding="utf-8")
        with contextlib.suppress(OSError):  # it is there, or the file system has no links
            (out_dir / OLD_SKIPPED_NAME).symlink_to(SKIPPED_NAME)
        processors = self._workspace.processors()
        manifest = writer.make_manifest(
            written,
            provenance=self._plan.provenance,
            classes=settings.class_names,
            num_folds=settings.num_folds,
            modalities={
                name: dataclasses.replace(
                    modality, largest_error=_largest_error(name, measurements)
                )
                for name, modality in settings.stored_modalities.items()
            },
            settings={
                **settings.as_dict(),
                "notes": [
                    *self._plan.notes,
                    *_altered_notes(measurements),
                    *_clip_notes(measurements),
                    *_processor_notes(processors),
                ],
            },
            skipped=tuple(dataclasses.asdict(entry) for entry in everything),
            processors=processors,
        )
        write_report(out_dir, manifest, summarize(manifest, measurements))
        manifest.save(str(out_dir))
        self._workspace.finish()
        self._manifest = manifest

    def report(self, out_dir: str, seconds: float) -> BuildReport:
        """Return the report of a finished data set.

        Args:
          out_dir: the data set's folder as its user calls it.
          seconds: that the build has taken.
        """
        assert self._begun is not None
        assert self._manifest is not None
        manifest = self._manifest
        clips_written = Counter(manifest.index.folds.tolist())
        skipped = [Skipped(**entry) for entry in manifest.skipped]
        return BuildReport(
            out_dir=out_dir,
            provenance=manifest.provenance,
            clips_found=self._begun.clips,
            clips_read=self._begun.clips_missing,
            clips_written=len(manifest.index),
            shards=len(manifest.shards),
            bytes=sum(shard.bytes for shard in manifest.shards),
            skipped=len(skipped),
            skipped_lines=tuple(skipped_lines(skipped)),
            notes=tuple(manifest.settings["notes"]),
            warnings=(
                *_warnings(clips_written, manifest.num_folds),
                *_storage_warnings(manifest),
            ),
            seconds=seconds,
            was_finished=self._begun.is_finished,
        )

    # -- within -----------------------------------------------------------------------------------

    def _store_shards_plan(self) -> None:
        """Store which clips go into which shards.

        Raises:
          BuildError: if no clip survived.
        """
        plan = self._plan
        assert plan is not None
        outcomes = {clip.example_id: self._outcomes[clip.example_id] for clip in plan.clips}
        skipped = [outcome for outcome in outcomes.values() if isinstance(outcome, Skipped)]
        sizes = [
            (name, plan.actor_folds[clip.corpus, clip.actor], plan.random_folds[name], outcome)
            for clip, (name, outcome) in zip(plan.clips, outcomes.items(), strict=True)
            if not isinstance(outcome, Skipped)
        ]
        if not sizes:
            lines = "\n".join(skipped_lines(skipped))
            self._workspace.clear()
            raise BuildError(f"not one of {len(outcomes)} clips could be built:\n{lines}")
        settings = self._settings
        shards = writer.plan_shards(
            sizes,
            settings.num_folds,
            round(settings.max_shard_size_mb * 1e6),
            apart=plan.apart,
        )
        self._workspace.store_shards_plan(shards, skipped)


def _largest_error(modality: str, measurements: Mapping[str, Measurements]) -> float:
    return max(getattr(each, f"{modality}_error") for each in measurements.values())


def _storage_warnings(manifest: Manifest) -> list[str]:
    """Warn, once a modality, where stored numbers are too coarse for what they are to tell."""
    warnings = []
    for name, modality in manifest.modalities.items():
        moments = manifest.moments(name, "actor", range(manifest.num_folds))
        size = np.abs(moments.mean) + moments.deviation
        spacing = modality.array.step or np.spacing(size.astype(np.float16)).astype(np.float64)
        errors = np.minimum(spacing / 2, modality.largest_error or 0.0)
        coarse = int((moments.deviation < _LEAST_STEPS * errors).sum())
        if coarse:
            stored = f"steps of {modality.array.step:g}" if modality.array.step else "float16"
            warnings.append(
                f"{coarse} of {size.size} features of {name} deviate by less than {_LEAST_STEPS} "
                f"times the error of storing them in {stored}: give the extractor a smaller step, "
                "or another unit or zero"
            )
    return warnings


def _altered_notes(measurements: Mapping[str, Measurements]) -> list[str]:
    """Note, once a corpus, that files are not the published ones."""
    by_corpus: dict[str, list[str]] = {}
    for example_id, each in measurements.items():
        by_corpus.setdefault(example_id.split("/")[0], []).extend(each.altered)
    notes = []
    for corpus, names in sorted(by_corpus.items()):
        if names:
            names.sort()
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            notes.append(
                f"{corpus}: of {len(names)} files each is {ALTERED}: "
                f"{', '.join(names[:_NAMED])}{more}; --checksums=require skips them"
            )
    return notes


def _processor_notes(processors: Sequence[str]) -> list[str]:
    """Note where clips were made on processors of several kinds."""
    if len(processors) < 2:
        return []
    return [
        f"made on processors of {len(processors)} kinds: {'; '.join(processors)}. Landmarks, and "
        "sound decoded from mp4, flv or mp3, can differ between them in the last digits: build on "
        "one kind for bytes that another build repeats"
    ]


def _clip_notes(measurements: Mapping[str, Measurements]) -> list[str]:
    """Return one line for each kind of note that clips have."""
    lines = []
    for note in sorted({note for each in measurements.values() for note in each.notes}):
        names = sorted(name for name, each in measurements.items() if note in each.notes)
        clips = "clip" if len(names) == 1 else "clips"
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{len(names)} {clips}: {note}: {', '.join(names[:_NAMED])}{more}")
    return lines


def _warnings(clips: Mapping[int, int], num_folds: int) -> list[str]:
    empty = [str(fold) for fold in range(num_folds) if not clips.get(fold)]
    if not empty:
        return []
    return [
        f"no clip in actor fold {', '.join(empty)} of {num_folds}: "
        "fewer actors than folds; lower --num_folds or add actors"
    ]
