"""What an ablation trains: which system, protocol, seed and fold, by which flags and where to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from emotion_tfdata.dataset import protocols as protocols_lib
from emotion_tfdata.dataset.manifest import Manifest, ManifestError
from emotion_tfdata.grid.job import GridError, Job, filled_folds

PROJECT_DIR = Path(__file__).resolve().parents[3]
BASELINE = "baseline"

# The systems, and the validation accuracy that the project's source document reports for each.
SYSTEMS = {
    "baseline": "0.841",
    "regularization": "0.848",
    "sync_aug": "0.848",
    "optimizer": "0.844",
    "tcn_video": "-",
    "tcn": "0.86+ expected",
}
PROTOCOLS = ("actor", "random")

# What the ablation itself says to train.py, and what does not change what is trained.
_OURS = {"data_dir", "model_dir", "name", "protocol", "fold", "folds", "seed", "overwrite"}
_OF_THE_MACHINE = {
    *("checkpoint_every_s", "intra_op_threads", "inter_op_threads", "input_threads", "profile"),
    "tflite",
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What the manifest says of a data set.

    Attributes:
      path: its folder.
      sha256: of its manifest.
      provenance: what figures made from it must be called; empty for real recordings.
      num_folds: by protocol.
      filled: by protocol, the folds that hold a clip.
      notes: by protocol, what of the data set or of the protocol has no part in it.
    """

    path: Path
    sha256: str
    provenance: str
    num_folds: Mapping[str, int]
    filled: Mapping[str, tuple[int, ...]]
    notes: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, data_dir: str, protocols: Sequence[str]) -> DataSet:
        """Read the manifest.

        Raises:
          GridError: if there is none, it is not one, or a protocol does not suit the data set.
        """
        if "://" in data_dir:
            raise GridError(
                f"--data_dir={data_dir}: every training reads all of it once an epoch; copy it to "
                "this machine first"
            )
        try:
            manifest = Manifest.load(data_dir)
            deals = {protocol: manifest.deal(protocol) for protocol in protocols}
        except ManifestError as error:
            raise GridError(f"--data_dir={data_dir}: {error}") from error
        except protocols_lib.ProtocolError as error:
            raise GridError(f"--protocols={','.join(protocols)}: {error}") from error
        return cls(
            path=Path(data_dir),
            sha256=manifest.sha256,
            provenance=manifest.provenance,
            num_folds={protocol: deal.num_folds for protocol, deal in deals.items()},
            filled={p: tuple(filled_folds(manifest, p)) for p in protocols},
            notes={protocol: deal.notes for protocol, deal in deals.items()},
        )


