"""Pages that open anywhere, without a network: one look, one script, nothing foreign.

A page holds its pictures, its style and a small script; it asks nobody for anything, and a content security
policy in it forbids it to. Every name and message is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Template


def render_page(template: str, **content: object) -> str:
    """Return the page that a template of ``templates/``, which extends ``page.html``, makes of `content`."""
    script = text_of("report.js")
    return template_of(template).render(
        style=Markup(text_of("report.css")), script=Markup(script), script_digest=script_digest(script), **content
    )


@lru_cache
def template_of(name: str, package: str = "medseg.quality") -> Template:
    """Return a template of a package's ``templates/``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # 0.1 s, which workers without NiiVue save

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def script_digest(script: str) -> str:
    """Return the SHA-256 by which a page's content security policy knows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def text_of(name: str) -> str:
    """Return the text of a file of ``templates/``."""
    return files("medseg.quality").joinpath("templates", name).read_text(encoding="utf-8")
