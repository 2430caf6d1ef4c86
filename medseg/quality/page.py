"""Pages that open anywhere, without a network: one look, one script, nothing foreign.

A page holds its pictures, its style and a small script; it asks nobody for anything, and a content security
policy in it forbids it to. Every name and message is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render_page(template: str, **content: object) -> str:
    """Return the page that a template of ``templates/``, which extends ``page.html``, makes of `content`."""
    script = _text("report.js")
    environment = Environment(
        loader=PackageLoader("medseg.quality"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        style=Markup(_text("report.css")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **content,
    )


def _text(name: str) -> str:
    return files("medseg.quality").joinpath("templates", name).read_text(encoding="utf-8")
