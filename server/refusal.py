"""Every error as `{"detail": sentence, ...}`: the one shape a client has to read."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

logger = logging.getLogger(__name__)

INTERNAL = (
    "The server failed while it answered; its log names the place. The request changed nothing it reports."
)
_NOT_AN_OBJECT = {"json_invalid", "dict_type", "model_attributes_type"}
_NO_OBJECT = "The body is not a JSON object; send one, as in {}, with Content-Type: application/json."
# The framework's sentence for JSON it fails on in another way than by its grammar, as when nested too deep.
_UNREADABLE_BODY = "There was an error parsing the body"


def refuse(status: int, sentence: str) -> NoReturn:
    """Answer the request with `status` and one sentence."""
    raise HTTPException(status, detail=sentence)


def error_body(detail: object, extra: object = None) -> dict[str, Any]:
    """The reply for an exception's detail (a sentence, or a mapping that carries one) and its extra keys."""
    body: dict[str, Any] = {}
    if isinstance(detail, dict):
        body.update(detail)
        detail = body.pop("detail", None)
    if isinstance(extra, dict):
        body.update(extra)
    return {"detail": str(detail) if detail else "The request was refused.", **body}


def install(app: FastAPI) -> None:
    """Render every exception the app can raise in the one shape."""
    from monailabel.interfaces.exception import MONAILabelException

    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(MONAILabelException, _host_exception)


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail: object = error.detail
    if detail == HTTPStatus(error.status_code).phrase:
        # The framework's own answers are bare phrases.
        detail = _sentence_for(request, error.status_code)
    elif detail == _UNREADABLE_BODY:
        detail = _NO_OBJECT
    body = error_body(detail, getattr(error, "extra", None))
    return JSONResponse(body, error.status_code, headers=error.headers)


def _sentence_for(request: Request, status: int) -> str:
    path = request.url.path[:120]
    if status == 404:
        return f"There is no {request.method} {path} here; the routes are listed at /."
    if status == 405:
        return f"{path} does not take {request.method}; the routes and their methods are listed at /."
    return f"{HTTPStatus(status).phrase}."


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    first = problems[0] if problems else {"loc": (), "msg": "unknown", "type": ""}
    whole_body = first["loc"][:1] == ("body",) and first["type"] in _NOT_AN_OBJECT
    if whole_body and (len(first["loc"]) == 1 or first["type"] == "json_invalid"):
        return JSONResponse({"detail": _NO_OBJECT}, 400)
    return JSONResponse({"detail": "; ".join(_problem(problem) for problem in problems[:5]) + "."}, 422)


def _problem(problem: dict[str, Any]) -> str:
    # Never the input itself: a body may carry a patient's name.
    place, *names = [str(part) for part in problem["loc"]] or ["request"]
    message = str(problem["msg"])
    return f"The {place} parameter '{'.'.join(names)}' is not acceptable: {message[:1].lower()}{message[1:]}"


async def _host_exception(request: Request, error: Exception) -> JSONResponse:
    from monailabel.interfaces.exception import MONAILabelError

    sentence = str(getattr(error, "msg", "")) or "The app refused the request."
    if type(error).__name__ in ("ImageNotFoundException", "LabelNotFoundException"):
        return JSONResponse({"detail": sentence}, 404)
    if getattr(error, "error", None) is MONAILabelError.INVALID_INPUT:
        return JSONResponse({"detail": sentence}, 422)
    logger.error("the app failed: %s", getattr(error, "error", "unknown"))
    return JSONResponse({"detail": INTERNAL}, 500)
