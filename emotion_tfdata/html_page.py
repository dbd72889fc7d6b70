"""Self-contained HTML pages, of Jinja2 templates that lie beside the code which fills them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(package: str, template: str, **values: Any) -> str:
    """Render a template to a page or another text.

    Args:
      package: whose template it is; page.html.j2 and table.html.j2 of this one serve it too.
      template: the file's name. Values in `.html.j2` are shown as they are, markup or not.
      values: that the template names; its functions serve as filters too.
    """
    loaders = [jinja2.PackageLoader(name, "") for name in (package, __package__)]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    functions = {name: value for name, value in values.items() if callable(value)}
    environment.filters |= {"image": image, **functions}
    return environment.get_template(template).render(values)


def image(figure: Figure, dpi: int = 110) -> Markup:
    """Draw a figure as a PNG within the page; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    figure.set_dpi(dpi)
    # Not `savefig`, which draws everything twice.
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    encoded = base64.b64encode(content.getvalue()).decode()
    return Markup(f'<img alt="" src="data:image/png;base64,{encoded}">')
