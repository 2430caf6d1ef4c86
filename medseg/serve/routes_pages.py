"""Pages for a browser: the cases, the most doubtful first, and a look at each."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse

from medseg.quality.viewer import INSTALL, niivue_file
from medseg.serve.pages import overview, view
from medseg.serve.refusal import NOT_FOUND, RequestError
from medseg.serve.routes_cases import FINAL, ORIGINAL
from medseg.serve.service import Service

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
JAVASCRIPT = "text/javascript"


def page_routes(service: Service) -> APIRouter:
    """Return the pages."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def start() -> HTMLResponse:
        return HTMLResponse(overview(service), headers={"Content-Security-Policy": POLICY})

    @router.get("/view/{case}")
    def look(case: str) -> HTMLResponse:
        _niivue()
        entry = service.desk.entry(service.studies.case(case))
        tag = FINAL if service.desk.final(entry.case) else ORIGINAL if entry.prediction else None
        return HTMLResponse(view(entry, service.desk.labels, tag))

    @router.get("/viewer/niivue.js")
    def niivue_script() -> FileResponse:
        return FileResponse(_niivue(), media_type=JAVASCRIPT, headers={"Cache-Control": "max-age=86400"})

    return router


def _niivue() -> str:
    path = niivue_file()
    if path is None:
        raise RequestError(NOT_FOUND, f"the viewer is not installed: {INSTALL}")
    return str(path)
