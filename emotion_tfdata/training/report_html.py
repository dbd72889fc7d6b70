"""A training's report as one page with its pictures inside: open it anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emotion_tfdata.html_page import document, image, note, table
from emotion_tfdata.training.report_figures import (
    confusion_figure,
    curves_figure,
    folds_figure,
    raters_figure,
    reliability_figure,
)
from emotion_tfdata.training.report_text import (
    calibration_rows,
    digits,
    group_rows,
    interval_words,
    rater_rows,
    rater_words,
    what_rows,
)
from emotion_tfdata.training.settings import Settings

# Of the model's settings, those that the data set decides.
_FROM_DATA = {
    *("name", "fold", "features.num_classes", "features.modalities"),
    *(f"model.{name}" for name in ("num_classes", "modalities", "num_audio_features")),
    "model.num_landmarks",
}


def page(report: Mapping[str, Any]) -> str:
    """The page, as text.

    Args:
      report: of a fold or over folds, as `report` makes it.
    """
    held_out, folds = report["held_out"], report.get("folds")
    title = f"{report['name']}: {held_out['clips']} held-out clips"
    if report["provenance"]:
        title += f" ({report['provenance']})"
    parts = list(_notes(report))
    for name, key in (("unweighted average recall (UAR)", "uar"), ("accuracy", "accuracy")):
        over = held_out.get(f"{key}_over_folds")
        value = interval_words(over) if over else f"{held_out[key]:.3f}"
        parts.append(f'<p class="figure"><b>{value}</b> <small>{name}</small></p>')
    parts += ["<h2>What was measured, on whom</h2>", _words(report)]
    if folds:
        parts += ["<h2>By fold</h2>", image(folds_figure(report)), _folds_table(report)]
    parts += [
        '<div class="side"><div><h2>Confusion matrix</h2>',
        image(confusion_figure(report), dpi=90),
        "</div><div><h2>By class</h2>",
        _figures_table("class", held_out["by_class"], ("clips", "recall", "precision")),
        "</div></div>",
        "<h2>Training</h2>",
        image(curves_figure(report)),
        "<h2>By corpus and actor</h2>",
        '<div class="side">',
        _figures_table("corpus", held_out["by_corpus"], ("clips", "accuracy", "uar")),
        _figures_table("actor", held_out["by_actor"], ("clips", "accuracy", "uar")),
        _groups_table(held_out["by_group"]),
        "</div>",
        *_raters(held_out["raters"]),
        "<h2>How far its probabilities can be trusted</h2>",
        '<div class="side">',
        image(reliability_figure(held_out["calibration"]), dpi=90),
        table((), calibration_rows(held_out["calibration"]), kind="text"),
        "</div>",
        "<h2>The errors it was surest of</h2>",
        _errors_table(held_out["errors"]),
        "<h2>Settings that are not the default</h2>",
        _settings_table(report["settings"]),
    ]
    return document(title, parts)


def changed_settings(settings: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, value, default) of what is not train.py's default, without the data's own sizes."""
    default = Settings().as_dict()
    here = dict(settings)
    if here["augment"] is None:
        here["augment"], default["augment"] = "off", "on"
    ours, usual = _flat(here), _flat(default)
    return [
        (name, ours[name], usual.get(name))
        for name in ours
        if name not in _FROM_DATA and ours[name] != usual.get(name)
    ]


def _notes(report: Mapping[str, Any]) -> Iterable[str]:
    if report["provenance"]:
        words = f"Figures are of {report['provenance']}; they say nothing about people."
        yield note(words)
    if report["leaky"]:
        words = report["protocol_meaning"].removeprefix("leaky: ")
        yield note(f"Leaky. {words[0].upper()}{words[1:]}.")
    if report["select_on"] == "held_out":
        words = report["selection_meaning"]
        yield note(words[0].upper() + words[1:] + ".")


def _words(report: Mapping[str, Any]) -> str:
    rows = [("protocol", f"{report['protocol']}: {report['protocol_meaning']}")]
    rows += what_rows(report)
    if "folds" in report:
        folds = ", ".join(map(str, report["folds"]))
        rows.append(
            ("held out", f"folds {folds} of {report['num_folds']}, each by a training of its own")
        )
        rows.append(("seeds", ", ".join(map(str, report["seeds"]))))
    else:
        clips = report["clips"]
        part, train, chosen = clips["held_out"], clips["train"], clips["selection"]
        rows += [
            (
                "held out",
                f"fold {report['fold']} of {report['num_folds']}: {part['clips']} clips, "
                f"{part['num_actors']} actors ({', '.join(part['actors'])})",
            ),
            ("trained on", f"{train['clips']} clips of {train['num_actors']} actors"),
        ]
        if chosen:
            words = f"{chosen['clips']} clips of {chosen['num_actors']} actors"
            rows.append(("selected on", words))
        rows.append(("epoch kept", f"{report['best_epoch']} of {report['epochs']} trained"))
    rows += [
        ("selection", f"{report['select_on']}: {report['selection_meaning']}"),
        ("modalities", report["settings"]["features"]["modalities"]),
        ("data set", report["data_dir"]),
        ("computed by", report.get("device", "CPU")),
        ("time", f"{report['seconds'] / 60:.1f} minutes of training"),
    ]
    return table((), rows, kind="text")


def _raters(raters: Mapping[str, Any] | None) -> Iterable[str]:
    if raters:
        yield "<h2>Beside people who judged the same clips</h2>"
        yield from (f"<p>{words}</p>" for words in rater_words(raters))
        yield image(raters_figure(raters), dpi=90)
        columns = ("intended class", "clips", "recall: model", "raters' majority", "a single rater")
        yield table(columns, rater_rows(raters))


def _groups_table(groups: Mapping[str, Mapping[str, Any]]) -> str:
    rows = group_rows(groups)
    columns = ("group", "actors", "clips", "UAR, mean and 95 % interval over actors")
    return table(columns, rows) if rows else ""


def _folds_table(report: Mapping[str, Any]) -> str:
    rows = [
        (
            *(
                part["fold"],
                part["seed"],
                part["clips"],
                digits(part["uar"]),
                digits(part["accuracy"]),
            ),
            *(f"{part['best_epoch']} of {part['epochs']}", ", ".join(part["actors"])),
        )
        for part in report["by_fold"]
    ]
    return table(("fold", "seed", "clips", "UAR", "accuracy", "epoch kept", "whose clips"), rows)


def _figures_table(
    name: str, parts: Mapping[str, Mapping[str, Any]], columns: Sequence[str]
) -> str:
    rows = [
        (key, *(part[c] if c == "clips" else digits(part[c]) for c in columns))
        for key, part in parts.items()
    ]
    return table((name, *(c.upper() if c == "uar" else c for c in columns)), rows)


def _errors_table(errors: Sequence[Mapping[str, Any]]) -> str:
    fold = ("fold",) if any("fold" in error for error in errors) else ()
    columns = ("example_id", "true", "predicted", "probability", "probability_of_true", *fold)
    rows = [[f"{e[c]:.3f}" if isinstance(e[c], float) else e[c] for c in columns] for e in errors]
    return table([column.replace("_", " ") for column in columns], rows)


def _settings_table(settings: Mapping[str, Any]) -> str:
    rows = [
        (name, _plain(value), _plain(usual)) for name, value, usual in changed_settings(settings)
    ]
    return table(("setting", "here", "default"), rows, kind="text")


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        text = ", ".join(map(str, value))
        return text if len(text) < 100 else f"{len(value)} values: {text[:80]} ..."
    return str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
