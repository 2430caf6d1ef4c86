"""The pages of the server, as text."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from medseg.labels import LabelMap
from medseg.review.folder import ReviewCase
from medseg.serve.service import Service

MASK_OPACITY = 0.5


def niivue_file() -> Path | None:
    """Return NiiVue's script as the package ipyniivue installs it; None without that package.

    The package itself is not imported: that would need Jupyter.
    """
    spec = find_spec("ipyniivue")
    script = Path(spec.origin).parent / "static" / "widget.js" if spec and spec.origin else Path()
    return script if script.is_file() else None


def overview(service: Service) -> str:
    """Return the page that lists the cases, the most doubtful first."""
    known = [(service.desk.known(case), case) for case in service.studies.cases]
    rows = sorted(
        (
            (entry.priority if entry and entry.prediction else None, case, service.desk.is_judged(case), entry)
            for entry, case in known
        ),
        key=lambda row: (-(row[0] if row[0] is not None else -1), row[1]),
    )
    has_viewer = niivue_file() is not None
    return _render("overview.html", rows=rows, statistics=service.statistics(), has_viewer=has_viewer)


def view(case: ReviewCase, labels: LabelMap, tag: str | None) -> str:
    """Return the page that shows a case.

    Parameters
    ----------
    tag : which of its masks is shown; None: the scan alone.
    """
    low, high = case.window
    scan: dict[str, Any] = {
        "url": f"../datastore/image?{urlencode({'image': case.case})}",
        "name": Path(case.shown).name,
        "colormap": "gray",
        "opacity": 1.0,
        "low": low,
        "high": high,
    }
    mask = {
        "url": f"../datastore/label?{urlencode({'label': case.case, 'tag': tag})}",
        "name": f"{case.case}.nii.gz",
        "colormap": "gray",
        "opacity": MASK_OPACITY,
        "lut": [0, 0, 0, 0, *(part for label in labels.labels for part in (*label.colour, 255))],
    }
    what = {"volumes": [scan, mask] if tag else [scan]}
    return _render("view.html", case=case, labels=labels.labels if tag else (), what=what)


def script() -> str:
    """Return the script of the page that shows a case."""
    return files("medseg.serve").joinpath("templates", "view.js").read_text(encoding="utf-8")


def _render(template: str, **content: object) -> str:
    environment = Environment(
        loader=PackageLoader("medseg.serve"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**content)
