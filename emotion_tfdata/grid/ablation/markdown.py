"""The page as text."""

from __future__ import annotations

from collections.abc import Sequence

from emotion_tfdata.grid.ablation.content import Block, Heading, Items, Paragraph, Table


def markdown(blocks: Sequence[Block]) -> str:
    """Markdown that is readable as it is; plots are skipped."""
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Paragraph):
            parts.append(f"**{block.text}**" if block.warning else block.text)
        elif isinstance(block, Items):
            parts.append("\n".join(f"- {text}" for text in block.texts))
        elif isinstance(block, Table):
            rows = [block.header, ["---"] * len(block.header), *block.rows]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts) + "\n"
