"""The uncertainty map of a case."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response

from server.running_app import heavy, named_image, running_app

router = APIRouter(tags=["Infer"])


class MapFormat(StrEnum):
    """File formats of a map."""

    nrrd = "nrrd"
    nifti = "nifti"
    dicom = "dicom"


_SUFFIX = {MapFormat.nrrd: ".nrrd", MapFormat.nifti: ".nii.gz", MapFormat.dicom: ".dcm"}
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
    422: {"description": "`dicom` for an image that comes from a file"},
}


@router.get(
    "/uncertainty/{image}",
    summary="How unsure the live model is, voxel by voxel; computed if absent or older than the model",
    response_class=Response,
    responses=_RESPONSES,
)
async def uncertainty(image: str, format: MapFormat = MapFormat.nrrd) -> Response:  # noqa: A002 - interface
    return await heavy(lambda: _reply(image, "", "", format))


@router.get(
    "/uncertainty",
    summary="The same for an image named by its DICOM series or study",
    response_class=Response,
    responses=_RESPONSES,
)
async def uncertainty_of_series(
    series: str = "",
    study: str = "",
    format: MapFormat = MapFormat.nrrd,  # noqa: A002 - interface
) -> Response:
    return await heavy(lambda: _reply("", series, study, format))


def _reply(image: str, series: str, study: str, map_format: MapFormat) -> Response:
    app = running_app()
    image = named_image(app, image, series, study)
    suffix = _SUFFIX[map_format]
    content, version = _content(app, image, suffix)
    # Ids are any text, headers are Latin-1: the form of RFC 6266 for both.
    name = quote(f"{image}_uncertainty{suffix}", safe="")
    headers = {"X-Model-Version": version, "Content-Disposition": f"attachment; filename*=utf-8''{name}"}
    kind = "dicom" if map_format == MapFormat.dicom else "octet-stream"
    return Response(content, media_type=f"application/{kind}", headers=headers)


def _content(app: Any, image: str, suffix: str) -> tuple[bytes, str]:
    """The map's bytes, read at once: an inference of the same case may replace the kept file at any time."""

    def read() -> tuple[bytes, str]:
        if suffix == ".dcm":
            content, version = app.dicom_map(image)
            return content, str(version)
        path, version = app.uncertainty_map(image, suffix=suffix)
        return Path(path).read_bytes(), str(version)

    try:
        return read()
    except FileNotFoundError:
        return read()
