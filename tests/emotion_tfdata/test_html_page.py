"""Pages that stand alone, and show text as it is."""

from __future__ import annotations

import base64
import html.parser
import sys

import jinja2
import pytest
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


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The page of a body, as the template of a package of its own."""
    (tmp_path / "shown_pages").mkdir()
    (tmp_path / "shown_pages" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def show(body, **values):
        text = '{% extends "page.html.j2" %}{% from "table.html.j2" import table %}'
        text += "{% block body %}" + body + "{% endblock %}"
        (tmp_path / "shown_pages" / "one.html.j2").write_text(text)
        return _read(html_page.render("shown_pages", "one.html.j2", **values))

    yield show
    sys.modules.pop("shown_pages", None)


def test_text_is_shown_as_it_is(shown):
    odd = '<b>"a" & b</b>'
    rows = [(odd, 1.5), ("±", None)]
    body = "<p>{{ words | twice }}</p>{{ table(('x', words), rows, title=words) }}"
    page = shown(body, title=odd, words=odd, rows=rows, twice=lambda text: 2 * text)
    for tag in ("title", "h1", "b"):
        assert page.texts[tag] == [odd]
    assert page.texts["p"] == [2 * odd]
    assert page.texts["th"] == ["x", odd]
    assert page.texts["td"] == [odd, "1.5", "±", "None"]


def test_a_table_without_rows_says_none(shown):
    assert shown("{{ table(('x',), ()) }}", title="").texts["p"] == ["none"]


def test_a_value_that_is_missing_is_an_error_and_no_gap(shown):
    with pytest.raises(jinja2.UndefinedError, match="'nothing' is undefined"):
        shown("{{ nothing }}", title="")


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