@dataclasses.dataclass(frozen=True, order=True)
class Training:
    """One training, told from the others by these four; in the order in which they are done.

    Seeds come first, so that early on every system has been trained by every fold once.
    """

    seed: int
    fold: int
    protocol: str
    number: int  # the system's place among those asked for
    system: str = dataclasses.field(compare=False)

    @property
    def name(self) -> str:
        """The training's folder within the ablation's."""
        return f"{self.protocol}/{self.system}/seed-{self.seed}/fold-{self.fold}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The trainings of an ablation, and their flags.

    Attributes:
      data: the data set.
      model_dir: folder of everything.
      systems: names.
      protocols: names.
      seeds: numbers.
      folds: by protocol, numbers.
      train_args: further flags of train.py, for every training.
      flags: by system, what its flagfile holds.
    """

    data: DataSet
    model_dir: Path
    systems: tuple[str, ...]
    protocols: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: Mapping[str, tuple[int, ...]]
    train_args: tuple[str, ...]
    flags: Mapping[str, tuple[str, ...]]

    @classmethod
    def make(
        cls,
        *,
        data_dir: str,
        model_dir: str,
        systems: Sequence[str],
        protocols: Sequence[str],
        num_seeds: int,
        folds: Sequence[str],
        epochs: int | None,
        train_args: Sequence[str],
    ) -> Plan:
        """Make a plan from flags.

        Raises:
          GridError: for what does not exist or does not fit.
        """
        _check_names("systems", systems, tuple(SYSTEMS))
        _check_names("protocols", protocols, protocols_lib.NAMES)
        data = DataSet.load(data_dir, protocols)
        given = _expanded(train_args)
        if epochs is not None:
            given = (f"--epochs={epochs}", *given)
        return cls(
            data=data,
            model_dir=Path(model_dir),
            systems=tuple(dict.fromkeys(systems)),
            protocols=tuple(dict.fromkeys(protocols)),
            seeds=tuple(range(num_seeds)),
            folds={protocol: _folds(folds, data, protocol) for protocol in protocols},
            train_args=given,
            flags={system: _read_flags(flagfile(system)) for system in systems},
        )

    @property
    def trainings(self) -> list[Training]:
        """All trainings, in the order in which they are done."""
        return sorted(
            Training(seed, fold, protocol, number, system)
            for number, system in enumerate(self.systems)
            for protocol in self.protocols
            for seed in self.seeds
            for fold in self.folds[protocol]
        )

    def folder(self, training: Training) -> Path:
        """Return the folder of a training's files."""
        return self.model_dir / training.name

    def job(self, training: Training, overwrite: bool = False) -> Job:
        """Return a training as the grid runs it; of flags given twice the last counts."""
        folder = self.folder(training)
        args = (
            *(f"--flagfile={flagfile(training.system)}", *self.train_args),
            *(f"--data_dir={self.data.path}", f"--model_dir={folder}"),
            *(f"--protocol={training.protocol}", f"--fold={training.fold}"),
            *(f"--seed={training.seed}", *(["--overwrite"] if overwrite else [])),
        )
        return Job(training.name, folder, args, self.epochs(training.system))

    def request(self, training: Training) -> dict[str, object]:
        """Return what a training's outcome depends on, beside the four that name its folder."""
        args = (*self.flags[training.system], *self.train_args)
        decide = [arg for arg in args if _name(arg) not in _OF_THE_MACHINE | _OURS]
        return {"flags": decide, "data_manifest_sha256": self.data.sha256}

    def epochs(self, system: str) -> int:
        """Return the most epochs that a training of the system has; 0 if nothing says it."""
        args = (*self.flags[system], *self.train_args)
        said = [arg.partition("=")[2] for arg in args if _name(arg) == "epochs"]
        return int(said[-1]) if said and said[-1].isdigit() else 0

    def changes(self, system: str) -> list[str]:
        """Return the system's flags that differ from the baseline's, as its flagfile says them."""
        baseline = {*_read_flags(flagfile(BASELINE))}
        return [
            arg for arg in self.flags[system] if arg not in baseline and _name(arg) not in _OURS
        ]


def flagfile(system: str) -> Path:
    """Return the path of a system's flagfile."""
    top = PROJECT_DIR / f"{system}.flags"
    return top if top.exists() else PROJECT_DIR / "launch" / "flags" / f"{system}.flags"


def _read_flags(path: Path) -> tuple[str, ...]:
    try:
        return tuple(flags.FlagValues().read_flags_from_files([f"--flagfile={path}"]))
    except flags.Error as error:
        raise GridError(str(error)) from error


def _expanded(train_args: Sequence[str]) -> tuple[str, ...]:
    """Return the flags after --, with those of their flagfiles.

    Raises:
      GridError: for what is no flag, and for flags that the ablation itself decides.
    """
    try:
        args = flags.FlagValues().read_flags_from_files(list(train_args))
    except flags.Error as error:
        said = str(error).removeprefix("ERROR:: ")
        raise GridError(f"after --: {said}") from error
    for arg in args:
        if not arg.startswith("-"):
            raise GridError(
                f"unexpected argument {arg!r}; train.py's flags go after --, as --FLAG=VALUE"
            )
        if _name(arg) in _OURS:
            raise GridError(
                f"{arg} cannot be handed on: --{_name(arg)} is the ablation's own to say"
            )
    return tuple(args)


def _name(arg: str) -> str:
    return arg.lstrip("-").partition("=")[0]


def _check_names(flag: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"there is no {', '.join(map(repr, unknown))}" if unknown else "nothing is named"
        raise GridError(f"--{flag}: {what}; give some of {','.join(known)}")


def _folds(asked: Sequence[str], data: DataSet, protocol: str) -> tuple[int, ...]:
    filled = data.filled[protocol]
    if not filled:
        raise GridError(f"{data.path} holds no clip")
    if list(asked) == ["all"]:
        return filled
    folds = tuple(dict.fromkeys(int(fold) if fold.isdigit() else -1 for fold in asked))
    if not folds or -1 in folds:
        raise GridError(f"--folds={','.join(asked)}: give 'all' or numbers, e.g. 0,2")
    empty = [str(fold) for fold in folds if fold not in filled]
    if empty:
        raise GridError(
            f"--folds={','.join(asked)}: {data.path} has no clip in fold {', '.join(empty)} "
            f"({protocol} protocol); folds with clips: {', '.join(map(str, filled))}"
        )
    return tuple(sorted(folds))
