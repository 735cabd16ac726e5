"""The uncertainty map of a case."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response

from server.running_app import heavy, known_image, running_app

router = APIRouter(tags=["Infer"])


class MapFormat(StrEnum):
    """File formats of a map."""

    nrrd = "nrrd"
    nifti = "nifti"


_SUFFIX = {MapFormat.nrrd: ".nrrd", MapFormat.nifti: ".nii.gz"}
_NO_MODEL = {"detail": "No model is published yet; submit labels first.", "labeled": 0, "labels_needed": 1}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "float32 in [0, 1] on the image's own grid",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "X-Model-Version": {"description": "the model that made it", "schema": {"type": "string"}}
        },
    },
    404: {"description": "Unknown image"},
    409: {"description": "No model yet", "content": {"application/json": {"example": _NO_MODEL}}},
}


@router.get(
    "/uncertainty/{image}",
    summary="How unsure the live model is, voxel by voxel; computed if absent or older than the model",
    response_class=Response,
    responses=_RESPONSES,
)
async def uncertainty(image: str, format: MapFormat = MapFormat.nrrd) -> Response:  # noqa: A002 - interface
    return await heavy(lambda: _reply(image, format))


def _reply(image: str, map_format: MapFormat) -> Response:
    app = running_app()
    known_image(app, image)
    suffix = _SUFFIX[map_format]
    content, version = _content(app, image, suffix)
    # Ids are any text, headers are Latin-1: the form of RFC 6266 for both.
    name = quote(f"{image}_uncertainty{suffix}", safe="")
    headers = {"X-Model-Version": version, "Content-Disposition": f"attachment; filename*=utf-8''{name}"}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _content(app: Any, image: str, suffix: str) -> tuple[bytes, str]:
    """The map's bytes, read at once: an inference of the same case may replace the kept file at any time."""
    path, version = app.uncertainty_map(image, suffix=suffix)
    try:
        return Path(path).read_bytes(), str(version)
    except FileNotFoundError:
        path, version = app.uncertainty_map(image, suffix=suffix)
        return Path(path).read_bytes(), str(version)
