"""What a trained model says of raw clips.

  python -m preprocess.predict --model_dir=M CLIP.mp4 ... [--json=OUT] [--timeline=DIR]

Clips go through the same decoding and the same features as the data set that the model was trained
on; the data set itself is not needed. Clips that cannot be used are named and the others served;
the status is 1 then.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from preprocess import cli

with cli.importing():
    from preprocess.prediction import timeline
    from preprocess.prediction.predictor import (
        Failure,
        Features,
        PredictError,
        Prediction,
        load_features,
        predict_clips,
    )


def row(clip: str, emotion: str, columns: Sequence[str], widths: Sequence[int]) -> str:
    """Format a line of the table: clip, emotion and a column a class, of `widths` characters."""
    clip_width, emotion_width, *others = widths
    cells = "  ".join(f"{text:>{width}}" for text, width in zip(columns, others, strict=True))
    return f"{clip:<{clip_width}}  {emotion:<{emotion_width}}  {cells}"


def as_json(
    model_dir: Path, features: Features, results: Sequence[tuple[Path, Prediction | Failure]]
) -> str:
    """Format all results as JSON text: `clips` and `failed`, in the order given."""
    clips, failed = [], []
    for path, result in results:
        if isinstance(result, Failure):
            failed.append({"path": str(path), **dataclasses.asdict(result)})
        else:
            entry = {"path": str(path), "emotion": result.emotion, **dataclasses.asdict(result)}
            clips.append(entry | {"trained_actor": features.trained_actor(path)})
    content = {
        "model_dir": str(model_dir),
        "name": features.name,
        "trained_on": features.provenance or "recordings",
        "class_names": list(features.class_names),
        "calibrated": features.temperature is not None,
        "temperature": features.temperature,
        "clips": clips,
        "failed": failed,
    }
    return json.dumps(content, indent=1) + "\n"


def define_flags() -> None:
    """Define this command's flags, which must not happen at import."""
    flags.DEFINE_string("model_dir", None, "Folder of a finished training, of one fold.")
    flags.DEFINE_string("json", None, "File that gets everything as JSON; -: standard output.")
    flags.DEFINE_string(
        "timeline",
        None,
        f"Folder that gets what each file sounds and looks like over time instead, in windows of "
        f"{timeline.WINDOW_S:g} s every {timeline.EVERY_S:g} s: CLIP.json and CLIP.png.",
    )
    flags.DEFINE_integer(
        "num_workers",
        None,
        "Processes that read clips; as many as cores if not given.",
        lower_bound=1,
    )


def main(argv: Sequence[str]) -> int:
    """Predict as the flags say; return the exit status: 1 if any clip was not served."""
    chosen, paths = flags.FLAGS, [Path(name) for name in argv[1:]]
    if not chosen.model_dir or not paths:
        cli.fail("give a trained model and clips: --model_dir=M CLIP.mp4 ...")
    model_dir = Path(chosen.model_dir)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A pipe that asks for JSON gets nothing else.
    screen = sys.stderr if chosen.json == "-" else sys.stdout
    results: list[tuple[Path, Prediction | Failure]] = []
    try:
        if chosen.json:
            _check_writable(chosen.json)
        features = load_features(model_dir)
        for note in _notes(features, paths):
            print(note, file=sys.stderr)
        workers = chosen.num_workers or len(os.sched_getaffinity(0))
        if chosen.timeline:
            return _timelines(model_dir, paths, features, Path(chosen.timeline), workers)
        names = features.class_names
        widths = [max(len(text) for text in ("clip", *map(str, paths))), max(map(len, names))]
        widths += [max(5, len(name)) for name in names]
        print(row("clip", "emotion", names, widths), file=screen)
        for path, result in predict_clips(model_dir, paths, features, num_workers=workers):
            results.append((path, result))
            if isinstance(result, Failure):
                print(f"{path}: not served: {result.reason}", file=sys.stderr, flush=True)
            else:
                shares = [f"{result.probabilities[name]:.3f}" for name in names]
                print(row(str(path), result.emotion, shares, widths), file=screen, flush=True)
                for note in result.notes:
                    print(f"note: {path}: {note}", file=sys.stderr, flush=True)
        if chosen.json:
            _write(chosen.json, as_json(model_dir, features, results))
    except PredictError as error:
        cli.fail(str(error))
    failed = sum(isinstance(result, Failure) for _, result in results)
    if failed:
        print(f"{failed} of {len(results)} clips were not served", file=sys.stderr)
    return int(failed > 0)


def _timelines(
    model_dir: Path, paths: Sequence[Path], features: Features, out_dir: Path, workers: int
) -> int:
    """Write the files of `--timeline`; return the exit status."""
    names = [path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PredictError(f"--timeline: two files are named {twice[0]}; give them one at a time")
    failed = 0
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for path, result in timeline.timelines(model_dir, paths, features, num_workers=workers):
            if isinstance(result, Failure):
                failed += 1
                print(f"{path}: not served: {result.reason}", file=sys.stderr, flush=True)
                continue
            target = out_dir / path.name
            target.with_name(f"{path.name}.json").write_text(result.as_json(), encoding="utf-8")
            result.draw().savefig(target.with_name(f"{path.name}.png"), dpi=110)
            print(f"{path}: {len(result.starts_s)} windows: {target}.json and .png", flush=True)
            for start_s, end_s, reason in result.gaps:
                print(f"note: {path}: {start_s:g} to {end_s:g} s: {reason}", file=sys.stderr)
    except OSError as error:
        raise PredictError(f"--timeline={out_dir}: cannot be written ({error.strerror})") from error
    except ModuleNotFoundError as error:
        raise PredictError(f"--timeline: {error}; install the extra [preprocess]") from error
    return int(failed > 0)


def _notes(features: Features, paths: Sequence[Path]) -> Iterator[str]:
    """Yield what a reader of the figures should know first."""
    if features.provenance:
        yield f"note: {features.name} was trained on {features.provenance}; it knows no people"
    if features.temperature is None:
        yield "note: the probabilities are not calibrated (trained without --select_on=inner)"
    else:
        yield (
            f"note: the probabilities are calibrated (temperature {features.temperature:.3f}, "
            "fitted to clips that were not trained on)"
        )
    known = [(path, actor) for path in paths if (actor := features.trained_actor(path))]
    if known:
        path, actor = known[0]
        more = f", and {len(known) - 1} more" if len(known) > 1 else ""
        yield (
            f"warning: by their names, actors that the model was trained on are in {path} "
            f"({actor}){more}; it does better on them than on anyone else"
        )
    differing = [
        f"{name} {version} (here {_version(name)})"
        for name, version in features.versions.items()
        if _version(name) != version
    ]
    if differing:
        yield (
            f"note: the training's features were made with {', '.join(differing)}; those made "
            "here may differ a little"
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _check_writable(target: str) -> None:
    """Raise PredictError where the JSON could not be written, before clips are read for it."""
    path = Path(target)
    if target != "-" and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        reason = "it is a folder" if path.is_dir() else f"no writable folder {path.parent}"
        raise PredictError(f"--json={target} cannot be written: {reason}")


def _write(target: str, text: str) -> None:
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PredictError(f"--json={target} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    define_flags()
    cli.run(main)
