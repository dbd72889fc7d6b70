"""What a build's workers do: clips to examples, and examples to shards."""

from __future__ import annotations

import dataclasses
import socket
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emotion_tfdata.dataset import schema
from preprocess.builder import processor, self_test, writer
from preprocess.builder.plan import BuildError, BuildSettings
from preprocess.builder.workspace import Workspace, WorkspaceError
from preprocess.builder.writer import ShardPlan
from preprocess.clip import container
from preprocess.clip.example import make_example
from preprocess.clip.measurements import measure
from preprocess.corpora import FILE_ERRNOS, NO_PICTURE, NO_SOUND, Clip, Skipped, checksums

RESUMES = "the same command resumes"
ALTERED = "not the file that its corpus published (its SHA-256 is another)"
# What may be the machine's fault as well as a clip's: listed, but tried again by the next run.
PASSING_KINDS = ("failed", "no decoder")
# The settings that name an extractor, and where they say what it is made of.
_EXTRACTORS = {"audio_features": "extractor", "face_features": "face_extractor"}
# Tokens of the builds that this process was found fit for.
_checked: set[str] = set()


@dataclasses.dataclass(frozen=True)
class Stop:
    """A worker's word that the build cannot continue, whichever the clip.

    Attributes:
      reason: why, and what to do.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Work:
    """What workers know of a build, called with one task at a time.

    Attributes:
      roots: corpus -> folder.
      settings: of the build.
      wanted: the settings with the versions that the parent has.
      workspace: of the build.
      checked: corpora whose files are compared with the published ones.
    """

    roots: Mapping[str, Path]
    settings: BuildSettings
    wanted: Mapping[str, Any]
    workspace: Workspace
    checked: frozenset[str]

    def __call__(self, task: Clip | ShardPlan) -> int | Skipped | Stop:
        """Do a task and store what comes of it in the work folder.

        Returns:
          Bytes written; or why the clip is skipped, or why nothing can be kept.
        """
        if self.workspace.token not in _checked:
            reason = self._not_as_in_parent()
            if reason:
                return Stop(f"{socket.gethostname()}: {reason}; then {RESUMES}")
            try:
                self.workspace.store_processor(processor.describe())
            except OSError as error:
                return self._cannot_write(error)
            _checked.add(self.workspace.token)
        return self._process(task) if isinstance(task, Clip) else self._seal(task)

    def _not_as_in_parent(self) -> str:
        """Return why this process would not work as its parent does, or nothing.

        Where workers are on other machines, these may have other folders or other versions.
        """
        if not self.workspace.is_held():
            return (
                f"the build's {self.workspace.work_dir} is not there. --out_dir must be on storage "
                "that all nodes share, under the same path"
            )
        for corpus, root in self.roots.items():
            if not root.is_dir():
                return (
                    f"{root} is not there. --{corpus}_dir must be there on all nodes, under the "
                    "same path: put it on storage that they share, or copy it to each"
                )
        try:
            settings_here = self.settings.as_dict()
        except BuildError as error:
            return str(error)
        found, wanted = (
            {
                "recipe": settings["recipe"],
                **settings["versions"],
                **{
                    self.settings.__dict__[flag]: (settings[key] or {}).get("source_sha256")
                    for flag, key in _EXTRACTORS.items()
                },
            }
            for settings in (settings_here, self.wanted)
        )
        others = [
            f"{name} {found[name]}, not {wanted[name]}"
            for name in wanted
            if found[name] != wanted[name]
        ]
        if others:
            return (
                f"it has {', '.join(others)} as where the build was started, and might give other "
                "bytes. Install the same: pip install -c launch/constraints.txt"
            )
        built = self.settings.built
        return self_test.why_unfit(
            sound="audio" in built,
            faces=self.settings.needs_facemesh,
        )

    def _process(self, clip: Clip) -> int | Skipped | Stop:
        """Make one clip's example."""
        where = clip.place()
        skipped = None
        notes: list[str] = []
        try:
            checked = clip.corpus in self.checked
            paths = [file for file in clip.files if isinstance(file, Path)]
            altered = checksums.altered(clip.corpus, paths) if checked else ()
            if altered and self.settings.checksums == "require":
                raise container.MediaError("checksum", f"{', '.join(altered)}: {ALTERED}")
            example = make_example(
                clip,
                self.settings.extractor if clip.sound else self.settings.audio,
                face=self.settings.face,
                fetched_dir=self.workspace.fetched_dir,
                notes=notes,
            )
            # An example that cannot be stored fails here, by name.
            errors = schema.storage_errors(example, self.settings.stored_modalities)
        except container.MediaError as error:
            reason = str(error)
            if self.settings.modalities == "both":
                hints = dict([NO_PICTURE, NO_SOUND])
                reason = hints.get(error.kind, reason)
            skipped = Skipped(where, error.kind, reason)
        except FileNotFoundError as error:  # it was there when the build was planned
            return Stop(f"{socket.gethostname()}: {error.filename} is gone, or not seen from here")
        except OSError as error:
            if error.errno not in FILE_ERRNOS:
                return Stop(
                    f"{socket.gethostname()}: {where} cannot be read ({error.strerror or error}). "
                    f"Fix it; then {RESUMES}"
                )
            # Not kept: who resumes later may find it fixed.
            return Skipped(where, "unreadable", f"cannot be read ({error.strerror})")
        except ImportError as error:  # no clip is to blame
            return Stop(f"{self_test.describe(error)}; then {RESUMES}")
        except MemoryError:
            return Skipped(where, "failed", "needs more memory than --worker_memory_mb gives")
        except Exception as error:  # whatever a file provokes costs that file alone, and is listed
            traceback.print_exc()
            return Skipped(where, "failed", f"{type(error).__name__}: {error}")
        try:
            if skipped:
                if skipped.kind not in PASSING_KINDS:
                    self.workspace.store_skipped(clip.example_id, skipped)
                return skipped
            measurements = measure(
                example,
                altered,
                tuple(notes),
                is_log_mel=self.settings.audio_features == "logmel",
                errors=errors,
            )
            return self.workspace.store_example(example, measurements)
        except OSError as error:
            return self._cannot_write(error)

    def _seal(self, plan: ShardPlan) -> int | Stop:
        """Write one shard."""
        workspace = self.workspace
        try:
            written = writer.write_shard(
                workspace.out_dir, plan, workspace.load_example, self.settings.stored_modalities
            )
            workspace.store_shard(written)
        except OSError as error:
            return self._cannot_write(error)
        except (WorkspaceError, schema.SchemaError) as error:
            # A worker on a machine that was given up may have been faster.
            if plan.name not in workspace.standing_shards():
                return Stop(str(error))
            written = workspace.load_shard(plan.name)
        return written.shard.bytes

    def _cannot_write(self, error: OSError) -> Stop:
        return Stop(
            f"cannot write in {self.workspace.out_dir} ({error.strerror or error}). "
            f"Make room or fix it; then {RESUMES}"
        )
