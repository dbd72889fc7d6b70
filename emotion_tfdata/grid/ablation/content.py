"""What an ablation's page says, whatever it is written in: headings, paragraphs, lists, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emotion_tfdata.grid.ablation.intervals import FOLDS
from emotion_tfdata.grid.ablation.plan import BASELINE
from emotion_tfdata.grid.ablation.summary import METRICS, WAITING

_DOCUMENT = (
    "(1) The validation accuracy that the source document reports, on its own data under its "
    "random 80/20 split. Other clips: it stands here to be looked at, not to be compared with."
)


# Its kind and its content: h2, h3, p and note are text, items are texts, a table is its heads and
# its rows, and a plot is the protocol of which it shows the differences to the baseline.
Block = tuple[str, Any]


def title(summary: Mapping[str, Any]) -> str:
    """Return the page's heading."""
    return "Ablation" + (f" on {summary['provenance']}" if summary["provenance"] else "")


def blocks(summary: Mapping[str, Any]) -> list[Block]:
    """Return what stands below the heading, block by block."""
    asked = len(summary["trainings"])
    done = sum(one["state"] == "finished" for one in summary["trainings"])
    content: list[Block] = []
    if summary["provenance"]:
        text = f"All figures are of {summary['provenance']}; they say nothing about people."
        content.append(("note", text))
    content.append(
        (
            "p",
            f"{done} of {asked} trainings are done: {len(summary['systems'])} systems, "
            f"{_some(len(summary['seeds']), 'seed')}, data {summary['data_dir']}.",
        )
    )
    missing = [one for one in summary["trainings"] if one["state"] != "finished"]
    if missing:
        content += [
            (
                "note",
                f"{len(missing)} trainings are missing. Rows that lack some say how many they "
                "have; they are means over what is there, so trust differences, which are made of "
                "the pairs that are there, over means.",
            ),
            ("items", _missing(missing)),
        ]
    for protocol, result in summary["protocols"].items():
        content += _protocol(summary, protocol, result)
    return content + _method(summary)


def _missing(trainings: Sequence[Mapping[str, Any]]) -> list[str]:
    begun = [one for one in trainings if one["state"] != WAITING]
    texts = [f"{one['folder']}: {one['state']}" for one in begun]
    if len(begun) < len(trainings):
        texts.append(f"waiting: {len(trainings) - len(begun)}")
    return texts


def _protocol(summary: Mapping[str, Any], protocol: str, result: Mapping[str, Any]) -> list[Block]:
    leaky = result["leaky"]
    content: list[Block] = [
        ("h2", f"Protocol {protocol}" + (": leaky" if leaky else "")),
        ("note" if leaky else "p", _meaning(result)),
        ("p", _clips(result)),
    ]
    if result["notes"]:
        content.append(("items", result["notes"]))
    for part, systems in result["parts"].items():
        if part == "all":
            content += [_table(summary, result, systems, whole=True), ("p", _DOCUMENT)]
            if any(figures.get("uar_minus_baseline") for figures in systems.values()):
                content.append(("plot", protocol))
        else:
            content.append(("h3", f"{part} alone, {protocol}{' (leaky)' if leaky else ''}"))
            content.append(_table(summary, result, systems, whole=False))
    return content


def _meaning(result: Mapping[str, Any]) -> str:
    meaning = result["meaning"]
    return f"{meaning[0].upper()}{meaning[1:]}."


def _clips(result: Mapping[str, Any]) -> str:
    folds, clips = result["folds"], result["clips"]
    text = f"Held out: {_numbers('fold', folds)} of {result['num_folds']}"
    text += ", one after the other." if len(folds) > 1 else " alone."
    if clips["held_out"]:
        chosen = clips["selection"]
        text += f" A training has {_span(clips['train'])} clips to train on"
        text += f", {_span(chosen)} to choose the epoch on" if chosen[1] else ""
        text += f", and {_span(clips['held_out'])} of {_span(result['actors'])} actors to test on; "
        text += f"each of these is {1 / clips['held_out'][0]:.3f} of its accuracy."
    return text


