"""Pages that stand alone, and show text as it is."""

from __future__ import annotations

import base64
import html.parser

from matplotlib.figure import Figure

from emotion_tfdata import html_page


class _Page(html.parser.HTMLParser):
    """Every element's text, by tag, and the pictures' sources."""

    def __init__(self):
        super().__init__()
        self.texts, self.images, self._open = {}, [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        elif tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)


def _read(text):
    page = _Page()
    page.feed(text)
    page.close()
    assert not page._open
    return page


def test_text_is_shown_as_it_is():
    odd = '<b>"a" & b</b>'
    rows = [(odd, 1.5), ("±", None)]
    parts = [html_page.note(odd), html_page.table(("x", odd), rows, title=odd)]
    page = _read(html_page.document(odd, parts))
    for tag in ("title", "h1", "p", "b"):
        assert page.texts[tag] == [odd]
    assert page.texts["th"] == ["x", odd]
    assert page.texts["td"] == [odd, "1.5", "±", "None"]


def test_a_table_without_rows_says_none():
    assert _read(html_page.table(("x",), [])).texts == {"p": ["none"]}


def test_a_figure_is_a_png_within_the_page_and_the_same_twice():
    def drawn():
        figure = Figure(figsize=(1, 1))
        figure.add_subplot().plot([0, 1])
        (source,) = _read(html_page.image(figure, dpi=50)).images
        return source

    kind, data = drawn().split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert drawn() == f"{kind},{data}"
