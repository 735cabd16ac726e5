"""webhooks: tell another program of saved labels and published models: signed, in order, until it has heard.

An event is a file in the workspace from the moment it is known until the receiver has answered; which labels
were turned into events is kept in the catalogue. Of several servers, one at a time makes events, and one at a
time sends them. A crash may send an event twice; none is lost.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from sqlalchemy import select
from sqlalchemy.orm import Session

from .catalogue import facts, model_rows
from .catalogue.database import next_number
from .catalogue.labels import FINAL
from .catalogue.schema import ACTIVE, Label
from .datastore import FolderDatastore
from .exclusive import alone
from .registry import ModelRegistry
from .workspace import Workspace, read_json, write_json_atomic

logger = logging.getLogger(__name__)

SECRET = "UGMCL_WEBHOOK_SECRET"
LABEL_SAVED, ROUND_PUBLISHED = "label_saved", "round_published"
FACT = "webhooks"
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
"""Between two attempts at one event; doubled each time."""
KEPT_S = 7 * 86400.0
"""An event that nobody has wanted for a week is given up."""
_TIMEOUT_S = 10.0
_GONE = 410


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What the header `X-UGMCL-Signature` holds: `sha256=` and the HMAC of `<timestamp>.<body>` in hex."""
    signed = timestamp.encode() + b"." + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


