"""Images and labels of the project, through the app's datastore; the expert's labels come in here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, Response

from server.multipart import file_reply
from server.names import NO_NUL, safe_name, safe_tag, shown, upload_basename, upload_suffix
from server.refusal import refuse
from server.running_app import known_image, named_image, running_app
from server.uploads import DICOM, json_object, remove_files, upload_on_disk

router = APIRouter(prefix="/datastore", tags=["Datastore"])

ImageId = Annotated[str, Query(examples=["case_07"])]
Tag = Annotated[
    str, Query(examples=["final"], description="`final` (the expert's) or `original` (the model's)")
]
JsonForm = Annotated[str, Form(examples=["{}"])]

_LABEL_PARAMS = '{"label_info": [{"name": "foreground", "idx": 1}]}'
_SAVED = {"image": "case_07", "label": "case_07"}
_GRID = {
    "detail": "The label's grid is not its image's …",
    "expected_shape": [64, 64, 40],
    "expected_affine": [],
}
_SAVE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": _SAVED}}},
    404: {"description": "Unknown image"},
    422: {"description": "Not acceptable as a label", "content": {"application/json": {"example": _GRID}}},
}
_STATS = {"total": 24, "completed": 4, "label_tags": {"final": 4}, "quarantined": []}
_BINARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


class Listing(StrEnum):
    """What GET /datastore/ shows."""

    stats = "stats"
    all = "all"
    train = "train"


@router.get(
    "/",
    summary="Counts, every image with its labels, or the training list",
    responses={200: {"content": {"application/json": {"example": _STATS}}}},
)
def listing(output: Listing = Listing.stats) -> Any:
    store = running_app().datastore()
    return {Listing.stats: store.status, Listing.all: store.json, Listing.train: store.datalist}[output]()


@router.put("/", include_in_schema=False)
@router.put("/image", summary="Add an image to the pool")
def add_image(
    file: Annotated[UploadFile, File()],
    image: Annotated[str | None, Query(examples=["case_25"])] = None,
    params: JsonForm = "{}",
) -> dict[str, Any]:
    suffix = upload_suffix(file.filename)
    image_id = image or upload_basename(file.filename)[: -len(suffix)]
    safe_name(image_id, "image")
    info = json_object(params)
    with upload_on_disk(file) as path:
        return {"image": running_app().datastore().add_image(image_id, str(path), info)}


@router.delete("/", include_in_schema=False)
@router.delete("/image", summary="Remove an image with its labels")
def remove_image(id: ImageId) -> dict[str, Any]:  # noqa: A002 - the stock query's name
    app = running_app()
    app.datastore().remove_image(known_image(app, id))
    return {}


@router.head("/image", summary="Is this image here, with this checksum", responses={404: {}})
def check_image(image: ImageId, check_sum: str | None = None) -> Response:
    from monailabel.utils.others.generic import file_checksum

    path = _image_file(image)
    if check_sum:
        algorithm, _, digest = check_sum.rpartition(":")
        algorithm = algorithm or "SHA256"
        if algorithm not in ("SHA256", "SHA512", "MD5"):
            refuse(422, f"The checksum {shown(algorithm)} is not known; allowed: SHA256, SHA512, MD5.")
        if digest.lower() != file_checksum(str(path), algo=algorithm).rpartition(":")[2].lower():
            refuse(404, f"The image {shown(image)} is here, but with another checksum.")
    return Response()


@router.get("/image", summary="Download an image", response_class=FileResponse, responses=_BINARY)
def download_image(image: ImageId) -> FileResponse:
    path = _image_file(image)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.get("/image/info", summary="What is known about an image")
def image_info(image: ImageId) -> Any:
    app = running_app()
    return app.datastore().get_image_info(known_image(app, image))


@router.put("/image/info", summary="Add to what is known about an image")
def update_image_info(image: ImageId, info: JsonForm = "{}") -> Any:
    app = running_app()
    return app.datastore().update_image_info(known_image(app, image), json_object(info, "info"))


@router.put(
    "/label", summary="Submit a label: checked, stored, and taken into the next round", responses=_SAVE
)
def save_label(
    label: Annotated[UploadFile, File(description="NIfTI, NRRD, or for a case of a PACS a DICOM SEG")],
    image: ImageId = "",
    series: Annotated[str, Query(description="SeriesInstanceUID, instead of `image`")] = "",
    study: Annotated[str, Query(description="StudyInstanceUID, if it has one series here")] = "",
    params: Annotated[str, Form(examples=[_LABEL_PARAMS])] = "{}",
    tag: Tag = "final",
) -> dict[str, Any]:
    app = running_app()
    if not (image or series or study):
        refuse(422, "No image was given: name the label's as ?image=ID, or ?series=UID for a case of a PACS.")
    image = named_image(app, image, series, study)
    tag = safe_tag(tag or "final")
    info = json_object(params)
    with upload_on_disk(label, dicom=True) as path:
        if path.suffix == DICOM:
            if tag != "final":
                refuse(422, "A DICOM SEG is taken as a final label only; leave out the tag.")
            label_id = app.save_dicom_label(image, path, info)
        else:
            label_id = app.datastore().save_label(image, str(path), tag, info)
    reply: dict[str, Any] = app.on_save_label(image, label_id) or {}
    return {**reply, "image": image, "label": label_id}


@router.delete("/label", summary="Remove a label")
def remove_label(id: ImageId, tag: Tag) -> dict[str, Any]:  # noqa: A002 - the stock query's name
    _label_file(id, tag)
    running_app().datastore().remove_label(id, tag)
    return {}


@router.head("/label", summary="Does this image have a label under this tag", responses={404: {}})
def check_label(image: ImageId, tag: Tag) -> Response:
    _label_file(image, tag)
    return Response()


@router.get(
    "/label",
    summary="Download a label, or one of its versions",
    response_class=FileResponse,
    responses=_BINARY,
)
def download_label(
    label: ImageId,
    tag: Tag = "final",
    version: Annotated[
        str | None, Query(pattern=NO_NUL, description="`uid` of a version in the history")
    ] = None,
) -> FileResponse:
    if version is None:
        path = _label_file(label, tag)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)
    app = running_app()
    path = Path(app.datastore().label_version(known_image(app, label), version))
    name = label + path.name.removeprefix("label")
    return FileResponse(path, media_type="application/octet-stream", filename=name)


@router.get("/label/info", summary="What is known about a label")
def label_info(label: ImageId, tag: Tag) -> Any:
    _label_file(label, tag)
    return running_app().datastore().get_label_info(label, tag)


@router.get("/label/history", summary="Every version of a label: who, when, with what, and what became of it")
def label_history(label: ImageId, tag: Tag = "final") -> dict[str, Any]:
    app = running_app()
    return {"versions": app.datastore().label_history(known_image(app, label), safe_tag(tag))}


@router.put("/updatelabelinfo", include_in_schema=False)
def update_label_info_old(label: ImageId, tag: Tag, params: JsonForm = "{}") -> Any:
    return update_label_info(label, tag, params)


@router.put("/label/info", summary="Add to what is known about a label")
def update_label_info(label: ImageId, tag: Tag, info: JsonForm = "{}") -> Any:
    _label_file(label, tag)
    return running_app().datastore().update_label_info(label, tag, json_object(info, "info"))


@router.get(
    "/dataset", summary="Labeled images and labels as one ZIP", response_class=FileResponse, responses=_BINARY
)
def download_dataset(limit_cases: int | None = None) -> FileResponse:
    store = running_app().datastore()
    if not store.datalist():
        refuse(404, "There is nothing to download yet: no image has a final label.")
    archive = Path(store.get_dataset_archive(limit_cases))
    reply = file_reply(archive, "application/zip", lambda: remove_files(archive))
    reply.headers["content-disposition"] = 'attachment; filename="dataset.zip"'
    return reply


def _image_file(image: str) -> Path:
    app = running_app()
    path = Path(app.datastore().image_file(known_image(app, image)))
    if not path.is_file():
        refuse(404, f"The file of the image {shown(image)} is gone from the studies folder.")
    return path


def _label_file(image: str, tag: str) -> Path:
    app = running_app()
    safe_tag(tag)
    found = app.datastore().get_label_uri(known_image(app, image), tag)
    path = Path(found) if found else None
    if path is None or not path.is_file():
        refuse(404, f"The image {shown(image)} has no label under the tag '{tag}'.")
    return path