def _table(
    summary: Mapping[str, Any],
    result: Mapping[str, Any],
    systems: Mapping[str, Mapping[str, Any]],
    *,
    whole: bool,
) -> Block:
    header = ["system", *METRICS.values()]
    compared = BASELINE in systems and len(systems) > 1
    if compared:
        header += [f"{name} - baseline's" for name in METRICS.values()]
    if whole:
        header += ["epochs", "seconds", "document (1)"]
    rows = []
    for system, figures in systems.items():
        there, each = figures["trainings"], result["trainings_each"]
        row = [system if there == each else f"{system} ({there} of {each} trainings)"]
        row += [_figure(figures[metric]) for metric in METRICS]
        if compared:
            row += [_difference(figures, metric) for metric in METRICS]
        if whole:
            row += [
                f"{figures[key]:.0f}" if key in figures else "-" for key in ("epochs", "seconds")
            ]
            row.append(summary["systems"][system]["document_accuracy"])
        rows.append(row)
    return "table", (header, rows)


def _method(summary: Mapping[str, Any]) -> list[Block]:
    folds = max(len(result["folds"]) for result in summary["protocols"].values())
    seeds = len(summary["seeds"])
    if folds > 1:
        interval = (
            "Mean +- half of the 95 % interval: seeds are averaged within each fold, and the "
            f"interval is Student's t over the folds ({folds - 1} degrees of freedom where all are "
            "there). Trainings of one fold share their test clips, so seeds are not counted as "
            "further values; folds share training clips, so the interval is somewhat too narrow."
        )
    elif seeds > 1:
        interval = (
            "Mean +- half of the 95 % interval: one fold is held out, so the interval is Student's "
            f"t over seeds ({seeds - 1} degrees of freedom where all are there), all tested on the "
            "same clips. It says how far a training's luck goes, and nothing about other clips or "
            "other actors; --folds=all does."
        )
    else:
        interval = "One fold and one seed: no interval."
    texts = [
        "UAR: unweighted average recall, the mean of the classes' recalls.",
        interval,
        "Differences to the baseline are paired: same fold, same seed. Each interval stands for "
        "itself; among several, one may miss 0 by chance."
        if BASELINE in summary["systems"]
        else "The baseline is not among the systems, so there are no differences to it.",
        "Seconds: mean of a training's epochs, start and report not counted; "
        + ("trained " + "; or ".join(summary["how"]) if summary["how"] else "nothing is finished"),
        *(f"Choice of the epoch: {text}." for text in summary["selection"]),
    ]
    if summary["train_flags"]:
        texts.append(f"For every system: {' '.join(summary['train_flags'])}")
    systems = [
        f"{name}: {' '.join(about['otherwise_than_baseline']) or 'the flagfile as it is'}"
        for name, about in summary["systems"].items()
    ]
    return [
        ("h2", "How"),
        ("items", texts),
        ("h2", "What a system's flagfile has otherwise than the baseline's"),
        ("items", systems),
    ]


def _figure(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["half_width"] is None:
        return f"{found['mean']:.3f} (one {'fold' if found['units'] == FOLDS else 'seed'})"
    return f"{found['mean']:.3f} +- {found['half_width']:.3f}"


def _difference(figures: Mapping[str, Any], metric: str) -> str:
    found = figures.get(f"{metric}_minus_baseline")
    if not found:
        return "-"
    text = f"{found['mean']:+.3f}"
    if found["half_width"] is not None:
        text += f" +- {found['half_width']:.3f}"
    if found["trainings"] != figures["trainings"]:
        text += f" ({_some(found['trainings'], 'pair')})"
    return text


def _span(counts: Sequence[int]) -> str:
    low, high = counts
    return f"{low}" if low == high else f"{low} to {high}"


def _numbers(name: str, numbers: Sequence[int]) -> str:
    return f"{name}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def _some(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"
