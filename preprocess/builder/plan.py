"""What a build is to do, decided before a clip is decoded: settings, clips, folds, skipped."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_tfdata.dataset import protocols
from emotion_tfdata.dataset.folds import actor_folds, random_folds
from emotion_tfdata.dataset.manifest import Modality
from emotion_tfdata.fields import check, documented, setting
from emotion_tfdata.labels import Classes, class_index, class_names
from preprocess.builder.self_test import INSTALL
from preprocess.clip import container, extractors, face_extractors
from preprocess.clip.audio import HOP_SAMPLES, SAMPLE_RATE_HZ, AudioSettings
from preprocess.clip.extractors import AudioExtractor
from preprocess.clip.face_extractors import FaceFeatures
from preprocess.clip.files import Remote, identity
from preprocess.corpora import (
    FILE_ERRNOS,
    MODALITIES,
    Clip,
    CorpusError,
    Skipped,
    clips_csv,
    ravdess,
)
from preprocess.corpora.checksums import CHECKSUMS
from preprocess.corpora.clips_csv import Table
from preprocess.corpora.readers import READERS
from preprocess.drawn import sample
from preprocess.reports.summary import skipped_lines

# Raised whenever the same input would give other bytes than before.
RECIPE = 3
# Stands among the roots for the folder of RAVDESS's tracking record.
RAVDESS_TRACKING = "ravdess_tracking"


class BuildError(ValueError):
    """What keeps a data set from being built, in one line for its user."""


@documented
@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """What a data set's bytes depend on, beside its clips.

    Raises:
      ValueError: for a value that is not allowed.

    Attributes:
      audio: of the mel bands.
    """

    modalities: str = setting(
        "both", "What is built; with audio the wavs alone will do", choices=MODALITIES
    )
    num_classes: int = setting(6, "6: what both corpora have; 8: calm and surprised too")
    classes: tuple[str, ...] = setting(
        (), "Names of other classes than these, in their order, e.g. negative,neutral,positive"
    )
    num_folds: int = setting(5, "Folds of actors, and of clips", "[2, 2147483647]")
    split_protocol: str = setting(
        "actor",
        f"What shards are cut by, beside actor folds: {', '.join(protocols.NAMES)} or a JSON file "
        "of folds: who holds out by it reads no other shard. Every data set serves all "
        "protocols",
    )
    max_shard_size_mb: float = setting(64.0, "Largest shard, in 10^6 bytes", "(0, 1e9]")
    limit: int | None = setting(
        None, "Only so many clips of each corpus, spread over its actors", "[1, 2147483647]"
    )
    checksums: str = setting(
        "warn",
        "What becomes of files that are not those their corpus published: built and named, "
        "skipped, or not looked for. Drawn clips are never compared",
        choices=CHECKSUMS,
    )
    audio: AudioSettings = dataclasses.field(default_factory=AudioSettings)
    audio_features: str = setting(
        "logmel",
        "What sound becomes: logmel, mfcc (of the same mel bands), egemaps (openSMILE's low-level "
        "descriptors, for research alone), or package.module:name of an extractor of one's own; "
        "see preprocess/clip/extractors.py",
    )
    num_mfcc: int = setting(13, "Cepstral coefficients of mfcc", "[1, 2147483647]")
    mfcc_deltas: int = setting(2, "Derivatives of mfcc over time", "[0, 2]")
    face_features: str = setting(
        "facemesh",
        "What pictures become: facemesh, openface (with --ravdess_tracking_dir), none (audio "
        "alone), or package.module:name of an extractor of one's own; see "
        "preprocess/clip/face_extractors.py",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.face_features == "none":
            if self.modalities == "landmarks":
                raise ValueError(
                    "modalities=landmarks and face_features=none leave nothing to build"
                )
            object.__setattr__(self, "modalities", "audio")
        class_names(self.classes or self.num_classes)
        protocols.check_name(self.split_protocol)
        if "audio" in self.built:
            self.audio.check_filters()
            _ = self.extractor
        if "landmarks" in self.built:
            _ = self.face

    @property
    def extractor(self) -> AudioExtractor:
        """What makes the audio features.

        Raises:
          ValueError: if there is none of that name.
        """
        return extractors.resolve(self.audio_features, self.audio, self.num_mfcc, self.mfcc_deltas)

    @property
    def face(self) -> FaceFeatures:
        """What makes the features of the pictures.

        Raises:
          ValueError: if there is none of that name.
        """
        return face_extractors.resolve(self.face_features if self.needs_pictures else "facemesh")

    @property
    def needs_pictures(self) -> bool:
        """Whether pictures are looked at."""
        return "landmarks" in self.built

    @property
    def needs_facemesh(self) -> bool:
        """Whether FaceMesh looks for faces."""
        return self.needs_pictures and self.face_features == "facemesh"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the emotions that are kept, in the order of their indices."""
        return class_names(self.classes or self.num_classes)

    @property
    def built(self) -> tuple[str, ...]:
        """The modalities that get rows."""
        return ("audio", "landmarks") if self.modalities == "both" else (self.modalities,)

    @property
    def stored_modalities(self) -> dict[str, Modality]:
        """What the manifest says of the modalities."""
        stored = {}
        if "audio" in self.built:
            stored["audio"] = extractors.stored(self.extractor)
        if self.needs_pictures:
            stored["landmarks"] = face_extractors.stored(self.face)
        return stored

    def as_dict(self) -> dict[str, Any]:
        """Return all settings and what computes the values, with its versions, for JSON.

        Raises:
          BuildError: if a library that computes them is not installed.
        """
        packages = ["av", "librosa", "numpy", "soxr"] if "audio" in self.built else ["av", "numpy"]
        if "audio" in self.built and self.audio_features == "egemaps":
            packages.append("opensmile")
        if self.needs_facemesh:
            packages.append("mediapipe")
        try:
            versions = {name: importlib.metadata.version(name) for name in packages}
        except importlib.metadata.PackageNotFoundError as error:
            raise BuildError(f"{error.name} is not installed. {INSTALL}") from error
        return {
            **dataclasses.asdict(self),
            "recipe": RECIPE,
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "hop_samples": HOP_SAMPLES,
            "versions": versions,
            "extractor": extractors.describe(self.extractor) if "audio" in self.built else None,
            "face_extractor": face_extractors.describe(self.face) if self.needs_pictures else None,
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be built, before a clip is decoded.

    Attributes:
      clips: in order of their ids.
      checked: corpora whose files are compared with the published ones.
      actor_folds: (corpus, actor) -> fold.
      random_folds: example id -> fold.
      apart: example id -> fold of `split_protocol`, which shards do not mix either; empty for none.
      skipped: files that are not even tried.
      notes: of clips that are.
      provenance: `drawn clips` for the sample corpus, else empty.
    """

    clips: tuple[Clip, ...]
    checked: frozenset[str]
    actor_folds: Mapping[tuple[str, str], int]
    random_folds: Mapping[str, int]
    apart: Mapping[str, int]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    provenance: str

    def inputs(self) -> dict[str, list[list[Any]]]:
        """Map an example's id to path, size and time of change of its files, and to its part.

        Of clips that a csv lists, what it says of them too: their files' names do not.
        """
        inputs = {}
        for clip in self.clips:
            files = [[clip.place(file), *identity(file)] for file in clip.files]
            if clip.is_listed:
                said = [clip.actor, clip.emotion, clip.intensity, clip.sentence]
                files.append([*said, clip.part.start_s, clip.part.end_s])
            inputs[clip.example_id] = files
        return inputs


def plan_build(
    roots: Mapping[str, Path], settings: BuildSettings, tables: Sequence[Table] = ()
) -> Plan:
    """Find the clips and decide what becomes of each file.

    Args:
      roots: corpus -> folder.
      settings: of the build.
      tables: lists of further clips, as `clips_csv` reads them.

    Raises:
      BuildError: for a folder that does not hold its corpus, where no clip is left to build, or
        where files cannot be read or listed.
    """
    try:
        return _plan_build(roots, settings, tables)
    except MemoryError as error:
        raise BuildError("no memory is left to list the clips; make room or list fewer") from error
    except OSError as error:
        raise BuildError(f"{error}. Fix it; then run the same command again") from error


def _plan_build(
    roots: Mapping[str, Path], settings: BuildSettings, tables: Sequence[Table]
) -> Plan:
    corpora = sorted(roots.keys() - {RAVDESS_TRACKING})
    tracking_dir = roots.get(RAVDESS_TRACKING)
    if (settings.face_features == "openface") != (tracking_dir is not None):
        raise BuildError("--face_features=openface and --ravdess_tracking_dir go together")
    if tracking_dir and (corpora != ["ravdess"] or settings.modalities == "audio" or tables):
        raise BuildError(
            "--ravdess_tracking_dir has 68 landmarks of RAVDESS's faces: it goes with "
            "--ravdess_dir alone, and with landmarks"
        )
    found: list[Clip] = []
    clips: list[Clip] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    provenance = ""
    checked = set()
    for corpus in corpora:
        root = roots[corpus]
        try:
            if corpus == "ravdess" and tracking_dir:
                scan = ravdess.scan(root, settings.modalities, tracking_dir)
            else:
                scan = READERS[corpus].scan(root, settings.modalities)
            drawn = sample.find_marker(root) is not None
        except (CorpusError, OSError, ValueError) as error:
            raise BuildError(f"--{corpus}_dir: {error}") from error
        skipped += scan.skipped
        notes += scan.counted
        if drawn:
            provenance = sample.DESCRIPTION
        else:  # what is known of the real corpora is not true of clips drawn under the same names
            notes += scan.notes
            if settings.checksums != "off":
                checked.add(corpus)
        found += scan.clips
    for table in tables:
        try:
            scan = clips_csv.scan(table, settings.modalities, settings.class_names)
            files = (file for clip in scan.clips for file in clip.sources)
            folders = {os.path.dirname(file) for file in files if isinstance(file, str)}
            drawn = any(sample.find_marker(Path(folder)) for folder in folders)
        except (CorpusError, OSError, ValueError) as error:
            raise BuildError(f"--clips: {error}") from error
        skipped += scan.skipped
        notes += scan.counted
        provenance = sample.DESCRIPTION if drawn else provenance
        found += scan.clips
    classes, ids = settings.class_names, set[str]()
    index_of = {name: class_index(name, classes) for name in {clip.emotion for clip in found}}
    by_corpus: dict[str, list[Clip]] = {}
    for clip in found:
        refused = _refused(clip, index_of, len(classes))
        if not refused and clip.example_id in ids:
            reason = f"another clip is called {clip.example_id}"
            refused = Skipped(clip.place(), "duplicate name", reason)
        if refused:
            skipped.append(refused)
        else:
            ids.add(clip.example_id)
            by_corpus.setdefault(clip.corpus, []).append(clip)
    for kept in by_corpus.values():
        if settings.limit is not None:
            kept = spread_over_actors(kept, settings.limit, settings.class_names)
        clips += kept
    if not clips:
        lines = "\n".join(skipped_lines(skipped, listed=1))
        raise BuildError(f"no clip to build; all {len(skipped)} files are skipped:\n{lines}")
    del found, ids, by_corpus  # of a million clips, 200 MB
    clips.sort(key=lambda clip: clip.example_id)
    example_ids = [clip.example_id for clip in clips]
    by_actor = actor_folds(((clip.corpus, clip.actor) for clip in clips), settings.num_folds)
    try:
        deal = protocols.deal(settings.split_protocol, by_actor, settings.num_folds)
    except protocols.ProtocolError as error:
        raise BuildError(f"--split_protocol: {error}") from error
    labels = [str(index_of[clip.emotion]) for clip in clips]
    dealt = random_folds(example_ids, labels, settings.num_folds)
    apart = dealt if deal.by_clip else {}
    if settings.split_protocol not in ("actor", "random"):
        # What is in no fold comes last.
        folds = np.where(deal.folds < 0, deal.num_folds, deal.folds).tolist()
        fold_of = dict(zip(deal.cells, folds, strict=True))
        apart = {clip.example_id: fold_of[clip.corpus, clip.actor] for clip in clips}
    return Plan(
        clips=tuple(clips),
        checked=frozenset(checked),
        actor_folds=by_actor,
        random_folds=dealt,
        apart=apart,
        skipped=tuple(sorted(skipped, key=lambda entry: entry.path)),
        notes=tuple(notes),
        provenance=provenance,
    )


def spread_over_actors(clips: Iterable[Clip], limit: int, classes: Classes) -> list[Clip]:
    """Choose clips of one corpus, evenly over its actors and each actor's classes.

    Actors take turns with a clip each, and each goes round the classes before a class comes again.
    Each actor begins at another class, so that few clips have many. Within a class the order is
    that of a hash of the ids: sentences and intensities vary as well.

    Args:
      clips: in any order; each of an emotion that has a class.
      limit: how many at most. A larger one adds clips to those of a smaller one.
      classes: 6, 8 or names.
    """
    by_actor: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: hashlib.sha256(clip.example_id.encode()).digest()):
        by_actor[clip.actor].append(clip)
    num_classes = len(class_names(classes))
    turns = []
    for first_class, (actor, own) in enumerate(sorted(by_actor.items())):
        seen: Counter[int] = Counter()
        rounds = []
        for clip in own:
            label = class_index(clip.emotion, classes)
            assert label is not None
            rounds.append((seen[label], (label - first_class) % num_classes, clip))
            seen[label] += 1
        rounds.sort(key=lambda entry: entry[:2])
        turns += [(turn, actor, clip) for turn, (_, _, clip) in enumerate(rounds)]
    turns.sort(key=lambda entry: entry[:2])
    return [clip for _, _, clip in turns[:limit]]


def _refused(clip: Clip, index_of: Mapping[str, int | None], num_classes: int) -> Skipped | None:
    """Return why a clip is not even tried, or None."""
    if index_of[clip.emotion] is None:
        reason = f"{clip.emotion} is not among the {num_classes} classes"
        return Skipped(clip.place(), "emotion", reason)
    for path in clip.sources:
        if isinstance(path, Remote):
            continue
        try:
            error = container.not_media(path)
        except OSError as failure:
            if failure.errno not in FILE_ERRNOS:
                raise BuildError(
                    f"{path}: cannot be read ({failure.strerror}). Fix it; then run the same "
                    "command again"
                ) from failure
            error = container.MediaError("unreadable", f"cannot be read ({failure.strerror})")
        if error:
            return Skipped(clip.place(path), error.kind, str(error))
    return None
