"""Segmentation and, when asked for, its uncertainty map, in the stock server's multipart reply."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from starlette.responses import JSONResponse, Response

from server.multipart import file_reply, multipart_reply
from server.names import safe_name, safe_tag, shown
from server.refusal import refuse
from server.running_app import heavy, known_model, named_image, running_app
from server.uploads import json_object, remove_files, upload_on_disk

router = APIRouter(prefix="/infer", tags=["Infer"])

DICOM_SEG = "dicom_seg"
OUTPUTS = ("all", "image", "json", DICOM_SEG)
# Decided by the query, the upload or the server; `params` must not smuggle in another image or a path.
_OWN_KEYS = ("model", "image", "file", "session", "session_id", "label", "description", "network", "path")

_PARAMS = {
    "model_version": "v0001-3fa1c2",
    "label_names": {"foreground": 1},
    "latencies": {"preprocess": 0.1, "inference": 1.4, "postprocess": 0.1, "total": 1.6},
    "uncertainty": {
        "score": 0.12,
        "mean_foreground": 0.2,
        "measure": "expected entropy",
        "mc_samples": 8,
        "top_slices": [{"axis": 2, "index": 31, "score": 0.3}],
        "url": "/uncertainty/case_07",
    },
}
_NO_MODEL = {"detail": "No model is published yet; submit labels first.", "labeled": 0, "labels_needed": 1}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "parts `params`, `image` and, with `uncertainty` true, `uncertainty`, in this order",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "params": {"type": "object", "example": _PARAMS},
                        "image": {"type": "string", "format": "binary"},
                        "uncertainty": {"type": "string", "format": "binary"},
                    },
                }
            },
            "application/json": {"example": _PARAMS},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/dicom": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    404: {"description": "Unknown model or image"},
    409: {"description": "No model yet", "content": {"application/json": {"example": _NO_MODEL}}},
    415: {"description": "A JSON body; params is a form field"},
}


@router.post(
    "/{model}", summary="Segment an image of the pool, an uploaded one or a session's", responses=_RESPONSES
)
async def infer(
    http_request: Request,
    model: str,
    image: Annotated[str, Query(examples=["case_07"])] = "",
    series: Annotated[str, Query(description="SeriesInstanceUID, instead of `image`")] = "",
    study: Annotated[str, Query(description="StudyInstanceUID, if it has one series here")] = "",
    session_id: str = "",
    params: Annotated[str, Form(examples=['{"uncertainty": true, "mc_samples": 8}'])] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: Annotated[str | None, Query(examples=list(OUTPUTS))] = None,
) -> Response:
    sent = http_request.headers
    is_json = sent.get("content-type", "").lower().startswith("application/json")
    if is_json and sent.get("content-length") != "0":
        refuse(415, "Send params as a form field, not as JSON: curl -F 'params={\"uncertainty\": true}'.")
    if output is not None and output not in OUTPUTS:
        refuse(422, f"The output {shown(output)} is not made here; allowed: {', '.join(OUTPUTS)}.")

    def work() -> Response:
        app = running_app()
        known_model(app, model)
        of_pool = file is None and not session_id and bool(image or series or study)
        named = named_image(app, image, series, study) if of_pool else image
        if output == DICOM_SEG:
            app.of_pacs(named if of_pool else None)  # before the work
        return _infer(app, model, named, session_id, params, file, label, output)

    return await heavy(work)


def _infer(
    app: Any,
    model: str,
    image: str,
    session_id: str,
    params: str,
    file: UploadFile | None,
    label: UploadFile | None,
    output: str | None,
) -> Response:
    request = _checked_params(json_object(params), model, image)
    with contextlib.ExitStack() as uploads:
        if file is not None:
            request["image"] = str(uploads.enter_context(upload_on_disk(file)))
        elif session_id:
            request["image"] = _session_image(app, session_id)
        elif image:
            request["image"] = image
        else:
            refuse(
                422,
                "No image was given: name one as ?image=ID, upload one as `file`, or give ?session_id=ID.",
            )
        if label is not None:
            request["label"] = str(uploads.enter_context(upload_on_disk(label)))
        result = app.infer({**request, "model": model})
    return _reply(app, image, result or {}, output)


def _checked_params(params: dict[str, Any], model: str, image: str) -> dict[str, Any]:
    for key, meant in (("model", model), ("image", image)):
        if params.get(key) not in (None, "", meant):
            refuse(
                400,
                f"params names the {key} {shown(params[key])}, the request {shown(meant)}; omit it.",
            )
    if isinstance(params.get("label_tag"), str):
        safe_tag(params["label_tag"])
    return {key: value for key, value in params.items() if key not in _OWN_KEYS}


def _session_image(app: Any, session_id: str) -> str:
    safe_name(session_id, "session")
    sessions = app.sessions()
    session = sessions.get_session(session_id) if sessions is not None else None
    if session is None:
        refuse(
            404, f"There is no session {shown(session_id)} here; it may have expired. Upload the image again."
        )
    return str(session.image)


def _reply(app: Any, image: str, result: dict[str, Any], output: str | None) -> Response:
    params = result.get("params") or {}
    label, map_file, is_temporary = _files(app, result)

    def tidy() -> None:
        remove_files(label if is_temporary else None, map_file)

    if label is None or output == "json":
        tidy()
        return JSONResponse(params)
    if output == DICOM_SEG:
        try:
            content = app.dicom_segmentation(image, label, params)
        finally:
            tidy()
        headers = {
            "X-Model-Version": str(params["model_version"]),
            "Content-Disposition": f"attachment; filename*=utf-8''{quote(image, safe='')}.dcm",
        }
        return Response(content, media_type="application/dicom", headers=headers)
    if output == "image":
        return file_reply(label, "application/octet-stream", tidy)
    files = [("image", label)] if map_file is None else [("image", label), ("uncertainty", map_file)]
    return multipart_reply(params, files, tidy)


def _files(app: Any, result: dict[str, Any]) -> tuple[Path | None, Path | None, bool]:
    """The label file, the map file, and whether the label is a temporary result rather than a saved one."""
    found = result.get("file") or result.get("label")
    label = Path(found) if found else None
    is_temporary = True
    if label is not None and not label.is_file():
        # With save_label the result's label is the id under which the datastore keeps it.
        stored = app.datastore().get_label_uri(str(result.get("label")), result.get("tag"))
        label, is_temporary = (Path(stored) if stored else None), False
    map_file = result.get("uncertainty_file")
    return label, Path(map_file) if map_file else None, is_temporary
