"""DICOMweb of the PACS behind this server, for viewers in a browser."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.dicomweb_proxy import DicomWebProxy

router = APIRouter(prefix="/proxy/dicom", tags=["Others"])


@router.api_route("/{path:path}", methods=["GET", "HEAD", "POST"], include_in_schema=False)
async def dicomweb(path: str, request: Request) -> Response:
    proxy: DicomWebProxy = request.app.state.dicomweb
    return await proxy.forward(request, path)
