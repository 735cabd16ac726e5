"""A reader's work on one case after the other: what to ask the server, and what to show of its answer.

Each step has two halves. `fetch_...` and `send_...` talk to the server and may run in a thread; the others
touch the scene and belong to the main thread.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from .client import AssistClient, Segmentation
from .errors import AssistError, ServerRefusal
from .round_status import RoundStatus, round_status
from .scene import CaseScene
from .slice_order import Place, least_sure_first
from .voxels import array_of

RENEW_S = 30.0
"""Seconds between two renewals of a lease, which lasts an hour unless the server is told otherwise."""


class FetchedCase(NamedTuple):
    """A case to open: its id, the server's whole answer, and its scan's file; no id when all are labeled."""

    id: str
    answer: dict[str, Any]
    image: Path


class PreparedLabel(NamedTuple):
    """A label ready to be sent."""

    case: str
    file: Path
    params: dict[str, Any]


class News(NamedTuple):
    """What a look at the server found.

    Attributes:
        status: Where the learning stands.
        case: The case whose lease was renewed; empty if there was none to renew.
        lost: Whether that case is not the reader's any more.
    """

    status: RoundStatus
    case: str
    lost: bool


class AssistSession:
    """Joins the client and the scene.

    Args:
        scene: Where cases are shown.
    """

    def __init__(self, scene: CaseScene) -> None:
        self.scene = scene
        self.case = ""
        self.answer: dict[str, Any] = {}
        self.model_version = ""
        self.places: list[Place] = []
        self._client: AssistClient | None = None
        self._at = -1
        self._leased = False
        self._renewed_at = 0.0
        self._folder = Path(tempfile.mkdtemp(prefix="ugmcl-assist-"))

    def connect(self, url: str, reader: str) -> None:
        """Work with this server as this reader from now on; a case of another server is closed."""
        client = AssistClient(url, reader)
        if self._client is not None and self._client.url != client.url:
            self.scene.close()
            self.case, self.places, self._leased = "", [], False
        self._client = client

    @property
    def client(self) -> AssistClient:
        """The connection; raises AssistError while there is none."""
        if self._client is None:
            raise AssistError("Press 'Connect' first.")
        return self._client

    def close(self) -> None:
        """Remove the temporary files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- next

    def fetch_next(self) -> FetchedCase:
        """Ask for the most uncertain case and download its scan."""
        answer = self.client.next_case()
        if not answer.get("id"):
            return FetchedCase("", answer, Path())
        case = str(answer["id"])
        return FetchedCase(case, answer, self.client.download_image(case, self._room()))

    def open_case(self, fetched: FetchedCase) -> None:
        """Show a fetched case in place of the last one; AssistError when there is none left."""
        if not fetched.id:
            raise AssistError("Every case has a label; there is nothing left to do.")
        self.scene.open(fetched.image, fetched.id)
        shutil.rmtree(fetched.image.parent, ignore_errors=True)
        self.case, self.answer = fetched.id, fetched.answer
        self.model_version, self.places, self._at = "", [], -1
        self._leased, self._renewed_at = bool(fetched.answer.get("lease")), time.monotonic()

    # --- segment

    def fetch_segmentation(self) -> Segmentation:
        """Have the open case segmented."""
        return self.client.segment(self._open_case(), self._room())

    def show_segmentation(self, reply: Segmentation, threshold: float, opacity: float) -> None:
        """Draw a reply: segments, the uncertainty over the scan, and the views at the least sure slice."""
        self.scene.show_segmentation(reply.label, reply.params["label_names"])
        self.scene.show_uncertainty(reply.uncertainty, threshold, opacity)
        shutil.rmtree(reply.label.parent, ignore_errors=True)
        self.model_version = str(reply.params.get("model_version", ""))
        named = reply.params.get("uncertainty", {}).get("top_slices", [])
        self.places, self._at = least_sure_first(array_of(self.scene.uncertainty), named), -1
        if self.places:
            self.step(1)

    def step(self, by: int) -> None:
        """Go to the next (1) or previous (-1) most uncertain slice; at either end the views stay."""
        if not self.places:
            raise AssistError("There is no uncertain slice to go to: press 'Segment' first.")
        self._at = min(max(self._at + by, 0), len(self.places) - 1)
        self.scene.jump_to(self.places[self._at])

    @property
    def place(self) -> Place | None:
        """Where the views are in the order of uncertainty."""
        return self.places[self._at] if self._at >= 0 else None

    @property
    def place_text(self) -> str:
        """The same, for the panel."""
        place = self.place
        if place is None:
            return ""
        return (
            f"{self._at + 1} of {len(self.places)}: slice {place.slice_index} along {'IJK'[place.axis]}, "
            f"{round(100 * place.score)} % as unsure as the least sure one"
        )

    # --- submit

    def prepare_label(self, comment: str, no_finding: bool = False) -> PreparedLabel:
        """Write the segments as a label file; an empty one only with `no_finding`."""
        case, file = self._open_case(), self._room() / "submitted.nrrd"
        meaning = self.scene.segments.export(self.scene.segmentation, self.scene.image, file)
        params: dict[str, Any] = {"label_info": meaning}
        if no_finding:
            params["no_finding"] = True
        if comment.strip():
            params["comment"] = comment.strip()
        if self.model_version:
            params["model_version"] = self.model_version
        return PreparedLabel(case, file, params)

    def send_label(self, label: PreparedLabel) -> str:
        """Send a prepared label; returns the id under which the server keeps it."""
        kept = str(self.client.submit(label.case, label.file, label.params)["label"])
        shutil.rmtree(label.file.parent, ignore_errors=True)
        return kept

    def take_as_submitted(self) -> None:
        """The server has what is drawn, and with it the lease is over."""
        self.scene.take_as_submitted()
        self._leased = False

    def skip(self, reason: str) -> None:
        """Give the open case back and not get it again."""
        self.client.skip(self._open_case(), reason.strip())
        self._leased = False

    # --- the learning

    def fetch_news(self) -> News:
        """Look at models and rounds, and renew the lease of the open case when it is time."""
        case, lost = (self.case if self._leased else ""), False
        if case and time.monotonic() - self._renewed_at >= RENEW_S:
            try:
                self.client.heartbeat(case)
                self._renewed_at = time.monotonic()
            except ServerRefusal:
                lost = True
        return News(round_status(self.client.rounds(), self.client.models()), case, lost)

    def take_news(self, news: News) -> bool:
        """Note what was found; returns whether the open case has just ceased to be the reader's."""
        lost = news.lost and news.case == self.case and self._leased  # not of a case that was left meanwhile
        self._leased = self._leased and not lost
        return lost

    def _open_case(self) -> str:
        if not self.case:
            raise AssistError("No case is open: press 'Next most uncertain'.")
        return self.case

    def _room(self) -> Path:
        """A new folder: an answer that comes late must not overwrite the files of the next."""
        return Path(tempfile.mkdtemp(dir=str(self._folder)))
