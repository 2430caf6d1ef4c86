"""The pages of the server, as text."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

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
    return render("overview.html", rows=rows, statistics=service.statistics())


def render(template: str, **content: object) -> str:
    """Return the page that a template makes of `content`; everything is escaped."""
    environment = Environment(
        loader=PackageLoader("medseg.serve"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**content)
