"""Sessions: images that are uploaded once, used for a while and never join the pool."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, UploadFile
from fastapi.responses import FileResponse

from server.names import safe_name, shown, upload_basename, upload_suffix
from server.refusal import refuse
from server.running_app import running_app
from server.uploads import upload_on_disk

router = APIRouter(prefix="/session", tags=["Session"])


@router.put("/", summary="Upload an image for a session of its own")
def create(
    files: Annotated[list[UploadFile], File()],
    uncompress: bool = False,
    expiry: int = 0,
) -> dict[str, Any]:
    if uncompress:
        refuse(422, "Archives are not unpacked here; upload the image itself as .nii.gz, .nii or .nrrd.")
    if len(files) != 1:
        refuse(422, f"{len(files)} files were sent; a session holds one image. Upload one file.")
    sessions = _sessions()
    upload = files[0]
    suffix = upload_suffix(upload.filename)
    name = upload_basename(upload.filename)[: -len(suffix)] + suffix
    with tempfile.TemporaryDirectory(prefix="ugmcl-session-") as folder, upload_on_disk(upload) as path:
        image = Path(folder) / name
        path.rename(image)
        session_id, session = sessions.add_session(str(image), max(0, expiry), False)
    return {"session_id": session_id, "session_info": session.to_json()}


@router.get("/{session_id}", summary="A session, or with ?image=true its image")
def show(session_id: str, update_ts: bool = False, image: bool = False) -> Any:
    session = _session(session_id, update_ts)
    if image:
        path = Path(session.image)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)
    return session.to_json()


@router.delete("/{session_id}", summary="End a session and remove its image")
def remove(session_id: str) -> Any:
    session = _session(session_id, False)
    _sessions().remove_session(session_id)
    return session.to_json()


def _sessions() -> Any:
    sessions = running_app().sessions()
    if sessions is None:
        refuse(404, "Sessions are switched off on this server; submit images to the pool instead.")
    return sessions


def _session(session_id: str, update_ts: bool) -> Any:
    safe_name(session_id, "session")
    session = _sessions().get_session(session_id, update_ts=update_ts)
    if session is None:
        refuse(404, f"There is no session {shown(session_id)} here; it may have expired.")
    return session
