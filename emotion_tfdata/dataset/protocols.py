"""Who is held out: folds of one's own, published ones, one actor or one corpus at a time.

Shards do not decide it: a protocol deals what a data set holds, actor by actor (or clip by clip
under `random`), when it is read. No TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

SPLITS = ("train", "validation", "test", "all")
Cell = tuple[str, str]


class ProtocolError(ValueError):
    """A protocol that does not exist, or that a data set cannot be dealt by."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to hold clips out.

    Attributes:
      name: as `protocol=` takes it, or the path of a file.
      meaning: what it holds out, for a report.
      used_by: whose figures it makes comparable.
      leaky: whether people are on both sides.
    """

    name: str
    meaning: str
    used_by: str
    leaky: bool = False

    @property
    def words(self) -> str:
        """The protocol's meaning and use in one line."""
        return f"{'leaky: ' * self.leaky}{self.meaning}. Used by {self.used_by}"


_NOBODY_TWICE = "nobody in the held-out fold was trained on"
_KNOWN = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "actor",
            f"actors held out: {_NOBODY_TWICE}; folds of consecutive actors, as even as can be",
            "this project alone, so beside no published figure",
        ),
        Protocol(
            "random",
            "clips dealt at random, so the same actors, and the same sentences in the same voices, "
            "are trained on and tested on; the figures do not carry over to new people",
            "most figures above 80 % on these corpora (80/20 splits of clips)",
            leaky=True,
        ),
        Protocol(
            "published",
            f"actors held out: {_NOBODY_TWICE}; RAVDESS by luna, CREMA-D by hicmae",
            "Luna-Jimenez et al. 2021, 2022 (RAVDESS); HiCMAE and others (CREMA-D)",
        ),
        Protocol(
            "luna",
            f"actors held out: {_NOBODY_TWICE}; RAVDESS alone, five published folds",
            "Luna-Jimenez et al. 2021, 2022, with 8 classes",
        ),
        Protocol(
            "emobox_ravdess",
            f"actors held out: {_NOBODY_TWICE}; RAVDESS alone, six published folds",
            "EmoBox",
        ),
        Protocol(
            "hicmae",
            f"actors held out: {_NOBODY_TWICE}; CREMA-D alone, five published folds; of the four "
            "damaged clips that it drops, a build keeps the one wav that is whole",
            "HiCMAE and others, with 6 classes",
        ),
        Protocol(
            "leave_one_actor_out",
            f"each actor held out once: {_NOBODY_TWICE}",
            "Ibrahim et al., among others",
        ),
        Protocol(
            "leave_one_corpus_out",
            "each corpus held out once: neither its actors, sentences nor recordings were trained "
            "on",
            "EMO-AffectNet, among others",
        ),
    )
}
NAMES = tuple(_KNOWN)

# Protocol -> corpus -> the actors of each fold.
_RAVDESS_LUNA = (
    *((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20)),
    *((8, 17, 21, 23, 24), (1, 4, 9, 22)),
)
_RAVDESS_EMOBOX = (
    *((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23)),
    *((3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22)),
)
_CREMA_D_HICMAE = tuple(
    range(first, last + 1)
    for first, last in ((1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091))
)
_PUBLISHED: Mapping[str, Mapping[str, Sequence[Sequence[int]]]] = {
    "published": {"ravdess": _RAVDESS_LUNA, "crema_d": _CREMA_D_HICMAE},
    "luna": {"ravdess": _RAVDESS_LUNA},
    "emobox_ravdess": {"ravdess": _RAVDESS_EMOBOX},
    "hicmae": {"crema_d": _CREMA_D_HICMAE},
}
_UNUSED = "unused"


