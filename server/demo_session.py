"""The demo's side of the wire: everything it asks of a server, through MONAI Label's stock Python client.

Uploads are the one place below `MONAILabelClient.infer`: it keeps only the first file of a reply, so the
client's own `MONAILabelUtils.http_multipart` is used where the uncertainty map behind it is wanted too.
"""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException, MONAILabelUtils
from numpy.typing import NDArray

T = TypeVar("T")

MODEL = "ugmcl"
ACTIVE = ("queued", "running")


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why and what to do, and is shown without a traceback."""


@dataclass(frozen=True)
class Reply:
    """A segmentation as it came back.

    Attributes:
        label: Class values on the file's grid, (X, Y, Z).
        uncertainty: The map in [0, 1] on that grid, or None when it was not sent.
        params: The reply's JSON part.
    """

    label: NDArray[np.uint8]
    uncertainty: NDArray[np.float32] | None
    params: dict[str, Any]

    @property
    def score(self) -> float:
        """How unsure the model is of this case, in [0, 1]."""
        return float((self.params.get("uncertainty") or {}).get("score") or 0.0)


class DemoSession:
    """A reader at work on one server.

    Args:
        url: Address of the server.
        folder: Existing folder for what the client downloads.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url.rstrip("/")
        self.client = MONAILabelClient(self.url, tmpdir=str(folder), client_id="demo")

    def next_case(self) -> tuple[str, float | None] | None:
        """The most uncertain unlabeled case and its score (None before a model); None when none is left."""
        chosen = self._ask("choose the next case", lambda: self.client.next_sample("most_uncertain", {}))
        if not chosen.get("id"):
            return None
        return str(chosen["id"]), chosen.get("score")

    def cases(self) -> dict[str, bool]:
        """All the cases the server holds, and whether each has a final label."""
        objects = self._ask("list the cases", self.client.datastore).get("objects", {})
        return {str(name): "final" in entry.get("labels", {}) for name, entry in objects.items()}

    def infer(self, case: str) -> Reply:
        """Segment a case of the server's own, with its uncertainty."""
        path, params = self._ask(
            f"segment {case}",
            lambda: self.client.infer(MODEL, case, {"uncertainty": True, "result_extension": ".nii.gz"}),
        )
        return Reply(read_nifti_array(Path(path).read_bytes()).astype(np.uint8), None, params)

    def infer_file(self, scan: Path) -> Reply:
        """Segment an uploaded scan, with its uncertainty map."""
        params = {"uncertainty": True, "result_extension": ".nii.gz", "client_id": "demo"}
        status, form, files, _ = self._ask(
            f"segment {scan.name}",
            lambda: MONAILabelUtils.http_multipart(
                "POST",
                self.url,
                f"/infer/{MODEL}?image=",
                {"params": json.dumps(params)},
                {"file": str(scan)},
            ),
        )
        if status != 200 or not files:
            raise DemoError(
                f"The server could not segment {scan.name} (status {status}): {sentence_of(form)}"
            )
        parts = [read_nifti_array(content) for content in files.values()]
        # The label comes first; the map, where there is one, is always the last part.
        uncertainty = parts[1].astype(np.float32) if len(parts) > 1 else None
        reply = json.loads(form["params"]) if isinstance(form["params"], str | bytes) else form["params"]
        return Reply(parts[0].astype(np.uint8), uncertainty, reply)

    def submit(self, case: str, label: Path) -> None:
        """Submit a corrected label, as a viewer does."""
        self._ask(f"save the label of {case}", lambda: self.client.save_label(case, str(label), "final", {}))

    def rounds(self) -> list[dict[str, Any]]:
        """The server's rounds, oldest first."""
        return list(self._get("/rounds")["rounds"])

    def published_model(self) -> str | None:
        """Version of the model that answers now; None before the first."""
        live = [model["version"] for model in self._get("/models")["models"] if model["published"]]
        return str(live[0]) if live else None

    def ready(self) -> bool:
        """Whether the server answers and has its data at hand; never raises."""
        try:
            status, *_ = MONAILabelUtils.http_method("GET", self.url, "/ready")
        except (OSError, http.client.HTTPException):
            return False
        return bool(status == 200)

    def wait_for_round(
        self, submitted: set[str], progress: Callable[[dict[str, Any]], None], idle_s: float = 90.0
    ) -> dict[str, Any] | None:
        """Wait until a round that took in all of `submitted` is done.

        Args:
            submitted: Cases whose labels the round must have; empty waits for what is running or queued, if
                anything, and takes the last round that was done.
            progress: Called about once a second with the round that is running.
            idle_s: How long the server may go without starting a round before that counts as a failure.

        Returns:
            The round, or None when nothing was submitted and none was ever done.

        Raises:
            DemoError: When the round failed, was cancelled, or none started.
        """
        deadline = time.monotonic() + idle_s
        while True:
            rounds = self.rounds()
            active = [entry for entry in rounds if entry["status"] in ACTIVE]
            last = next((entry for entry in reversed(rounds) if entry not in active), None)
            if not active and not submitted:
                return next((entry for entry in reversed(rounds) if entry["status"] == "done"), None)
            if last and not active and submitted <= set(last["labeled_ids"]):
                return checked(last)
            if active:
                deadline = time.monotonic() + idle_s
                progress(active[0])
            elif last and last["status"] != "done" and submitted & set(last["labeled_ids"]):
                checked(last)
            elif time.monotonic() > deadline:
                raise DemoError(
                    f"{len(submitted)} labels are saved, but the server at {self.url} started no round "
                    f"within {idle_s:.0f} s; see its log, and min_labels among its settings."
                )
            time.sleep(1.0)

    def _get(self, route: str) -> dict[str, Any]:
        status, body, *_ = self._ask(
            f"answer {route}", lambda: MONAILabelUtils.http_method("GET", self.url, route)
        )
        if status != 200:
            raise DemoError(f"{self.url}{route} answered {status}: {sentence_of(body)}")
        return dict(json.loads(body))

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """Make a call through the client; turn what can go wrong into a sentence."""
        try:
            return call()
        except MONAILabelClientException as error:
            raise DemoError(f"The server at {self.url} could not {what}. {sentence_of(error.msg)}") from error
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(
                f"The server at {self.url} cannot be reached to {what} ({error or type(error).__name__}). "
                "Start one with `make serve`, or leave out --server and the demo starts its own."
            ) from error


def checked(entry: dict[str, Any]) -> dict[str, Any]:
    """The round if it is done; DemoError with its reason if it failed or was cancelled."""
    if entry["status"] == "done":
        return entry
    raise DemoError(
        f"Round {entry['id']} is {entry['status']}: {entry.get('reason') or 'no reason was given'}. "
        "The labels are safe on the server; the next label, or POST /train/ugmcl, starts another round."
    )


def sentence_of(answer: object) -> str:
    """The server's own sentence out of whatever form an error reply took."""
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    start = text.find("{")
    if start >= 0:
        try:
            return str(json.loads(text[start:])["detail"])
        except (ValueError, KeyError, TypeError):
            pass
    return text[:500]


def read_nifti_array(content: bytes) -> NDArray[Any]:
    """Voxels (X, Y, Z) of a NIfTI file's bytes, compressed or not."""
    import gzip

    raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return np.asarray(nib.Nifti1Image.from_stream(io.BytesIO(raw)).dataobj)
