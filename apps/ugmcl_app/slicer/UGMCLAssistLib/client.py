"""The server's HTTP interface, as much of it as the module uses; docs/api.md describes it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import requests

from .errors import AssistError, ServerOutOfReach, ServerRefusal
from .multipart import Part, parts_by_name

CONNECT_S = 10.0
ANSWER_S = 60.0
"""Patience with an answer that needs no work."""
WORK_S = 1800.0
"""Patience with a segmentation or a download: minutes on a CPU, and the server may be busy with others."""
CHUNK = 1 << 20
IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd")


class Segmentation(NamedTuple):
    """A reply of the model.

    Attributes:
        params: `model_version`, `label_names`, `uncertainty` and the rest of docs/api.md.
        label: File of the segmentation.
        uncertainty: File of the map, float32 in [0, 1] on the image's grid.
    """

    params: dict[str, Any]
    label: Path
    uncertainty: Path


class AssistClient:
    """Speaks for one reader to one server. Every method may take long, and may be called from any thread.

    Args:
        url: Of the server, such as `http://127.0.0.1:8000`.
        reader: The reader's name: cases are leased to it, and labels are kept under it.

    Raises:
        AssistError: On construction, for an address or a name that cannot be one.
        ServerRefusal: From every method, when the server says no.
        ServerOutOfReach: From every method, when there is no whole answer.
    """

    def __init__(self, url: str, reader: str) -> None:
        self.url, self.reader = url.strip().rstrip("/"), reader.strip()
        if not self.url.startswith(("http://", "https://")):
            raise AssistError(f"'{url}' is no address of a server; one looks like http://127.0.0.1:8000.")
        if not self.reader:
            raise AssistError("Fill in the reader's name: labels are kept under it.")

    def next_case(self) -> dict[str, Any]:
        """The case to label next, leased to this reader: `id`, `score`, `lease`; {} when all are labeled."""
        return self._json("POST", "/activelearning/most_uncertain", json={"client_id": self.reader})

    def download_image(self, case: str, folder: Path) -> Path:
        """Fetch a scan into a folder; the file keeps the server's ending, not its name."""
        with self._answer(
            "GET", "/datastore/image", params={"image": case}, stream=True, timeout=(CONNECT_S, WORK_S)
        ) as answer:
            target = folder / ("image" + _ending(answer.headers.get("Content-Disposition", "")))
            beside = target.with_name(target.name + ".part")
            with beside.open("wb") as file:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
            announced = answer.headers.get("Content-Length")
            if announced is not None and beside.stat().st_size != int(announced):
                raise ServerOutOfReach(f"The download of {case} broke off; try again.")
        os.replace(beside, target)
        return target

    def segment(self, case: str, folder: Path) -> Segmentation:
        """Have a case segmented by the live model, with its uncertainty; both files go into `folder`."""
        # NRRD keeps the grid in decimals of full precision; a NIfTI header has 32-bit numbers.
        wish = json.dumps({"uncertainty": True, "result_extension": ".nrrd", "client_id": self.reader})
        with self._answer(
            "POST",
            "/infer/ugmcl",
            params={"image": case},
            data={"params": wish},
            timeout=(CONNECT_S, WORK_S),
        ) as answer:
            parts = parts_by_name(answer.headers.get("Content-Type", ""), answer.content)
        missing = [name for name in ("params", "image", "uncertainty") if name not in parts]
        if missing:
            raise ServerOutOfReach(f"The server's answer lacks the part {', '.join(missing)}.")
        label, uncertainty = folder / "label.nrrd", folder / "uncertainty.nrrd"
        _write(label, parts["image"])
        _write(uncertainty, parts["uncertainty"])
        return Segmentation(json.loads(parts["params"].content), label, uncertainty)

    def submit(self, case: str, label: Path, params: dict[str, Any]) -> dict[str, Any]:
        """Store the reader's label; a round starts by itself.

        Args:
            case: The case.
            label: File on the image's grid, NIfTI or NRRD.
            params: `label_info`, and `no_finding`, `comment`, `model_version` where they apply.
        """
        said = {**params, "client_id": self.reader, "tool": "3D Slicer, UGMCLAssist"}
        with label.open("rb") as file:
            return self._json(
                "PUT",
                "/datastore/label",
                params={"image": case, "tag": "final"},
                data={"params": json.dumps(said)},
                files={"label": (label.name, file)},
                timeout=(CONNECT_S, WORK_S),
            )

    def rounds(self) -> list[dict[str, Any]]:
        """Every training round, oldest first."""
        found: list[dict[str, Any]] = self._json("GET", "/rounds")["rounds"]
        return found

    def models(self) -> list[dict[str, Any]]:
        """The kept model versions, one of them `published`."""
        found: list[dict[str, Any]] = self._json("GET", "/models")["models"]
        return found

    def start_round(self) -> None:
        """Ask for a training round; submitted labels start one without being asked."""
        self._json("POST", "/train/ugmcl", json={"client_id": self.reader})

    def heartbeat(self, case: str) -> float:
        """Say that the reader still works on a case.

        Returns:
            Until when the case is theirs alone, in seconds since 1970.
        """
        return float(self._lease(case, "heartbeat")["expires_at"])

    def release(self, case: str) -> None:
        """Give a case back; it may be offered again."""
        self._lease(case, "release")

    def skip(self, case: str, reason: str) -> None:
        """Give a case back and not get it again while there are others."""
        self._lease(case, "skip", reason=reason)

    def _lease(self, case: str, action: str, **words: str) -> dict[str, Any]:
        return self._json(
            "POST", f"/leases/{quote(case, safe='')}/{action}", json={"client_id": self.reader, **words}
        )

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        with self._answer(method, path, **options) as answer:
            try:
                found = answer.json()
            except ValueError:
                found = None
        if not isinstance(found, dict):
            raise ServerOutOfReach(
                f"{self.url}{path} did not answer in JSON; is this a server of ugmcl-assist?"
            )
        return found

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, **options: Any) -> Iterator[requests.Response]:
        """One request; no session is kept, so that threads share nothing."""
        options.setdefault("timeout", (CONNECT_S, ANSWER_S))
        # Content-Length then counts the file's own bytes, also behind a proxy.
        headers = {"Accept-Encoding": "identity"}
        try:
            with requests.request(method, self.url + path, headers=headers, **options) as answer:
                if answer.status_code >= 400:
                    raise ServerRefusal(_sentence(answer), answer.status_code)
                yield answer
        except requests.Timeout as error:
            raise ServerOutOfReach(f"The server {self.url} took too long to answer; try again.") from error
        except requests.ConnectionError as error:
            raise ServerOutOfReach(
                f"No server answers at {self.url}: start `ugmcl-assist serve`, or correct the address."
            ) from error
        except requests.RequestException as error:
            raise ServerOutOfReach(f"The exchange with {self.url} failed: {type(error).__name__}.") from error


def _sentence(answer: requests.Response) -> str:
    """The server's own words on why not, or the status where there are none."""
    try:
        said = answer.json().get("detail")
    except (ValueError, AttributeError):
        said = None
    return (
        said if isinstance(said, str) and said else f"The server answered with status {answer.status_code}."
    )


def _ending(disposition: str) -> str:
    message = Message()
    message["Content-Disposition"] = disposition
    name = (message.get_filename() or "").lower()
    found = [ending for ending in IMAGE_ENDINGS if name.endswith(ending)]
    if not found:
        raise ServerOutOfReach("The server sent a scan in a format that is not NIfTI or NRRD.")
    return found[0]


def _write(path: Path, part: Part) -> None:
    path.write_bytes(part.content)