@dataclasses.dataclass(frozen=True)
class Deal:
    """A data set's clips dealt to folds. A cell is what is never divided.

    Attributes:
      protocol: it was dealt by.
      cells: `[K]`, (corpus, actor), or (corpus, random fold) where `by_clip`.
      by_clip: whether cells are of clips, whoever acts in them.
      folds: int `[K]`; -1 for what is neither trained on nor tested on.
      num_folds: the folds are 0 to this less 1; some may be empty.
      validation_folds: int `[K]`, what `validation_fold` counts: the folds themselves, or, where
        one actor or corpus at a time is held out, `actor` folds of all the others.
      num_validation_folds: as `num_folds`.
      notes: what of the data set or of the protocol has no part in it, for a report.
    """

    protocol: Protocol
    cells: tuple[Cell, ...]
    by_clip: bool
    folds: np.ndarray
    num_folds: int
    validation_folds: np.ndarray
    num_validation_folds: int
    notes: tuple[str, ...] = ()

    def part(
        self,
        split: str,
        fold: int,
        validation_fold: int | None = None,
        corpora: Corpora = None,
    ) -> np.ndarray:
        """Return which cells a split consists of, bool `[K]`.

        `test` is `fold`, of the corpora tested on. `validation` is `validation_fold`, of the
        corpora trained on, without what is tested on. `train` is all else of the corpora trained
        on. `all` is all of either.

        Raises:
          ValueError: for an unknown split or corpus, a fold that there is not, `validation`
            without `validation_fold`.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self._check_folds(fold, validation_fold)
        if split == "validation" and validation_fold is None:
            raise ValueError(
                "split='validation' needs validation_fold, a fold other than the one held out; "
                f"give 'train' the same, e.g. validation_fold={(fold + 1) % self.num_folds}"
            )
        trained, tested = (self._of(names) for names in sides(corpora))
        dealt = self.folds >= 0
        test = dealt & tested & (self.folds == fold)
        if split == "test":
            return test
        if split == "all":
            return dealt & (trained | tested)
        rest = dealt & trained & ~test
        if validation_fold is None:
            return rest
        chosen = self.validation_folds == validation_fold
        return rest & (chosen if split == "validation" else ~chosen)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora dealt, sorted."""
        return tuple(sorted({corpus for corpus, _ in self.cells}))

    def _check_folds(self, fold: int, validation_fold: int | None) -> None:
        for name, value, count in (
            ("fold", fold, self.num_folds),
            ("validation_fold", validation_fold, self.num_validation_folds),
        ):
            if value is not None and not 0 <= value < count:
                raise ValueError(
                    f"{name} must be in 0..{count - 1}, the folds of protocol "
                    f"{self.protocol.name}, got {value}"
                )
        if self.validation_folds is self.folds and validation_fold == fold:
            raise ValueError(f"validation_fold must differ from fold, both are {fold}")

    def _of(self, names: tuple[str, ...] | None) -> np.ndarray:
        if names is None:
            return np.ones(len(self.cells), bool)
        for name in names:
            if name not in self.corpora:
                raise ValueError(
                    f"corpora: there is no {name!r} in this data set; it has "
                    f"{', '.join(self.corpora)}"
                )
        return np.array([corpus in names for corpus, _ in self.cells], bool)


Corpora = Sequence[str] | str | Mapping[str, Sequence[str] | str] | None


def sides(corpora: Corpora) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return the corpora trained on and those tested on, from what `corpora=` takes; None for all.

    Raises:
      ValueError: for anything but a name, a list of names, a mapping of "train" and "test" to
        either, or None.
    """

    def names(value: Sequence[str] | str | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        given = (value,) if isinstance(value, str) else tuple(value)
        if not given or not all(isinstance(name, str) for name in given):
            raise ValueError(f"corpora must be names, at least one, got {value!r}")
        return given

    if isinstance(corpora, Mapping):
        unknown = sorted(corpora.keys() - {"train", "test"})
        if unknown or not corpora:
            raise ValueError(f"corpora: give 'train', 'test' or both, got {sorted(corpora)}")
        return names(corpora.get("train")), names(corpora.get("test"))
    both = names(corpora)
    return both, both


def is_name(name: str) -> bool:
    """Tell whether a text is a protocol's name or may be a file of folds."""
    return name in _KNOWN or name.endswith(".json")


def check_name(name: str) -> None:
    """Raise ProtocolError, with the names there are, unless a text may name a protocol."""
    if not isinstance(name, str) or not is_name(name):
        raise ProtocolError(
            f"protocol must be one of {', '.join(NAMES)} or a JSON file of folds, got {name!r}"
        )


def describe(name: str) -> Protocol:
    """Describe a protocol in words.

    Raises:
      ProtocolError: for an unknown name.
    """
    check_name(name)
    if name in _KNOWN:
        return _KNOWN[name]
    return Protocol(name, f"folds of a file: {_NOBODY_TWICE}", "whoever made the file")


def deal(name: str, actor_folds: Mapping[Cell, int], num_folds: int) -> Deal:
    """Deal a data set's actors, or under `random` its clips, to folds.

    Args:
      name: of the protocol, or a file: `{"0": ["ravdess/01", ...], "1": [...]}`, the actors of each
        fold; everyone in the data set in one of them, or under `"unused"` (`"unused": "*"` for
        whoever is in none).
      actor_folds: (corpus, actor) of everyone in the data set, with the fold under `actor`; the
        cells are in this order. Under `random` they are of the corpora as sorted, and their folds.
      num_folds: of `actor` and `random`.

    Raises:
      ProtocolError: for an unknown protocol, one whose corpora the data set lacks, a file that
        cannot be read or does not suit the data set.
    """
    protocol = describe(name)
    if name == "random":
        corpora = sorted({corpus for corpus, _ in actor_folds})
        cells = tuple((corpus, str(fold)) for corpus in corpora for fold in range(num_folds))
        folds = np.array([int(number) for _, number in cells], np.int64)
        return Deal(protocol, cells, True, folds, num_folds, folds, num_folds)
    cells = tuple(actor_folds)
    notes: tuple[str, ...] = ()
    validation: Mapping[Cell, int] | None = None
    of: Mapping[Cell, int]
    if name == "actor":
        of, count = actor_folds, num_folds
    elif name == "leave_one_actor_out":
        of = {cell: number for number, cell in enumerate(sorted(cells))}
        count, validation = len(of), actor_folds
    elif name == "leave_one_corpus_out":
        corpora = sorted({corpus for corpus, _ in cells})
        if len(corpora) < 2:
            raise ProtocolError(
                f"protocol {name} needs two corpora, this data set has {', '.join(corpora)} alone"
            )
        of = {cell: corpora.index(cell[0]) for cell in cells}
        count, validation = len(corpora), actor_folds
    elif name in _PUBLISHED:
        of, count, notes = _published(name, cells)
    else:
        of, count = _of_file(name, cells)
    folds = np.array([of.get(cell, -1) for cell in cells], np.int64)
    if validation is None:
        return Deal(protocol, cells, False, folds, count, folds, count, notes)
    inner = np.array([validation[cell] for cell in cells], np.int64)
    return Deal(protocol, cells, False, folds, count, inner, num_folds, notes)


