"""A training's report as one page with its pictures inside, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emotion_tfdata.html_page import render
from emotion_tfdata.training import report_figures, report_text
from emotion_tfdata.training.settings import Settings

# Of the model's settings, those that the data set decides.
_FROM_DATA = {
    *("name", "fold", "features.num_classes", "features.modalities"),
    *(f"model.{name}" for name in ("num_classes", "modalities", "num_audio_features")),
    "model.num_landmarks",
}
_FIGURES = [f"{name}_figure" for name in ("confusion", "curves", "folds", "raters", "reliability")]


def page(report: Mapping[str, Any]) -> str:
    """Render the page of a report.

    Args:
      report: of a fold or over folds, as `report` makes it.
    """
    title = f"{report['name']}: {report['held_out']['clips']} held-out clips"
    if report["provenance"]:
        title += f" ({report['provenance']})"
    errors = report["held_out"]["errors"]
    columns = ["example_id", "true", "predicted", "probability", "probability_of_true"]
    columns += ["fold"] * any("fold" in error for error in errors)
    return _render(
        "report.html.j2",
        report,
        title=title,
        what=_what(report),
        error_heads=[column.replace("_", " ") for column in columns],
        errors=[
            [f"{e[c]:.3f}" if isinstance(e[c], float) else e[c] for c in columns] for e in errors
        ],
        settings=[
            (name, _plain(here), _plain(usual))
            for name, here, usual in changed_settings(report["settings"])
        ],
        sentence=lambda words: f"{words[0].upper()}{words[1:]}.",
        **{name: getattr(report_figures, name) for name in _FIGURES},
    )


def markdown(report: Mapping[str, Any]) -> str:
    """Render a report as Markdown that is readable as it is."""
    return _render("report.md.j2", report, unusual=report_text.what_rows(report))


def _render(template: str, report: Mapping[str, Any], **more: Any) -> str:
    held_out = report["held_out"]
    return render(
        __package__,
        template,
        report=report,
        held_out=held_out,
        groups=report_text.group_rows(held_out["by_group"]),
        calibration=report_text.calibration_rows(held_out["calibration"]),
        digits=report_text.digits,
        interval_words=report_text.interval_words,
        rater_words=report_text.rater_words,
        rater_rows=report_text.rater_rows,
        **more,
    )


def changed_settings(settings: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (name, value, default) of what is not train.py's default, but for the data's sizes."""
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


def _what(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("protocol", f"{report['protocol']}: {report['protocol_meaning']}")]
    rows += report_text.what_rows(report)
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
    return [
        *rows,
        ("selection", f"{report['select_on']}: {report['selection_meaning']}"),
        ("modalities", report["settings"]["features"]["modalities"]),
        ("data set", report["data_dir"]),
        ("computed by", report.get("device", "CPU")),
        ("time", f"{report['seconds'] / 60:.1f} minutes of training"),
    ]


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
