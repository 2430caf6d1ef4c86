"""Routes of the work: what there is, training, segmenting everything, logs, tokens. As MONAI Label 0.8 has them."""

from __future__ import annotations

from collections import deque
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import PlainTextResponse

from medseg.serve.access import ENTERED, USER
from medseg.serve.bodies import Params
from medseg.serve.refusal import FORBIDDEN, NOT_FOUND, RequestError
from medseg.serve.service import Service
from medseg.serve.settings import LOG_FILE
from medseg.serve.task import BackgroundTask
from medseg.serve.teacher import Teacher
from medseg.serve.tokens import Tokens

MOST_LINES = 10_000


class Images(str, Enum):
    """Which cases are segmented."""

    all = "all"
    labeled = "labeled"
    unlabeled = "unlabeled"


def work_routes(service: Service, tokens: Tokens | None) -> APIRouter:
    """Return the routes of the work."""
    router = APIRouter()
    _add_facts(router, service)
    _add_tokens(router, tokens)
    _add_training(router, service)
    _add_sweep(router, service)
    return router


def _add_facts(router: APIRouter, service: Service) -> None:
    @router.get("/info/")
    def info() -> dict[str, Any]:
        return service.info()

    @router.get("/logs/", response_class=PlainTextResponse)
    def logs(lines: Annotated[int, Query(ge=1, le=MOST_LINES)] = 300) -> str:
        return _last_lines(service.settings.output / LOG_FILE, lines)

    @router.get("/model/info/{model}")
    def model_info(model: str) -> dict[str, Any]:
        facts = service.facts_of(model)
        return {"name": facts.name, "checksum": facts.digest, "labels": [label.name for label in facts.labels.labels]}

    @router.get("/model/{model}")
    @router.put("/model/{model}")
    @router.delete("/model/{model}")
    def no_models(model: str) -> None:
        raise RequestError(FORBIDDEN, "models are neither sent nor taken; the server is started with one")


def _add_tokens(router: APIRouter, tokens: Tokens | None) -> None:
    @router.get("/auth/")
    def needs_token(request: Request) -> dict[str, Any]:
        return {"enabled": tokens is not None and not request.scope[ENTERED], "client_id": "", "realm": ""}

    @router.post("/auth/token")
    def give_token(username: Annotated[str, Form()], password: Annotated[str, Form()]) -> dict[str, Any]:
        if tokens is None:
            return {"access_token": None, "token_type": None}
        if not tokens.is_right(password):
            raise RequestError(401, "the password is the server's token, which it showed when it started")
        return {"access_token": tokens.give(username), "token_type": "bearer"}

    @router.get("/auth/token/valid")
    def is_valid(request: Request) -> dict[str, Any]:
        return {"username": request.scope[USER]}


def _add_training(router: APIRouter, service: Service) -> None:
    @router.get("/train/")
    def train_status(check_if_running: bool = False, all: bool = False) -> dict[str, Any] | list[dict[str, Any]]:
        task = service.teacher.task if service.teacher else None
        if task is None or (check_if_running and not task.is_running):
            raise RequestError(NOT_FOUND, "no training is running" if check_if_running else "nothing was trained yet")
        return [task.described()] if all else task.described()

    @router.post("/train/")
    def train_all(params: Params = None) -> dict[str, Any]:
        teacher = _teacher(service)
        wishes = (params or {}).get(teacher.pupil.name, params or {})
        task = teacher.start(service.desk.review, wishes if isinstance(wishes, dict) else {})
        return {teacher.pupil.name: {"result": task.described(), "detail": None}}

    @router.post("/train/{model}")
    def train(model: str, params: Params = None) -> dict[str, Any]:
        teacher = _teacher(service)
        if model != teacher.pupil.name:
            raise RequestError(NOT_FOUND, f"there is no such model; there is {teacher.pupil.name}")
        return teacher.start(service.desk.review, params or {}).described()

    @router.delete("/train/")
    def stop_training() -> dict[str, Any] | None:
        return _described(service.teacher.stop() if service.teacher else None)


def _add_sweep(router: APIRouter, service: Service) -> None:
    @router.get("/batch/infer")
    def sweep_status(check_if_running: bool = False, all: bool = False) -> dict[str, Any] | list[dict[str, Any]]:
        tasks = service.sweep.tasks
        if not tasks or (check_if_running and not service.sweep.running):
            raise RequestError(NOT_FOUND, "the studies are not being segmented")
        return [task.described() for task in tasks] if all else tasks[-1].described()

    @router.post("/batch/infer/{model}")
    def sweep(model: str, images: Images = Images.all, params: Params = None) -> dict[str, Any]:
        facts, cases = service.facts_of(model), service.studies.cases.values()
        wanted = [case for case in cases if images == "all" or service.desk.is_judged(case.id) == (images == "labeled")]
        return service.sweep.start(facts.name, wanted).described()

    @router.delete("/batch/infer")
    def stop_sweep() -> dict[str, Any] | None:
        return _described(service.sweep.stop())


def _teacher(service: Service) -> Teacher:
    if not service.teacher:
        raise RequestError(NOT_FOUND, "the server has no model to train")
    return service.teacher


def _described(task: BackgroundTask | None) -> dict[str, Any] | None:
    return task.described() if task else None


def _last_lines(path: Path, count: int) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return "".join(deque(stream, count))
    except FileNotFoundError:
        return ""
