"""An answer of two parts, a JSON text and a file, as the client of MONAI Label takes it apart."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from starlette.responses import Response

MEDIA = "application/octet-stream"


def answer_of(params: dict[str, Any], content: bytes, name: str) -> Response:
    """Return the answer of an inference.

    Parameters
    ----------
    params : the part ``params``.
    content : of the file in the part ``image``.
    name : under which the client keeps the file; letters, digits and ``._-``.
    """
    boundary = uuid4().hex
    start = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f"{json.dumps(params)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        f"Content-Type: {MEDIA}\r\n\r\n"
    )
    body = start.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")
