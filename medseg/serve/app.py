"""The server as an ASGI application: routes, errors, gate."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from medseg.batch.faults import place_of
from medseg.errors import MedsegError
from medseg.provenance import medseg_version
from medseg.serve.access import App, Gate
from medseg.serve.refusal import BAD_REQUEST, DISK_FULL, SERVER_ERROR, UNPROCESSABLE, sentence_of, status_of
from medseg.serve.routes_cases import case_routes
from medseg.serve.routes_pages import page_routes
from medseg.serve.routes_work import work_routes
from medseg.serve.service import Service
from medseg.serve.tokens import Tokens

logger = logging.getLogger("medseg.serve")


def make_app(service: Service, tokens: Tokens | None) -> App:
    """Return the application.

    Parameters
    ----------
    tokens : None: no token is needed.
    """
    app = FastAPI(title="medseg", version=medseg_version(), docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(case_routes(service))
    app.include_router(work_routes(service, tokens))
    app.include_router(page_routes(service))
    for kind in (MedsegError, OSError, Exception):
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    return Gate(app, tokens, service.settings.limits)


async def _failed(request: Request, error: Exception) -> Response:
    status, sentence = status_of(error), sentence_of(error)
    if status == SERVER_ERROR:
        logger.error("%s failed: %s", request.scope.get("endpoint"), place_of(error))
    elif status == DISK_FULL:
        logger.error("the disk is full")
    return JSONResponse({"detail": sentence}, status)


async def _malformed(request: Request, error: Exception) -> Response:
    """Say what is wrong with a request without repeating it, which may not even be text."""
    problems = error.errors() if isinstance(error, RequestValidationError) else ()
    words = "; ".join(f"{problem['loc'][0]}: {problem['type']}" for problem in problems)
    return JSONResponse({"detail": words}, UNPROCESSABLE)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _failed(request, error)
    if error.status_code == BAD_REQUEST and isinstance(error.__cause__, OSError):  # while the body was kept
        return await _failed(request, error.__cause__)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
