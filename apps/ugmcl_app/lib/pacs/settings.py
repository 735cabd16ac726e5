"""settings: where a PACS is, how to prove who asks, and how long to wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True)
class PacsSettings:
    """A DICOMweb service.

    Attributes:
        url: Its root, as `http://127.0.0.1:8042/dicom-web`; without user or password in it.
        user, password: For Basic authentication; both or neither.
        token: For `Authorization: Bearer`; instead of a user.
        ca_file: Certificates (PEM) that vouch for the service; None: those the system trusts.
        client_certificate, client_key: Our own certificate and its key (PEM), where the service asks for one.
        connect_s, answer_s: Seconds to wait for a connection, and for each further piece of an answer.
        attempts: How often a request is tried while the PACS cannot be reached or is busy, in all.
        backoff_s: Seconds before the second attempt; doubled before each further one, up to 30.
        modalities: Which series are listed.
        search: Further QIDO-RS keys and values that narrow the list, as `{"StudyDescription": "RESEARCH"}`.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = field(default=None, repr=False)
    connect_s: float = 5.0
    answer_s: float = 60.0
    attempts: int = 4
    backoff_s: float = 0.5
    modalities: tuple[str, ...] = ("MR", "CT")
    search: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
            raise ValueError(f"The PACS address {_shown(self.url)} is none; give http(s)://HOST[:PORT]/PATH.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"The PACS address {_shown(self.url)} carries a user, a query or a fragment; give user and "
                "password as settings of their own."
            )
        if bool(self.user) != bool(self.password) or (self.user and self.token):
            raise ValueError("A PACS takes a user with a password, or a token, or nothing.")
        if (self.user or self.token) and parts.scheme == "http" and not _is_local(parts.hostname):
            raise ValueError(
                f"Credentials for {_shown(self.url)} would cross the network in clear; use https, or a PACS "
                "on this machine."
            )
        if self.client_key is not None and self.client_certificate is None:
            raise ValueError("A client key needs its certificate.")
        for path in (self.ca_file, self.client_certificate, self.client_key):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"There is no file {path} for the PACS connection.")
        if self.attempts < 1 or min(self.connect_s, self.answer_s) <= 0 or self.backoff_s < 0:
            raise ValueError("A PACS needs at least one attempt and waiting times above zero.")
        if not self.modalities:
            raise ValueError("A PACS listing needs at least one modality, as in MR,CT.")

    @property
    def root(self) -> str:
        """The address without a closing slash."""
        return self.url.rstrip("/")


def _has_port(parts: SplitResult) -> bool:
    """Whether the port is a number that a port can have, or left out."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _shown(url: str) -> str:
    """An address without what may be a password."""
    parts = urlsplit(url)
    return repr(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:120])
