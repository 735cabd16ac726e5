"""project: a project whose studies are a PACS: its parts put together, as the app's settings say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    def attach(self, datastore: FolderDatastore) -> None:
        """Whose labels are sent, and who takes those of the PACS."""
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
