"""The tables as one HTML file that needs nothing else, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from emotion_tfdata.grid.ablation import content, plot
from emotion_tfdata.html_page import render


def page(summary: Mapping[str, Any]) -> str:
    """Render the page of a summary."""
    return _render("ablation.html.j2", summary)


def markdown(summary: Mapping[str, Any]) -> str:
    """Render a summary as Markdown that is readable as it is; plots are skipped."""
    return _render("ablation.md.j2", summary)


def _render(template: str, summary: Mapping[str, Any]) -> str:
    return render(
        __package__,
        template,
        title=content.title(summary),
        content=content.blocks(summary),
        summary=summary,
        forest=plot.forest,
        signs=_signs,
    )


def _signs(text: str | Markup) -> str | Markup:
    return text.replace("+-", "±")
