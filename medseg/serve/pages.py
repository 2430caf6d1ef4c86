"""The pages of the server, as text."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from medseg.labels import LabelMap
from medseg.quality.page import template_of
from medseg.quality.viewer import Layer, niivue_file, render_view
from medseg.review.folder import ReviewCase
from medseg.serve.service import Service


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
    template = template_of("overview.html", "medseg.serve")
    return template.render(rows=rows, statistics=service.statistics(), has_viewer=niivue_file() is not None)


def view(case: ReviewCase, labels: LabelMap, tag: str | None) -> str:
    """Return the page that shows a case, all voxels of it.

    Parameters
    ----------
    tag : which of its masks is shown; None: the scan alone.
    """
    low, high = case.window
    address = f"../datastore/image?{urlencode({'image': case.case})}"
    layers = [Layer(address, Path(case.shown).name, low, high)]
    if tag:
        address = f"../datastore/label?{urlencode({'label': case.case, 'tag': tag})}"
        layers.append(Layer.of_mask(address, f"{case.case}.nii.gz", labels))
    shown = labels.labels if tag else ()
    return render_view(layers, shown, home="../", case=case.case, niivue="../viewer/niivue.js")
