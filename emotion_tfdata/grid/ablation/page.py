"""The page as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from emotion_tfdata.grid.ablation import plot
from emotion_tfdata.grid.ablation.content import Block, Heading, Items, Paragraph, Plot, Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  color: #1d2530; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
td, th { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid #dfe4ea;
  white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
figure { margin: 1.2rem 0; } figcaption, li { font-size: 14px; } svg { max-width: 100%; }
.wide { overflow-x: auto; } .warning { color: #7a3b00; font-weight: 600; }
"""


def page(blocks: Sequence[Block], summary: Mapping[str, Any]) -> str:
    """The page, as text."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(_html(block, summary) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block, summary: Mapping[str, Any]) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_text(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        kind = ' class="warning"' if block.warning else ""
        return f"<p{kind}>{_text(block.text)}</p>"
    if isinstance(block, Items):
        return f"<ul>{''.join(f'<li>{_text(text)}</li>' for text in block.texts)}</ul>"
    if isinstance(block, Table):
        head = "".join(f"<th>{_text(cell)}</th>" for cell in block.header)
        rows = "".join(
            f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>\n" for row in block.rows
        )
        return f'<div class="wide"><table><tr>{head}</tr>\n{rows}</table></div>'
    assert isinstance(block, Plot)
    drawing = plot.forest(block.protocol, summary["protocols"][block.protocol]["parts"]["all"])
    return (
        f"<figure>{drawing}<figcaption>Dot and bar: mean and 95 % interval. Grey: every pair of "
        "trainings, same fold and seed.</figcaption></figure>"
    )


def _text(text: str) -> str:
    return html.escape(text).replace("+-", "&plusmn;")
