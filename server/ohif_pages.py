"""What the OHIF viewer is made of: the pages that were built for /ohif/, our configuration, our modules."""

from __future__ import annotations

import json
import mimetypes
import re
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response

from server.refusal import refuse

MOUNT = "/ohif/"
OWN = "ugmcl"
"""Folder below the mount in which our own modules are."""
_MODULES = Path(__file__).parent / "ohif"

_POLICY = {
    # The viewer talks to this server and to nobody else, whatever a study or a module would have it load.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_REVALIDATE = {"Cache-Control": "no-cache", **_POLICY}
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable", **_POLICY}
_HASHED = re.compile(r"(\.bundle\.[0-9a-f]{16}\.js|^[0-9a-f]{16}\.\w+)$")
"""Files whose name changes with their content."""
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
"""Browsers insist on these; the machine's own table may say otherwise."""

_DATA_SOURCE = "@ohif/extension-default.dataSourcesModule.dicomweb"


class OhifPages:
    """Answers below `MOUNT`.

    Args:
        folder: The pages as `buildtools/fetch_ohif.py` leaves them, or built with PUBLIC_URL=/ohif/.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def answer(self, path: str) -> Response:
        """The file at a path below the mount, or the page itself for the addresses that its own routes have.

        Raises:
            HTTPException: 404 for a script, style, picture or module that is not there.
        """
        if path == "app-config.js":
            return Response(app_config(), media_type="text/javascript", headers=_REVALIDATE)
        own = path.removeprefix(f"{OWN}/")
        file = _inside(_MODULES, own) if own != path else _inside(self._folder, path)
        if file is not None and path != "index.html":
            return self._file(file)
        if "." in path.rpartition("/")[2] and path != "index.html":
            refuse(404, "The viewer has no such file; run `make ohif` again if it was damaged.")
        return self._page()

    def _file(self, file: Path) -> Response:
        kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        headers = _FOREVER if _HASHED.search(file.name) else _REVALIDATE
        return FileResponse(file, media_type=kind, headers=headers)

    def _page(self) -> Response:
        return FileResponse(self._folder / "index.html", media_type="text/html", headers=_REVALIDATE)


def _inside(folder: Path, path: str) -> Path | None:
    """The file at `path` in `folder`; None where there is none, or where it lies outside or is hidden."""
    if not path or any(part.startswith(".") for part in path.split("/")):
        return None
    try:
        file = (folder / path).resolve()
    except (OSError, ValueError):
        return None
    return file if file.is_relative_to(folder.resolve()) and file.is_file() else None


def app_config(root: str = "/proxy/dicom") -> str:
    """The viewer's configuration: the PACS through our proxy, our extension and our mode."""
    source: dict[str, Any] = {
        "friendlyName": "The PACS behind this server",
        "name": "pacs",
        "qidoRoot": root,
        "wadoRoot": root,
        "qidoSupportsIncludeField": True,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "dicomUploadEnabled": False,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
    }
    config = {
        "name": "ugmcl-assist",
        "routerBasename": MOUNT.rstrip("/"),
        "extensions": [f"{MOUNT}{OWN}/extension.js"],
        "modes": [f"{MOUNT}{OWN}/mode.js"],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 2,
        "showLoadingIndicator": True,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": True,
        "strictZSpacingForVolumeViewport": True,
        # Our panel says what the program is for on every page; the dialog would cover the images.
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "dicomweb",
        "dataSources": [
            {"namespace": _DATA_SOURCE, "sourceName": "dicomweb", "configuration": source},
        ],
    }
    # A PACS names bulk data by its own address, which the browser may not reach and shall not ask: the viewer
    # puts what is left of it behind `wadoRoot` and the study.
    return (
        f"window.config = {json.dumps(config, indent=2)};\n"
        "window.config.dataSources[0].configuration.bulkDataURI.transform = (uri) =>\n"
        "  uri.replace(/^.*?\\/studies\\/[0-9.]+\\//, '');\n"
    )