class Webhooks:
    """The events of one project, for one receiver.

    Args:
        url: The receiver.
        secret: What the signatures are made with.
        workspace: Where events wait.
        datastore, registry: What is told of.
    """

    def __init__(
        self, url: str, secret: str, workspace: Workspace, datastore: FolderDatastore, registry: ModelRegistry
    ) -> None:
        if not secret:
            raise ValueError(
                f"--conf webhook is set, but not the secret its messages are signed with; put one into the "
                f"environment variable {SECRET}."
            )
        self._url, self._secret = url, secret
        self._folder, self._database = workspace.root / "webhooks", workspace.database
        self._datastore, self._registry = datastore, registry
        self._news, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._failures, self._not_before = 0, 0.0
        self._trouble = ""

    def start(self) -> None:
        """Begin telling, in the background; what happened before the first start is not told."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._database.write(self._begin)
        self._datastore.on_labels_changed.append(self._news.set)
        self._registry.on_published.append(self._published)
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="webhooks")
        self._thread.start()

    def stop(self) -> None:
        """End the thread; events that wait are told after the next start."""
        if self._thread is None:
            return
        self._datastore.on_labels_changed.remove(self._news.set)
        self._registry.on_published.remove(self._published)
        self._stopping.set()
        self._news.set()
        self._thread.join(timeout=_TIMEOUT_S + 5)
        self._thread = None

    def state(self) -> dict[str, Any]:
        """For `/info/`: how many events wait, and why."""
        return {"waiting": len(self._waiting()), "trouble": self._trouble or None}

    # --- events

    def _begin(self, session: Session) -> None:
        if not facts.get(session, FACT):
            newest = select(Label.revision).order_by(Label.revision.desc()).limit(1)
            seen = int(session.scalar(newest.where(Label.tag == FINAL)) or 0)
            facts.put(session, FACT, {"revision": seen, "published": self._registry.published()})

    def _published(self, version: str) -> None:
        self._database.write(lambda session: self._put_events(session, version))
        self._news.set()

    def _find_events(self) -> None:
        with self._database.read() as session:
            known, live = facts.get(session, FACT), model_rows.live(session)
            if live in (None, known["published"]) and not self._new_labels(session, known):
                return
        self._database.write(self._put_events)

    def _put_events(self, session: Session, published: str | None = None) -> None:
        """Of `published`, or of the live version: it may have gone live as its server was cut off."""
        next_number(session, FACT)  # one server at a time: it sees what the others have put
        known = facts.get(session, FACT)
        version = published or model_rows.live(session)
        told = dict(known)
        if version is not None and version != known["published"]:
            self._put_version(session, version)
            told["published"] = version
        labels = self._new_labels(session, known)
        self._put_labels(labels)
        if labels:
            told["revision"] = labels[-1].revision
        if told != known:
            facts.put(session, FACT, told)

    def _put_version(self, session: Session, version: str) -> None:
        found = model_rows.find(session, version)
        if found is not None:
            at = found.published_at or time.time()
            uid = uuid.uuid5(uuid.NAMESPACE_OID, f"{version} {at!r}").hex
            told = {"model_version": version, "round": found.round, "metrics": found.metrics}
            self._put(ROUND_PUBLISHED, at, uid, told)

    def _put_labels(self, labels: list[Label]) -> None:
        uids = self._datastore.dicom_uids([label.case_id for label in labels])
        for label in labels:
            study, series = uids.get(label.case_id, (None, None))
            told = {
                "image": label.case_id,
                "study_instance_uid": study,
                "series_instance_uid": series,
                "label": label.uid,
                "sha256": label.sha256,
                "reader": label.reader,
                "source": label.source,
                "saved_at": label.created_at,
            }
            self._put(LABEL_SAVED, label.created_at, label.uid, told)

    @staticmethod
    def _new_labels(session: Session, known: dict[str, Any]) -> list[Label]:
        where = (Label.tag == FINAL, Label.state == ACTIVE, Label.revision > known["revision"])
        return list(session.scalars(select(Label).where(*where).order_by(Label.revision, Label.id)))

    def _put(self, event: str, at: float, uid: str, told: dict[str, Any]) -> None:
        """Before the transaction ends, and under a name that a repeated one gives again."""
        entry = {"id": uid, "event": event, "created_at": time.time(), **told}
        write_json_atomic(self._folder / f"{max(0, round(at * 1e9)):020d}-{uid}.json", entry)

    # --- telling

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            try:
                self._find_events()
                with alone(self._folder / "sending.lock") as free:
                    if free:
                        self.tell()
            except Exception:
                logger.exception("Telling the webhook failed; it is tried again.")
            if not self._stopping.is_set():
                self._news.wait(min(5.0, max(0.2, self._not_before - time.monotonic())))

    def _waiting(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*.json"))

    def tell(self, post: Callable[..., requests.Response] = requests.post) -> None:
        """Send what waits, oldest first, until one is not taken; then nothing until its wait is over."""
        for path in self._waiting():
            if self._stopping.is_set() or time.monotonic() < self._not_before:
                return
            entry = read_json(path, None)
            if not isinstance(entry, dict):
                path.unlink(missing_ok=True)
                continue
            problem = self._send(entry, post)
            if not problem:
                path.unlink(missing_ok=True)
                self._failures, self._trouble = 0, ""
            elif problem == str(_GONE) or time.time() - float(entry["created_at"]) > KEPT_S:
                logger.error("An event is given up: the webhook's receiver did not take it (%s).", problem)
                path.unlink(missing_ok=True)
            else:
                self._wait(problem)

    def _send(self, entry: dict[str, Any], post: Callable[..., requests.Response]) -> str:
        """What went wrong; empty: nothing."""
        body, now = json.dumps(entry, separators=(",", ":")).encode(), str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-UGMCL-Event": str(entry["event"]),
            "X-UGMCL-Delivery": str(entry["id"]),
            "X-UGMCL-Timestamp": now,
            "X-UGMCL-Signature": signature(self._secret, now, body),
        }
        try:
            # A redirect could lead the message elsewhere; the setting names the address.
            with post(
                self._url, data=body, headers=headers, timeout=_TIMEOUT_S, allow_redirects=False
            ) as answer:
                return "" if 200 <= answer.status_code < 300 else str(answer.status_code)
        except requests.RequestException as error:
            return type(error).__name__

    def _wait(self, problem: str) -> None:
        host = urlsplit(self._url).hostname
        sentence = f"The webhook's receiver {host} did not take an event ({problem}); it is sent again."
        if sentence != self._trouble:
            logger.warning(sentence)
        wait = min(FIRST_WAIT_S * 2**self._failures, LONGEST_WAIT_S) * random.uniform(0.75, 1.25)
        self._failures, self._trouble = min(self._failures + 1, 16), sentence
        self._not_before = time.monotonic() + wait
