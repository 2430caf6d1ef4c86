"""Pages for a browser: the cases, the most doubtful first."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from medseg.serve.pages import overview
from medseg.serve.service import Service

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page_routes(service: Service) -> APIRouter:
    """Return the pages."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def start() -> HTMLResponse:
        return HTMLResponse(overview(service), headers={"Content-Security-Policy": POLICY})

    return router
