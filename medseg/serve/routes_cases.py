"""Routes of the cases: scans, masks, labels, and which one is next. Paths and fields are MONAI Label 0.8's."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response

from medseg.io.nifti import read_mask
from medseg.review.folder import ReviewCase
from medseg.review.versions import Version
from medseg.serve.access import USER
from medseg.serve.bodies import InferParams, LabelParams, Params, SampleParams, checked, parse
from medseg.serve.desk import HandIn
from medseg.serve.files import DEFAULT_ENDING, received, working_folder
from medseg.serve.multipart import MEDIA, answer_of
from medseg.serve.numbering import label_numbers
from medseg.serve.refusal import FORBIDDEN, NOT_ACCEPTABLE, NOT_FOUND, RequestError
from medseg.serve.service import Service

ORIGINAL, FINAL = "original", "final"

READ_ONLY = "the studies and the versions of labels are never changed from outside; put scans into the studies folder"

logger = logging.getLogger("medseg.serve")


class Listing(str, Enum):
    """What is told of all cases."""

    all = "all"
    stats = "stats"


class Output(str, Enum):
    """Which parts an inference answers."""

    all = "all"
    image = "image"
    json = "json"


def case_routes(service: Service) -> APIRouter:
    """Return the routes of the cases."""
    router = APIRouter()
    _add_scans(router, service)
    _add_labels(router, service)
    _add_inference(router, service)
    _add_refusals(router)
    return router


def _add_scans(router: APIRouter, service: Service) -> None:
    @router.get("/datastore/")
    def datastore(output: Listing = Listing.stats) -> dict[str, Any]:
        if output == Listing.stats:
            return service.statistics()
        objects = {case: _object(service, case) for case in service.studies.cases}
        return {"name": "medseg", "description": "", "objects": objects}

    @router.get("/datastore/image")
    def image(image: str) -> Response:
        path = service.desk.folder / service.desk.entry(service.studies.case(image)).shown
        return FileResponse(path, media_type=MEDIA, filename=path.name)

    @router.head("/datastore/image")
    def has_image(image: str, check_sum: str = "") -> Response:
        entry = service.desk.entry(service.studies.case(image))
        algorithm, _, digest = check_sum.rpartition(":")
        is_same = algorithm.upper() in ("", "SHA256") and digest == service.checksum(entry)
        return Response(status_code=200 if not check_sum or is_same else NOT_FOUND)

    @router.get("/datastore/image/info")
    def image_info(image: str) -> dict[str, Any]:
        return _described(service, service.desk.entry(service.studies.case(image)))

    @router.post("/activelearning/{strategy}")
    def next_sample(request: Request, strategy: str, params: Params = None) -> dict[str, Any]:
        client = request.scope[USER] or checked(params, SampleParams).client
        entry = service.next_case(strategy, client)
        return {"id": entry.case, **_described(service, entry)} if entry else {}


def _add_labels(router: APIRouter, service: Service) -> None:
    @router.get("/datastore/label")
    def label(label: str, tag: str = FINAL) -> Response:
        name, content = _label_file(service, label, tag)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=MEDIA, headers=headers)

    @router.head("/datastore/label")
    def has_label(image: str, tag: str = FINAL) -> Response:
        return Response(status_code=200 if tag in _tags(service, service.studies.case(image).id) else NOT_FOUND)

    @router.get("/datastore/label/info")
    def label_info(label: str, tag: str = FINAL) -> dict[str, Any]:
        return _found(_tags(service, service.studies.case(label).id), tag)["info"]

    @router.put("/datastore/label")
    def save_label(
        request: Request,
        image: str,
        label: Annotated[UploadFile, File()],
        params: Annotated[str, Form()] = "{}",
        tag: str = FINAL,
    ) -> dict[str, Any]:
        case, said = service.studies.case(image), parse(params, LabelParams)
        names = said.names(service.desk.labels)
        with working_folder(service.incoming) as folder:
            path = received(label.file, label.filename or "", folder)
            taken = service.desk.submit(case, HandIn(path, names, request.scope[USER] or said.client))
        version = taken.version
        logger.info("%s: label %s, %s", case.id, version.name, "known before" if taken.was_taken else version.status)
        return {"image": case.id, "label": case.id, "tag": FINAL, "version": version.name, "status": version.status}


def _add_inference(router: APIRouter, service: Service) -> None:
    @router.post("/infer/{model}")
    def infer(
        model: str,
        image: str = "",
        output: Output = Output.all,
        params: Annotated[str, Form()] = "{}",
        session_id: str = "",
    ) -> Response:
        wanted = parse(params, InferParams)
        if session_id or not image:
            raise RequestError(NOT_ACCEPTABLE, "only scans of the studies folder are segmented; name one by its id")
        service.facts_of(model)  # refuses another name
        case = service.studies.case(image)
        record = service.segment(case)
        told = {
            "label_names": label_numbers(service.desk.labels),
            "confidence": record.confidence,
            "volumes_ml": record.volumes_ml,
            "model": model,
        }
        if output == Output.json:
            return JSONResponse(told)
        entry, mask = service.desk.entry(case), service.mask(case)
        content = service.rendering.file(mask, entry, wanted.result_extension)
        name = f"{case.id}{wanted.result_extension}"
        if output == Output.image:
            headers = {"Content-Disposition": f'attachment; filename="{name}"'}
            return Response(content, media_type=MEDIA, headers=headers)
        return answer_of(told, content, name)


def _add_refusals(router: APIRouter) -> None:
    @router.put("/datastore/")
    @router.put("/datastore/image")
    @router.put("/datastore/image/info")
    @router.put("/datastore/label/info")
    @router.put("/datastore/updatelabelinfo")
    @router.delete("/datastore/")
    @router.delete("/datastore/image")
    @router.delete("/datastore/label")
    def refuse() -> None:
        raise RequestError(FORBIDDEN, READ_ONLY)

    @router.put("/session/")
    @router.get("/session/{session_id}")
    @router.delete("/session/{session_id}")
    def no_sessions() -> None:
        raise RequestError(NOT_ACCEPTABLE, "scans of clients are not kept: put them into the studies folder")


def _object(service: Service, case: str) -> dict[str, Any]:
    entry = service.desk.known(case)
    info = {"name": Path(entry.shown).name} if entry else {}
    return {"image": {"ext": DEFAULT_ENDING, "info": info}, "labels": _tags(service, case)}


def _tags(service: Service, case: str) -> dict[str, dict[str, Any]]:
    """Return the labels that a case has: the model's, and the one that people stand behind."""
    tags: dict[str, dict[str, Any]] = {}
    names = {"params": {"label_names": label_numbers(service.desk.labels)}}
    if service.desk.prediction(case):
        tags[ORIGINAL] = {"ext": DEFAULT_ENDING, "info": names}
    final = service.desk.final(case)
    if final:
        tags[FINAL] = {"ext": DEFAULT_ENDING, "info": {**names, **_version(final[0])}}
    return tags


def _version(version: Version) -> dict[str, Any]:
    return {"version": version.name, "status": version.status, "reviewer": version.reviewer, "ts": version.imported}


def _found(tags: dict[str, dict[str, Any]], tag: str) -> dict[str, Any]:
    try:
        return tags[tag]
    except KeyError:
        raise RequestError(NOT_FOUND, "the case has no label of this tag") from None


def _label_file(service: Service, label: str, tag: str) -> tuple[str, bytes]:
    case = service.studies.case(label)
    entry = service.desk.entry(case)
    _found(_tags(service, case.id), tag)
    final = service.desk.final(case.id) if tag == FINAL else None
    mask = read_mask(final[1]) if final else service.desk.review.prediction(entry)
    return f"{case.id}{DEFAULT_ENDING}", service.rendering.file(mask, entry, DEFAULT_ENDING)


def _described(service: Service, entry: ReviewCase) -> dict[str, Any]:
    """Return what a client needs to fetch a scan; never where it is."""
    return {
        "name": Path(entry.shown).name,
        "checksum": f"SHA256:{service.checksum(entry)}",
        "priority": entry.priority,
        "findings": list(entry.findings),
    }
