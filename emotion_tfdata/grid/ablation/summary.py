"""The figures of an ablation, as `ablation.json` holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from emotion_tfdata.dataset.protocols import describe
from emotion_tfdata.grid.ablation import intervals
from emotion_tfdata.grid.ablation.plan import BASELINE, SYSTEMS, Plan, Training
from emotion_tfdata.grid.ablation.training import Outcome

WAITING = "waiting"  # a training that was not begun
METRICS = {"uar": "UAR", "accuracy": "accuracy"}


def summarize(
    plan: Plan, finished: Mapping[Training, Outcome], unfinished: Mapping[Training, str]
) -> dict[str, Any]:
    """Collect everything that is known of an ablation.

    Args:
      plan: what was asked for.
      finished: what trainings came to.
      unfinished: of all others, where they stand.

    Returns:
      JSON values.
    """
    protocols = {}
    for protocol in plan.protocols:
        outcomes = {
            system: {
                (t.seed, t.fold): outcome
                for t, outcome in finished.items()
                if (t.protocol, t.system) == (protocol, system)
            }
            for system in plan.systems
        }
        parts = sorted(
            {
                part
                for training, outcome in finished.items()
                if training.protocol == protocol
                for part in outcome.figures
                if part != "all"
            }
        )
        protocols[protocol] = {
            "meaning": describe(protocol).words,
            "leaky": describe(protocol).leaky,
            "notes": list(plan.data.notes[protocol]),
            "num_folds": plan.data.num_folds[protocol],
            "folds": list(plan.folds[protocol]),
            "trainings_each": len(plan.folds[protocol]) * len(plan.seeds),
            "clips": _clips(outcomes),
            "actors": _range(outcomes, lambda outcome: outcome.actors),
            "parts": {
                part: {
                    system: _figures(plan, protocol, part, outcomes, system)
                    for system in plan.systems
                }
                for part in ("all", *parts)
            },
        }
    return {
        "provenance": plan.data.provenance,
        "data_dir": str(plan.data.path),
        "data_manifest_sha256": plan.data.sha256,
        "seeds": list(plan.seeds),
        "train_flags": list(plan.train_args),
        "how": sorted({outcome.how for outcome in finished.values() if outcome.how}),
        "selection": sorted({outcome.selection for outcome in finished.values()}),
        "systems": {
            system: {
                "flags": list(plan.flags[system]),
                "otherwise_than_baseline": plan.changes(system),
                "document_accuracy": SYSTEMS[system],
            }
            for system in plan.systems
        },
        "protocols": protocols,
        "trainings": [
            _about(training, finished.get(training), unfinished.get(training, ""))
            for training in plan.trainings
        ],
    }


def _figures(
    plan: Plan,
    protocol: str,
    part: str,
    outcomes: Mapping[str, Mapping[tuple[int, int], Outcome]],
    system: str,
) -> dict[str, Any]:
    """Return the figures of one system on one part of the held-out clips."""
    by_fold = len(plan.folds[protocol]) > 1

    def values(of: str, metric: str) -> dict[tuple[int, int], float]:
        found = {key: o.figures.get(part, {}).get(metric) for key, o in outcomes[of].items()}
        return {key: value for key, value in found.items() if value is not None}

    figures: dict[str, Any] = {}
    for metric in METRICS:
        own = values(system, metric)
        figures[metric] = _estimate(own, by_fold)
        if system != BASELINE and BASELINE in outcomes:
            baseline = values(BASELINE, metric)
            paired = {key: own[key] - baseline[key] for key in own.keys() & baseline.keys()}
            figures[f"{metric}_minus_baseline"] = _estimate(paired, by_fold)
    own_outcomes = outcomes[system].values()
    figures["trainings"] = len(own_outcomes)
    if part == "all" and own_outcomes:
        for name in ("seconds", "epochs", "best_epoch"):
            figures[name] = sum(getattr(o, name) for o in own_outcomes) / len(own_outcomes)
    return figures


def _estimate(values: Mapping[tuple[int, int], float], by_fold: bool) -> dict[str, Any] | None:
    found = intervals.estimate(values, by_fold)
    if found is None:
        return None
    each = [{"seed": s, "fold": f, "value": v} for (s, f), v in sorted(values.items())]
    return {**dataclasses.asdict(found), "values": each}


def _clips(outcomes: Mapping[str, Mapping[Any, Outcome]]) -> dict[str, list[int] | None]:
    """Return the fewest and the most clips that a training had."""
    return {
        name: _range(outcomes, lambda outcome, n=number: outcome.clips[n])  # type: ignore[misc]
        for number, name in enumerate(("train", "selection", "held_out"))
    }


def _range(
    outcomes: Mapping[str, Mapping[Any, Outcome]], of: Callable[[Outcome], int]
) -> list[int] | None:
    counts = [of(outcome) for each in outcomes.values() for outcome in each.values()]
    return [min(counts), max(counts)] if counts else None


def _about(training: Training, outcome: Outcome | None, state: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "protocol": training.protocol,
        "system": training.system,
        "seed": training.seed,
        "fold": training.fold,
        "folder": training.name,
        "state": "finished" if outcome else state,
    }
    if outcome:
        about |= dataclasses.asdict(outcome)
        del about["selection"]
    return about
