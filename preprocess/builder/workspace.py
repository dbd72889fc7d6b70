"""The folder of a data set while it is built: what is finished stays, nothing half-done is taken.

`build.json` says what the folder is a build of, from before the first clip on. Below `.work/` lies
one file for each finished clip, then, once all are, the plan of the shards, and one file for each
finished shard. Each appears by rename. `.work/` goes when the manifest stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from emotion_tfdata.dataset.atomic_file import replacing
from emotion_tfdata.dataset.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    STATISTICS_NAME,
    Manifest,
    ManifestError,
)
from emotion_tfdata.dataset.schema import (
    TEXT_FEATURES,
    Example,
    Stored,
    completed,
    from_stored,
    specs,
    stored_arrays,
)
from emotion_tfdata.dataset.tfds import FEATURES_NAME, INFO_NAME
from preprocess.builder import lock
from preprocess.builder.differences import differences
from preprocess.builder.writer import SHARD_NAME, ShardPlan
from preprocess.builder.written_shard import WrittenShard, measurements_from_json
from preprocess.clip.measurements import Measurements
from preprocess.corpora import Skipped
from preprocess.reports.report import HTML_NAME, JSON_NAME
from preprocess.verify import verify

BUILD_NAME = "build.json"
SKIPPED_NAME = "skipped.csv"
OLD_SKIPPED_NAME = "left_out.csv"  # a link: users' scripts read the list by its first name
_WORK_NAME = ".work"
_LOCK_NAME = ".lock"
_TOKEN_NAME = "token-"
_MADE_AGAIN = "the same command makes it again"
# What reading a damaged json file raises.
_DAMAGES = (ValueError, KeyError, TypeError, AttributeError)
_MANIFEST_NAMES = (INDEX_NAME, STATISTICS_NAME, FEATURES_NAME, INFO_NAME, MANIFEST_NAME)
# The manifest's files and the description, before they have their names.
_HALF_WRITTEN = re.compile(
    rf"\.({'|'.join(map(re.escape, (BUILD_NAME, *_MANIFEST_NAMES)))})\.[\w-]+\.tmp", re.ASCII
)


class WorkspaceError(ValueError):
    """A folder that this build cannot be made in; says why and what to do."""


class Workspace:
    """A data set's folder and the state of its build.

    Args:
      out_dir: the folder; need not exist.
      stored: the data set's modalities.
    """

    def __init__(self, out_dir: Path, stored: Stored = None) -> None:
        self.out_dir = out_dir
        self.stored = stored
        self.work_dir = out_dir / _WORK_NAME
        self.token = secrets.token_hex(8)
        self._shards_plan = self.work_dir / "shards.json"
        self.fetched_dir = self.work_dir / "fetched"  # recordings behind URLs

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for one build alone.

        Raises:
          WorkspaceError: if it cannot be written, or another process is building in it.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.out_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock.held(self.out_dir / _LOCK_NAME))
            except BlockingIOError as error:
                raise WorkspaceError(f"{self.out_dir}: another build is writing here") from error
            except OSError as error:
                raise WorkspaceError(
                    f"--out_dir={self.out_dir} cannot be written ({error.strerror})"
                ) from error
            yield

    def take_over(self, description: Mapping[str, Any], overwrite: bool) -> Manifest | None:
        """Make the folder, which must be held, that of this build.

        Args:
          description: what the build is a function of; JSON values.
          overwrite: throws away what another build left, or this one if it was damaged since.

        Returns:
          The manifest, if this very build is finished already.

        Raises:
          WorkspaceError: if it holds another build, or a finished one that was damaged since.
        """
        try:
            manifest = self._standing(description, verified=overwrite)
        except WorkspaceError:
            if not overwrite:
                raise
            self.clear()
            manifest = None
        if manifest:
            self.finish()
            return manifest
        for path in self._leftovers():
            if path.suffix == ".tmp":
                path.unlink(missing_ok=True)
        # Before all else: what was interrupted here says whose it is.
        self._write_json(self.out_dir / BUILD_NAME, description)
        self.work_dir.mkdir(exist_ok=True)
        for path in self.work_dir.glob(f"{_TOKEN_NAME}*"):
            path.unlink()
        (self.work_dir / f"{_TOKEN_NAME}{self.token}").touch()
        return None

    def _standing(self, description: Mapping[str, Any], verified: bool) -> Manifest | None:
        """Return the manifest if this build is finished.

        Raises:
          WorkspaceError: if the folder holds another one, or a finished one that was damaged since.
        """
        if any(path.suffix != ".tmp" for path in self._leftovers()):
            self._refuse_others(description)
        return self._finished(verified) if (self.out_dir / MANIFEST_NAME).exists() else None

    def _finished(self, verified: bool) -> Manifest:
        """Return the manifest of a data set whose shards are there, each of its size.

        Args:
          verified: looks at every byte too, which takes a while.
        """
        try:
            manifest = Manifest.load(str(self.out_dir))
            problem = next(verify(self.out_dir), None) if verified else None
        except ManifestError as error:
            raise WorkspaceError(f"{error}; build again with --overwrite") from error
        if problem:
            raise WorkspaceError(problem)
        for shard in manifest.shards:
            path = self.out_dir / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is gone" if size is None else f"has {size} bytes, not {shard.bytes}"
                raise WorkspaceError(
                    f"{path} {found}: the data set was finished and is damaged. `python -m "
                    f"preprocess.verify --data_dir={self.out_dir}` tells what else is; build again "
                    "with --overwrite"
                )
        return manifest

    def is_held(self) -> bool:
        """Tell whether this machine sees the folder that `take_over` took."""
        return (self.work_dir / f"{_TOKEN_NAME}{self.token}").exists()

    def clear(self) -> None:
        """Remove what builds leave in the folder, and nothing else.

        The manifest goes first, and last what says whose the rest is.
        """
        (self.out_dir / MANIFEST_NAME).unlink(missing_ok=True)
        for path in sorted(self._leftovers(), key=lambda path: path.name == BUILD_NAME):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Remove the intermediate files; what cannot be removed does no harm."""
        shutil.rmtree(self.work_dir, ignore_errors=True)

    # -- processors -------------------------------------------------------------------------------

    def store_processor(self, description: str) -> None:
        """Store the kind of processor in a file of its own: shards are cut by the clips' sizes."""
        name = hashlib.sha256(description.encode()).hexdigest()[:16]
        self._write_json(self.work_dir / "processors" / f"{name}.json", description)

    def processors(self) -> tuple[str, ...]:
        """List the kinds of processors that took part, in alphabetical order."""
        found = (self.work_dir / "processors").glob("*.json")
        try:
            return tuple(sorted(str(json.loads(path.read_text("utf-8"))) for path in found))
        except ValueError:  # damaged since: no more than a note is lost
            return ()

    # -- clips ------------------------------------------------------------------------------------

    def outcomes(self) -> dict[str, Skipped | int]:
        """Return the finished clips: example id -> bytes of what is stored, or why it is skipped.

        One listing, since a file system on several machines may remember for a while that a name
        was asked for and not there.
        """
        found: dict[str, Skipped | int] = {}
        for folder in (self.work_dir / "clips").glob("*"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    stem, ending = os.path.splitext(entry.name)
                    if ending == ".npz":
                        found[f"{folder.name}/{stem}"] = entry.stat().st_size
                    elif ending == ".json":
                        try:
                            content = json.loads(Path(entry.path).read_text(encoding="utf-8"))
                            found[f"{folder.name}/{stem}"] = Skipped(**content)
                        except _DAMAGES as error:
                            print(
                                f"{entry.path} was damaged ({error!r}); its clip is tried again",
                                file=sys.stderr,
                            )
        return found

    def store_example(self, example: Example, measurements: Measurements | None = None) -> int:
        """Store a clip's arrays, as they will stand in its record, and what was measured of it.

        Returns:
          Its file's bytes, an upper bound of those of the arrays.
        """
        about = {name: getattr(example, name) for name in TEXT_FEATURES}
        about["facts"] = dataclasses.asdict(measurements or Measurements())
        arrays = stored_arrays(example, self.stored)
        arrays["about"] = np.array(json.dumps(about))
        path = self._clip_path(example.example_id, ".npz")
        return self._write(path, lambda file: np.savez(file, **arrays))

    def store_skipped(self, example_id: str, skipped: Skipped) -> None:
        """Store why a clip is skipped."""
        self._write_json(self._clip_path(example_id, ".json"), dataclasses.asdict(skipped))

    def load_example(self, example_id: str) -> tuple[Example, Measurements]:
        """Read what `store_example` stored.

        Raises:
          WorkspaceError: if the file is gone, or cannot be read, or was damaged since and is now
            removed. `can_be_sealed` will tell.
        """
        path = self._clip_path(example_id, ".npz")
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = {name: content[name] for name in (*specs(self.stored), "about")}
            about = json.loads(str(arrays.pop("about")))
        except FileNotFoundError as error:
            raise WorkspaceError(f"{path} is gone; {_MADE_AGAIN}") from error
        except OSError as error:
            raise WorkspaceError(
                f"{path} cannot be read ({error.strerror or error}). Fix or delete it; then "
                f"{_MADE_AGAIN}"
            ) from error
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            path.unlink(missing_ok=True)
            raise WorkspaceError(
                f"{path} was damaged ({error}) and is removed; {_MADE_AGAIN}"
            ) from error
        for name, spec in specs(self.stored).items():
            arrays[name] = from_stored(arrays[name], spec)
        measurements = measurements_from_json(about.pop("facts"))
        return Example(**about, **completed(arrays)), measurements

    # -- shards -----------------------------------------------------------------------------------

    def store_shards_plan(self, plans: Sequence[ShardPlan], skipped: Sequence[Skipped]) -> None:
        """Store which clips go where; from here on finished clips are not looked at again."""
        content = {
            "shards": [dataclasses.asdict(plan) for plan in plans],
            "skipped": [dataclasses.asdict(entry) for entry in skipped],
        }
        self._write_json(self._shards_plan, content)

    def has_shards_plan(self) -> bool:
        """Tell whether `store_shards_plan` has stored one."""
        return self._shards_plan.exists()

    def load_shards_plan(self) -> tuple[list[ShardPlan], list[Skipped]]:
        """Read what `store_shards_plan` stored.

        Raises:
          WorkspaceError: if it was damaged since.
        """
        try:
            content = json.loads(self._shards_plan.read_text(encoding="utf-8"))
            plans = [
                ShardPlan(
                    plan["name"],
                    plan["fold"],
                    tuple(plan["example_ids"]),
                    tuple(plan["random_folds"]),
                )
                for plan in content["shards"]
            ]
            return plans, [Skipped(**entry) for entry in content["skipped"]]
        except _DAMAGES as error:
            raise _damaged(self._shards_plan, error) from error

    def can_be_sealed(self) -> bool:
        """Tell whether each planned shard is finished, or has the files of all its clips."""
        kept, standing = self.outcomes(), self.standing_shards()
        try:
            plans, _ = self.load_shards_plan()
            for plan in plans:
                if plan.name in standing:
                    self.load_shard(plan.name)
                elif not kept.keys() >= set(plan.example_ids):
                    return False
        except WorkspaceError:
            return False
        return True

    def drop_shards(self) -> None:
        """Remove the shards and their plan, which may come out as another one.

        The plan goes last: without its shards it cannot be sealed either.

        Raises:
          OSError: if any of it cannot be removed.
        """
        folder = self._shard_path("").parent
        if folder.exists():  # an error is no matter to pass over: what stays would be taken
            shutil.rmtree(folder)
        for path in self._leftovers():
            if SHARD_NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
        self._shards_plan.unlink(missing_ok=True)

    def store_shard(self, written: WrittenShard) -> None:
        """Store what a finished shard holds, then drop its clips' own files."""
        self._write_json(self._shard_path(written.shard.name), written.to_json())
        self.drop_clips(record.example_id for record in written.records)

    def standing_shards(self) -> set[str]:
        """Return the names of the finished shards."""
        return {path.stem for path in self._shard_path("").parent.glob("fold-*.json")}

    def load_shard(self, name: str) -> WrittenShard:
        """Read what `store_shard` stored.

        Raises:
          WorkspaceError: if that was damaged since, or the shard itself is gone or has changed.
        """
        try:
            text = self._shard_path(name).read_text(encoding="utf-8")
            written = WrittenShard.from_json(json.loads(text))
        except _DAMAGES as error:
            raise _damaged(self._shard_path(name), error) from error
        path = self.out_dir / name
        if not path.exists() or path.stat().st_size != written.shard.bytes:
            raise WorkspaceError(f"{path} was removed or changed; {_MADE_AGAIN}")
        self.drop_clips(record.example_id for record in written.records)
        return written

    def drop_clips(self, example_ids: Iterator[str]) -> None:
        """Remove clips' own files."""
        for example_id in example_ids:
            self._clip_path(example_id, ".npz").unlink(missing_ok=True)

    # -- within -----------------------------------------------------------------------------------

    def _clip_path(self, example_id: str, ending: str) -> Path:
        return self.work_dir / "clips" / f"{example_id}{ending}"

    def _shard_path(self, name: str) -> Path:
        return self.work_dir / "shards" / f"{name}.json"

    def _leftovers(self) -> list[Path]:
        """List what a build may have left here."""
        names = {BUILD_NAME, SKIPPED_NAME, OLD_SKIPPED_NAME, JSON_NAME, HTML_NAME, _WORK_NAME}
        names.update(_MANIFEST_NAMES)
        return [
            path
            for path in sorted(self.out_dir.iterdir())
            if path.name in names
            or SHARD_NAME.fullmatch(path.name)
            or _HALF_WRITTEN.fullmatch(path.name)
        ]

    def _found_description(self) -> dict[str, Any] | None:
        """Return what the folder is a build of; None where nothing says so."""
        path = self.out_dir / BUILD_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            content = None
        if not isinstance(content, dict):
            raise WorkspaceError(f"{path} cannot be read; build again with --overwrite")
        return content

    def _refuse_others(self, description: Mapping[str, Any]) -> None:
        found = self._found_description()
        if found is None:
            raise WorkspaceError(
                f"{self.out_dir} holds a data set without its {BUILD_NAME}; --overwrite replaces it"
            )
        changed = differences(found, json.loads(json.dumps(description)))
        # Changed settings explain changed inputs, which may be thousands.
        changed.sort(key=lambda difference: not difference.startswith("settings "))
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise WorkspaceError(
                f"{self.out_dir} holds another build: {'; '.join(changed[:3])}{more}. "
                "--overwrite replaces it, another --out_dir keeps both"
            )

    def _write_json(self, path: Path, content: Any) -> None:
        def write(file: BinaryIO) -> None:
            for part in json.JSONEncoder(indent=1).iterencode(content):  # never all of it at once
                file.write(part.encode())
            file.write(b"\n")

        self._write(path, write)

    def _write(self, path: Path, write: Callable[[BinaryIO], Any]) -> int:
        """Write a file whole or not at all; return its bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            write(file)
            file.flush()
            return file.tell()


def _damaged(path: Path, error: Exception) -> WorkspaceError:
    return WorkspaceError(f"{path} was damaged ({error!r}); {_MADE_AGAIN}")
