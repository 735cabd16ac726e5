"""pacs_answers: what the app does for cases of a PACS beside what it does for all: DICOM out, and DICOM in.

Nothing here needs the extra `dicom` unless the studies are a PACS.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import Refusal, UnusableImage
from .settings import AppSettings
from .workspace import Workspace, is_web_address

if TYPE_CHECKING:
    from .infers import InferResult
    from .pacs.project import PacsProject


def open_pacs(studies: str, workspace: Workspace, settings: AppSettings) -> PacsProject | None:
    """The PACS that studies are; None for a folder.

    Raises:
        ValueError: If the extra `dicom` is not installed, or for settings that do not fit.
    """
    if not is_web_address(studies):
        return None
    try:
        from .pacs.project import PacsProject
    except ImportError as error:
        raise ValueError(
            f"A PACS needs the package {error.name}: pip install 'ugmcl-assist[dicom]'."
        ) from error
    return PacsProject(studies, workspace, settings)


class PacsAnswers:
    """The part of the app that answers in DICOM.

    Attributes:
        pacs: What connects the project to its PACS; None where the studies are a folder.
        settings, labels_map: As in `UGMCLApp`.
    """

    pacs: PacsProject | None
    settings: AppSettings
    labels_map: dict[str, int]
    datastore: Any
    uncertainty_map: Any
    _infers: Any

    def pacs_client_options(self) -> dict[str, Any] | None:
        """`root` of the PACS, and what an HTTP client of it is made with; None for a folder of scans."""
        return self.pacs.source.web.connection.client_options() if self.pacs else None

    def pacs_changed(self) -> None:
        """Something was stored in the PACS by way of this server: it is looked at now."""
        if self.pacs is not None:
            self.pacs.source.expire()

    def of_pacs(self, image_id: Any) -> PacsProject:
        """The PACS that a case comes from; Refusal 422 for a case from a file, or an uploaded one."""
        if self.pacs is None or not isinstance(image_id, str) or not self.datastore().has_image(image_id):
            raise Refusal(
                422,
                "DICOM output needs a case from a PACS, and this image comes from a file. Ask for NIfTI or "
                "NRRD, or start the server with --studies http://PACS/dicom-web.",
            )
        return self.pacs

    def dicom_segmentation(self, image_id: str, file: Path, params: dict[str, Any]) -> bytes:
        """A result of `infer` as DICOM SEG: the label `file` with its `params`; raises as `of_pacs`."""
        results = self.of_pacs(image_id).results
        return results.segmentation(image_id, file, params["label_names"], params["model_version"])

    def dicom_map(self, image_id: str) -> tuple[bytes, str]:
        """The uncertainty map of a case as Parametric Map, and its model version; raises as
        `uncertainty_map` and `of_pacs`."""
        results = self.of_pacs(image_id).results
        path, version = self.uncertainty_map(image_id)
        try:
            return results.uncertainty(image_id, path, version), version
        except UnusableImage:  # another inference of the case has just replaced the file
            path, version = self.uncertainty_map(image_id)
            return results.uncertainty(image_id, path, version), version

    def save_dicom_label(self, image_id: str, file: Path, info: dict[str, Any]) -> str:
        """Take a DICOM SEG for a case's final label; raises as `of_pacs`, and 422 for what is no label."""
        return self.of_pacs(image_id).save_label(image_id, file, info, self.settings.allow_empty_labels)

    def _wants_push(self, request: dict[str, Any], image_id: str | None, task: Any) -> PacsProject | None:
        """The PACS to store a result in, if the request or the settings say so."""
        if request.get("push", False) in (True, "true"):
            if task is not self._infers["ugmcl"]:
                raise Refusal(422, "Results of the model 'ugmcl' are stored in the PACS, map included.")
            return self.of_pacs(image_id)
        wanted = self.pacs is not None and self.pacs.push and task is self._infers["ugmcl"]
        return self.pacs if wanted and image_id is not None else None

    def _push(self, pacs: PacsProject, image_id: str, path: Path, result: InferResult) -> dict[str, Any]:
        """Have a result stored; a series that nothing can refer to in DICOM takes nothing from the answer."""
        version = result.params["model_version"]
        kept = self._infers["ugmcl"].keep_map(image_id, path, version)
        try:
            pushed = pacs.store(image_id, result.label_file, self.labels_map, kept.path, version)
        except Refusal as refusal:
            return {"pushed": None, "not_pushed": str(refusal.detail)}
        return {"pushed": pushed}