def _published(name: str, cells: Sequence[Cell]) -> tuple[dict[Cell, int], int, tuple[str, ...]]:
    lists = _PUBLISHED[name]
    there = {corpus for corpus, _ in cells}
    used = [corpus for corpus in lists if corpus in there]
    if not used:
        raise ProtocolError(
            f"protocol {name} holds out actors of {' and '.join(lists)}, this data set has "
            f"{', '.join(sorted(there))}"
        )
    of = {
        (corpus, f"{actor:02d}"): fold
        for corpus in used
        for fold, actors in enumerate(lists[corpus])
        for actor in actors
    }
    unknown = [cell for cell in cells if cell[0] in used and cell not in of]
    if unknown:
        raise ProtocolError(f"protocol {name} knows no actor {_some(unknown)}")
    notes = [f"clips of {corpus} have no part in it" for corpus in sorted(there - lists.keys())]
    for corpus in used:
        listed = {cell for cell in of if cell[0] == corpus}
        if missing := len(listed - set(cells)):
            notes.append(
                f"{missing} of the {len(listed)} actors of {corpus} that it lists are not in this "
                "data set, so its folds are not the published ones"
            )
    return of, max(len(lists[corpus]) for corpus in used), tuple(notes)


def _of_file(path: str, cells: Sequence[Cell]) -> tuple[dict[Cell, int], int]:
    where = f"protocol {path}"
    content = _read(path)
    unused = content.pop(_UNUSED, [])
    wanted = [str(number) for number in range(len(content))]
    if len(content) < 2 or sorted(content) != sorted(wanted):
        raise ProtocolError(
            f"{where}: folds must be named 0, 1, ... without a gap, at least two, got "
            f"{', '.join(content) or 'none'}"
        )
    lists: dict[str, list[str]] = {}
    for name, actors in (*content.items(), (_UNUSED, [] if unused == "*" else unused)):
        if not isinstance(actors, list) or not all(isinstance(actor, str) for actor in actors):
            raise ProtocolError(f'{where}: {name!r} must be a list like ["ravdess/01", ...]')
        lists[name] = actors
    there = {f"{corpus}/{actor}": (corpus, actor) for corpus, actor in cells}
    of: dict[Cell, int] = {}
    named: dict[str, str] = {}
    for name, actors in lists.items():
        for actor in actors:
            if actor in named:
                raise ProtocolError(f"{where}: {actor} stands in {named[actor]} and in {name}")
            if actor not in there:
                raise ProtocolError(
                    f"{where}: there is no actor {actor!r} in this data set, whose actors are like "
                    f"{next(iter(there))}"
                )
            named[actor] = name
            if name != _UNUSED:
                of[there[actor]] = int(name)
    forgotten = [cell for text, cell in there.items() if text not in named]
    if forgotten and unused != "*":
        raise ProtocolError(
            f'{where}: in no fold are {_some(forgotten)}; add them, or name them under "{_UNUSED}" '
            '("*" for all the others)'
        )
    return of, len(content)


def _read(path: str) -> dict[str, object]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands there twice")
        return dict(pairs)

    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_pairs_hook=once)
    except OSError as error:
        raise ProtocolError(f"protocol {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ProtocolError(f"protocol {path}: not JSON of folds ({error})") from error
    if not isinstance(content, dict):
        raise ProtocolError(f'protocol {path}: must be {{"0": ["ravdess/01", ...], "1": [...]}}')
    return content


def _some(cells: Sequence[Cell]) -> str:
    names = ["/".join(cell) for cell in cells]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def short_name(name: str) -> str:
    """Return a protocol's name for folders and titles: a file's own name without its ending."""
    return name if name in _KNOWN else os.path.splitext(os.path.basename(name))[0]
