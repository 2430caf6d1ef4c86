"""Requests that nobody should send, drawn from the OpenAPI page of the server and from a list of hostile values."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

VALID = (
    "alpha", "beta", "organs", "final", "original", "all", "stats", "uncertainty", "diverse", "random", "image", "json",
)  # fmt: skip
HOSTILE = (
    "", ".", "..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "C:\\Windows", "\\\\host\\share",
    "a\0b", "alpha/../beta", "nothing", "é漢字🦴", "\u202e", "%00", "%ff%fe", "' OR 1=1 --", "<script>", "{{7*7}}",
    "${jndi:x}", "-1", "0", "9" * 400, "1e999", "NaN", "true", "null", "[]", "{}", "A" * 5000, "CON", "~root",
    ".nii.gz", ".nrrd", ".seg.nrrd", "/tmp/x.nii",
)  # fmt: skip

NII = gzip.compress(b"\\\x01\0\0" + bytes(344))
NRRD = (
    b"NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\nsizes: 99999 99999 99999\n"
    b"space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\nencoding: gzip\n"
    b"space origin: (0,0,0)\nSegment0_ID:=a\nSegment0_Name:=liver\nSegment0_Color:=1 0 0\nSegment0_LabelValue:=1\n\n"
)
FILES = (
    b"", b"\0" * 500, NII, NII[:90], gzip.compress(bytes(100_000)), NRRD, NRRD + gzip.compress(bytes(9999)), b"%PDF-",
    NRRD.replace(b"99999 99999 99999", b"20 18 12") + gzip.compress(bytes(20 * 18 * 12)),
)  # fmt: skip
NAMES = (
    "x.nii.gz", "x.nii", "x.seg.nrrd", "x.nrrd", "x.dcm", "../../x.nii.gz", "x", "", "\0.nii.gz", "x.nii.gz\r\nA: b",
)  # fmt: skip
TYPES = (
    "application/json", "multipart/form-data", "multipart/form-data; boundary=x", "text/plain", "application/x-zip",
    "application/x-www-form-urlencoded", "\xff",
)  # fmt: skip
BODIES = (
    b"", b"{", b"[" * 20_000, b'{"client_id": 7}', b'{"steps": "many"}', b'{"steps": 0}', b'{"steps": 1e400}',
    b'{"label_info": [{"name": "x", "idx": 9}]}', b'{"client_id": "\\ud800"}', b"--x\r\n\r\n--x--", b"NaN", b"--x",
    b"\xff\xfe", b'{"result_extension": "/../x"}', b'{"result_extension": ".nrrd"}', b'{"label_info": {"a": []}}',
    b'{"label_info": [{"name": "\\u0000", "idx": 1}]}', b'{"label_info": [{"name": "\\ud800", "idx": 1}]}',
)  # fmt: skip


QUERY = (
    "image", "image", "image", "label", "tag", "output", "check_if_running", "all", "lines", "session_id", "images",
    "check_sum", "id",
)  # fmt: skip


def requests(schema: dict[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield requests without end: method, address, parameters, headers, and a body of one kind or another."""
    known = [(path, method) for path, methods in schema["paths"].items() for method in methods]
    while True:
        path, method = rng.choice(known)
        while "{" in path:
            before, _, rest = path.partition("{")
            path = before + quoted(value(rng), rng) + rest.partition("}")[2]
        if rng.random() < 0.1:
            path, method = "/" + rng.choice(HOSTILE).replace("\0", ""), rng.choice(("get", "put", "patch", "options"))
        query = {name: value(rng) for name in rng.choices(QUERY, k=rng.randint(0, 4))}
        yield {"method": method.upper(), "url": path or "/", "params": query, **body(rng)}


def value(rng: random.Random) -> str:
    """Return a value that is good half of the time, so that what lies behind is reached."""
    return rng.choice(VALID if rng.random() < 0.5 else HOSTILE)


def quoted(text: str, rng: random.Random) -> str:
    """Return a piece of a path, quoted or as raw as a client lets it be."""
    from urllib.parse import quote

    return quote(text, safe="" if rng.random() < 0.7 else "/%.")


def body(rng: random.Random) -> dict[str, Any]:
    """Return the body of a request."""
    kind = rng.random()
    if kind < 0.3:
        return {}
    if kind < 0.6:
        return {"content": rng.choice(BODIES), "headers": {"content-type": rng.choice(TYPES)}}
    field = rng.choice(("label", "file", "params"))
    data = {"params": rng.choice(BODIES).decode("latin-1")} if rng.random() < 0.6 else {}
    return {"files": {field: (rng.choice(NAMES), rng.choice(FILES))}, "data": data}


def send(client: Any, count: int, seed: int, impossible: tuple[type[Exception], ...]) -> tuple[Counter[int], list[str]]:
    """Return how often each status came, and the requests that the server failed at.

    Parameters
    ----------
    impossible : errors of a client that can't even send a request.
    """
    schema, statuses, failures = client.get("/openapi.json").json(), Counter[int](), list[str]()
    stream = requests(schema, random.Random(seed))
    while sum(statuses.values()) < count:
        request = next(stream)
        try:
            answer = client.request(**request)
        except impossible:
            continue
        statuses[answer.status_code] += 1
        if answer.status_code >= 500:
            failures.append(json.dumps({name: repr(value)[:300] for name, value in request.items()}))
    return statuses, failures
