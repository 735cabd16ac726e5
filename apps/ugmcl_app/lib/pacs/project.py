"""project: a project whose studies are a PACS: its parts put together, as the app's settings say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import check_finding
from ..dicom.structures import read_codes
from ..errors import Refusal
from ..settings import AppSettings
from ..workspace import Workspace
from .exchange import PacsExchange
from .outbox import Outbox
from .results import DicomResults
from .settings import PacsSettings
from .source import PacsSource

if TYPE_CHECKING:
    from ..datastore import FolderDatastore

PASSWORD, TOKEN = "UGMCL_PACS_PASSWORD", "UGMCL_PACS_TOKEN"
"""Environment variables: what is on a command line, every user of the machine can see."""


class PacsProject:
    """The PACS side of one project.

    Attributes:
        source: The series as cases.
        results: Labels and maps as DICOM objects.
        exchange: What is sent to the PACS and taken from it.
        push: Whether every result is sent, also when a request does not say so.
    """

    def __init__(self, studies: str, workspace: Workspace, settings: AppSettings) -> None:
        self._settings = pacs_settings(studies, settings)
        max_bytes = int(settings.pacs_cache_gib * 1024**3)
        self.source = PacsSource(
            workspace.pacs, self._settings, workspace.database, max_bytes, settings.pacs_poll_s
        )
        codes = read_codes(settings.codes or None)
        self.results = DicomResults(self.source, settings.labels_map, codes, settings.pacs_seg_form)
        outbox = Outbox(workspace.pacs / "outbox", self.source.web)
        self.exchange = PacsExchange(
            self.source, self.results, outbox, workspace.database, settings.pacs_poll_s
        )
        self.push = settings.pacs_push
        self._datastore: FolderDatastore | None = None

    def attach(self, datastore: FolderDatastore) -> None:
        """Whose labels are sent, and who takes those of the PACS."""
        self._datastore = datastore
        self.exchange.attach(datastore)

    def start(self) -> None:
        """Work in the background until `stop`."""
        self.exchange.start()

    def stop(self) -> None:
        """End the thread and the connections."""
        self.exchange.stop()
        self.source.close()

    def state(self) -> dict[str, Any]:
        """For `/info/`."""
        return {
            "url": self._settings.root,
            "reachable": not self.source.is_away,
            "trouble": self.source.trouble or None,
            **self.exchange.state(),
        }

    def save_label(self, image_id: str, file: Path, info: dict[str, Any], may_be_empty: bool) -> str:
        """Take a DICOM SEG that a person submits for the case's final label.

        Raises:
            Refusal: 422 with the reason, 503 if the case cannot be fetched.
        """
        assert self._datastore is not None
        read = self.results.read_label(image_id, file)
        says_no_finding = info.get("no_finding") in (True, "true")
        if read.is_empty and not (may_be_empty or says_no_finding):
            raise Refusal(
                422,
                "The DICOM SEG is empty: no voxel is set. If the scan really shows nothing to segment, send "
                'params {"no_finding": true}.',
            )
        check_finding(says_no_finding, read.labels)
        kept = {key: value for key, value in info.items() if key not in ("label_info", "no_finding")}
        return self._datastore.take_label(image_id, read.labels, {**kept, "dicom_seg": read.instance_uid})

    def store(
        self, case_id: str, label: Path, names: dict[str, int], uncertainty: Path, version: str
    ) -> dict[str, str]:
        """Have a model's result sent to the PACS, whenever that answers.

        Args:
            case_id: The case.
            label, names: The label file, and `{name: value}` of what it holds.
            uncertainty: The map file.
            version: The model's.

        Returns:
            SOPInstanceUID of `segmentation` and `uncertainty`.
        """
        objects = {
            "segmentation": self.results.segmentation(case_id, label, names, version),
            "uncertainty": self.results.uncertainty(case_id, uncertainty, version),
        }
        return {kind: self.exchange.send(content) for kind, content in objects.items()}

    def case_named(self, series: str = "", study: str = "") -> str:
        """The case of a series, or the only one of a study.

        Raises:
            Refusal: 404 for one that is not a case here, 409 where a study has several.
        """
        if series:
            known = self.source.known(series)
            if known is None or (study and known.study_uid != study):
                raise Refusal(404, f"There is no series {series[:70]!r} here; GET /cases lists them.")
            return series
        found = self.source.series_of_study(study)
        if not found:
            raise Refusal(404, f"There is no study {study[:70]!r} here; GET /cases lists them.")
        if len(found) > 1:
            raise Refusal(
                409, f"The study has {len(found)} series here; name one as series: {', '.join(found)}."
            )
        return found[0]


def pacs_settings(
    studies: str, settings: AppSettings, environment: Mapping[str, str] = os.environ
) -> PacsSettings:
    """How to reach the PACS.

    Raises:
        ValueError: For settings that contradict each other; never with a password in it.
    """

    def file(name: str) -> Path | None:
        return Path(name).expanduser() if name else None

    return PacsSettings(
        studies.rstrip("/"),
        user=settings.pacs_user,
        password=environment.get(PASSWORD, "") if settings.pacs_user else "",
        token=environment.get(TOKEN, ""),
        ca_file=file(settings.pacs_ca_file),
        client_certificate=file(settings.pacs_client_certificate),
        client_key=file(settings.pacs_client_key),
        modalities=settings.pacs_modalities,
        search=dict(settings.pacs_search),
    )
