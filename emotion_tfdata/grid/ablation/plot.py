"""Differences to the baseline, drawn as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from emotion_tfdata.dataset.protocols import describe
from emotion_tfdata.grid.ablation.plan import BASELINE
from emotion_tfdata.grid.ablation.summary import METRICS

_LABELS, _PANEL, _GAP, _ROW, _TOP, _BOTTOM = 120, 330, 30, 34, 30, 44
_INK, _FAINT, _LINE = "#1d2530", "#8b97a5", "#2b6cb0"


def forest(protocol: str, systems: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean, interval and single pairs of each system's difference, a panel for each metric.

    Args:
      protocol: for the title.
      systems: as a part of a summary's protocol has them.
    """
    compared = [
        name
        for name, figures in systems.items()
        if name != BASELINE and figures.get("uar_minus_baseline")
    ]
    height = _TOP + _ROW * len(compared) + _BOTTOM
    width = _LABELS + len(METRICS) * (_PANEL + _GAP)
    leaky = ", leaky" if describe(protocol).leaky else ""
    title = f"difference to the baseline, protocol {protocol}{leaky}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" role="img" aria-label="{html.escape(title)}" font-family="sans-serif" '
        f'font-size="13" fill="{_INK}">'
    ]
    for row, name in enumerate(compared):
        parts.append(_text(_LABELS - 12, _middle(row) + 4, name, "end"))
    for number, (metric, metric_name) in enumerate(METRICS.items()):
        found = [systems[name][f"{metric}_minus_baseline"] for name in compared]
        left = _LABELS + number * (_PANEL + _GAP)
        parts += _panel(left, f"{metric_name}, {title}", found)
    return "\n".join([*parts, "</svg>"])


def _panel(left: float, title: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    low, high, step = _scale(found)
    bottom = _TOP + _ROW * len(found)

    def x(value: float) -> float:
        return left + 10 + (value - low) / (high - low) * (_PANEL - 20)

    parts = []
    for number in range(round(low / step), round(high / step) + 1):
        at, zero = x(number * step), number == 0
        colour = _INK if zero else "#dfe4ea"
        parts.append(_line(at, _TOP - 4, at, bottom, colour, 1))
        label = "0" if zero else f"{number * step:+.{_decimals(step)}f}"
        parts.append(_text(at, bottom + 16, label, "middle", 11))
    parts.append(_text(left + _PANEL / 2, bottom + 36, title, "middle", 11))
    for row, one in enumerate(found):
        y = _middle(row)
        for value in one["values"]:
            parts.append(
                f'<circle cx="{x(value["value"]):.1f}" cy="{y + 9:.1f}" r="2.5" fill="{_FAINT}" '
                'fill-opacity="0.6"/>'
            )
        half = one["half_width"]
        if half is not None:
            ends = x(max(one["mean"] - half, low)), x(min(one["mean"] + half, high))
            parts.append(_line(ends[0], y, ends[1], y, _LINE, 2.5))
        parts.append(f'<circle cx="{x(one["mean"]):.1f}" cy="{y:.1f}" r="4.5" fill="{_LINE}"/>')
    return parts


def _scale(found: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Ends of the axis and the distance of its ticks; zero is one of them."""
    reach = [0.0]
    for one in found:
        half = one["half_width"] or 0.0
        reach += [one["mean"] - half, one["mean"] + half]
        reach += [value["value"] for value in one["values"]]
    # A difference of two shares lies within -1 and 1, whatever an interval over few says.
    low, high = max(min(reach), -1.0), min(max(reach), 1.0)
    rough = max(high - low, 0.01) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return step * math.floor(low / step - 0.2), step * math.ceil(high / step + 0.2), step


def _decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _middle(row: int) -> float:
    return _TOP + _ROW * (row + 0.42)


def _text(x: float, y: float, text: str, anchor: str, size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{html.escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )
