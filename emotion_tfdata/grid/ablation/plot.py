"""Differences to the baseline, drawn."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_tfdata.dataset.protocols import describe
from emotion_tfdata.grid.ablation.plan import BASELINE
from emotion_tfdata.grid.ablation.summary import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def forest(protocol: str, systems: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw mean, interval and single pairs of each system's difference, a panel for each metric.

    Args:
      protocol: for the title.
      systems: as a part of a summary's protocol has them.
    """
    # It warns of caches that it makes on first use; nobody who trains needs to know.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    compared = [
        name
        for name, figures in systems.items()
        if name != BASELINE and figures.get("uar_minus_baseline")
    ]
    figure = Figure(figsize=(9.5, 1.0 + 0.4 * len(compared)), layout="constrained")
    leaky = ", leaky" if describe(protocol).leaky else ""
    figure.supxlabel(f"difference to the baseline, protocol {protocol}{leaky}", fontsize=9)
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, (metric, name) in zip(panels, METRICS.items(), strict=True):
        found = [systems[system][f"{metric}_minus_baseline"] for system in compared]
        axes.axvline(0, color="#1d2530", linewidth=1)
        for row, one in enumerate(found):
            values = [pair["value"] for pair in one["values"]]
            axes.plot(values, np.full(len(values), row + 0.25), ".", color="#8b97a5", alpha=0.6)
        # One training has no interval.
        half_widths = [one["half_width"] or 0.0 for one in found]
        means = [one["mean"] for one in found]
        rows = range(len(found))
        axes.errorbar(means, rows, xerr=half_widths, fmt="o", color="#2b6cb0", linewidth=2.5)
        # A difference of two shares lies within -1 and 1, whatever an interval over few says.
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -1.05), min(high, 1.05))
        axes.set_title(name, fontsize=10)
        axes.set_yticks(rows, compared)
        axes.grid(axis="x", color="#dfe4ea")
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_ylim(len(compared) - 0.5, -0.5)
    return figure
