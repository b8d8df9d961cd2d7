"""Read the body of a POST request, a form or a JSON object, with a limited size."""

import json
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

__all__ = ["form_of", "object_of"]

_LARGEST: Final = 2**20
_FIELDS: Final = 20
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form, the last one of each name.

    Raises:
        HTTPException: the body is invalid or too large.
    """
    body = await _body(request, _FORM)
    try:
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=_FIELDS, errors="strict"))
    except ValueError as error:
        raise HTTPException(400, "This is not a form of these pages.") from error


async def object_of(request: Request) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        HTTPException: the body is invalid or too large.
    """
    body = await _body(request, _JSON)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is not JSON.") from error
    if not isinstance(found, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return found


async def _body(request: Request, kind: str) -> str:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise HTTPException(415, f"The body must be {kind}.")
    taken = bytearray()
    async for chunk in request.stream():
        taken += chunk
        if len(taken) > _LARGEST:
            raise HTTPException(413, f"The body may have {_LARGEST:,} bytes.")
    try:
        return taken.decode()
    except UnicodeDecodeError as error:
        raise HTTPException(400, "The body is not UTF-8.") from error
