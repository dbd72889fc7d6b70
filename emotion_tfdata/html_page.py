"""Self-contained HTML pages: text, tables and pictures in one file that opens anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1d2530; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
td, th { padding: .18rem .8rem .18rem 0; text-align: right; border-bottom: 1px solid #dfe4ea; }
td:first-child, th:first-child, .text td, .text th { text-align: left; }
img { max-width: 100%; } .note { color: #7a3b00; font-weight: 600; }
.figure { font-size: 1.25rem; margin: .2rem 0; } .figure small { color: #5b6675; }
.side { display: flex; gap: 3rem; flex-wrap: wrap; }
.wide { overflow-x: auto; }
@media print { body { max-width: none; margin: 0; } .wide { overflow: visible; }
  tr, img { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page.

    Args:
      title: plain text; also the page's first heading.
      parts: HTML.
    """
    name, body = html.escape(title), "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{name}</h1>\n{body}\n</body></html>\n"
    )


def note(text: str) -> str:
    """A paragraph of plain text that stands out."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(
    heads: Sequence[str], rows: Sequence[Sequence[Any]], *, kind: str = "", title: str = ""
) -> str:
    """A table of plain text, or "none" where there are no rows.

    Args:
      heads: of the columns; may be empty.
      rows: of cells, written by `str`.
      kind: "text" aligns every column to the left, else only the first.
      title: stands above it.
    """
    if not rows:
        return "<p>none</p>"
    lines = [_row("th", heads)] if heads else []
    lines += [_row("td", row) for row in rows]
    above = f"<b>{html.escape(title)}</b>" if title else ""
    return f'<div class="wide">{above}<table class="{kind}">{"".join(lines)}</table></div>'


def image(figure: Figure, dpi: int = 110) -> str:
    """The figure as a PNG within the page; the same bytes for the same figure."""
    content = io.BytesIO()
    figure.set_dpi(dpi)
    # Not `savefig`, which draws everything twice.
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{encoded}">'


def _row(cell: str, values: Iterable[Any]) -> str:
    return "<tr>" + "".join(f"<{cell}>{html.escape(str(v))}</{cell}>" for v in values) + "</tr>"
