"""connection: requests to a DICOMweb service, tried again where that can help, else refused in a sentence."""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from .settings import PacsSettings

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 30.0
"""Between two attempts, whatever the back-off or the PACS ask for."""
_BUSY = {408, 425, 429, 500, 502, 503, 504}
"""Answers that another attempt may change; 500 because PACSs give it while their storage is away."""


class PacsError(Exception):
    """A PACS did not do what was asked; its text is a sentence without a patient's data.

    Attributes:
        status: The HTTP status, or None where there was no answer.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class PacsUnavailable(PacsError):
    """It cannot be reached, or is busy: the same request may succeed later."""


class PacsRefused(PacsError):
    """It said no; the same request will fail again."""


class PacsAnswerUnusable(PacsError):
    """It answered with something else than DICOMweb promises."""


class PacsConnection:
    """A pool of connections to one service. Thread-safe; close it in the end."""

    def __init__(self, settings: PacsSettings, sleep: Callable[[float], None] = time.sleep) -> None:
        """`sleep` waits between attempts; a server that stops may give one that ends early by raising.

        Raises:
            ValueError: For certificates of the settings that cannot be read.
        """
        self.settings = settings
        self._sleep = sleep
        self._client = httpx.Client(**_client_options(settings))

    def client_options(self) -> dict[str, Any]:
        """`root`, and what another HTTP client of the same service is made with."""
        return {"root": self.settings.root, **_client_options(self.settings)}

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def get(
        self, path: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """A whole answer: 2xx, or 304 where `headers` asked conditionally.

        Raises:
            PacsError: One of its kinds.
        """

        def ask() -> httpx.Response:
            return self._client.get(self.settings.root + path, params=params, headers=headers)

        return self._attempts(path, ask)

    def post(self, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        """The answer to a body; also 202 and 409, which STOW-RS uses for stored in part.

        Raises:
            PacsError: One of its kinds.
        """

        def ask() -> httpx.Response:
            return self._client.post(self.settings.root + path, content=content, headers=headers)

        return self._attempts(path, ask, accepted=(409,))

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """One attempt at an answer read in pieces; the caller tries again, since it knows what it kept.

        Raises:
            PacsError: One of its kinds, also when the connection breaks in the middle.
        """
        try:
            with self._client.stream("GET", self.settings.root + path, headers=headers) as response:
                self._require_good(path, response, ())
                yield response
        except httpx.HTTPError as error:
            raise self._without_answer(path, error) from error

    def retry(self, work: Callable[[], object], what: str) -> None:
        """Call `work` until it succeeds, as often and with the waits the settings say.

        Raises:
            PacsUnavailable: The last one, when all attempts failed.
            PacsError: Any other kind, at once.
        """
        for attempt in range(1, self.settings.attempts + 1):
            try:
                work()
                return
            except PacsUnavailable as error:
                if attempt == self.settings.attempts:
                    raise
                self._wait(attempt, None, what, error)

    def _attempts(
        self, path: str, ask: Callable[[], httpx.Response], accepted: tuple[int, ...] = ()
    ) -> httpx.Response:
        for attempt in range(1, self.settings.attempts + 1):
            asked_for = None
            try:
                response = ask()
                asked_for = response.headers.get("Retry-After")
                self._require_good(path, response, accepted)
                return response
            except httpx.HTTPError as error:
                failure = self._without_answer(path, error)
                if attempt == self.settings.attempts or isinstance(failure, PacsRefused):
                    raise failure from error
            except PacsUnavailable as error:
                failure = error
                if attempt == self.settings.attempts:
                    raise
            self._wait(attempt, asked_for, path, failure)
        raise AssertionError("unreachable: there is at least one attempt")

    def _wait(self, attempt: int, asked_for: str | None, what: str, error: PacsError) -> None:
        # Jitter, so that several servers do not return to a PACS in step.
        wait = self.settings.backoff_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        wait = min(max(wait, _retry_after_s(asked_for)), LONGEST_WAIT_S)
        logger.info("%s failed (%s); attempt %d follows in %.1f s", what, error, attempt + 1, wait)
        self._sleep(wait)

    def _require_good(self, path: str, response: httpx.Response, accepted: tuple[int, ...]) -> None:
        status = response.status_code
        if response.is_success or status == 304 or status in accepted:
            return
        place = f"The PACS at {self.settings.root} answered {path} with {status}"
        if status in _BUSY:
            raise PacsUnavailable(f"{place}: it cannot do this now; it is tried again later.", status)
        if status in (401, 403):
            raise PacsRefused(f"{place}: check user, password or token in the PACS settings.", status)
        if status == 404:
            raise PacsRefused(
                f"{place}: it has no such object, or its address in the settings is wrong.", status
            )
        if 300 <= status < 400:
            raise PacsRefused(f"{place}, a redirect; give the final address in the PACS settings.", status)
        raise PacsRefused(f"{place}; it does not accept this request.", status)

    def _without_answer(self, path: str, error: httpx.HTTPError) -> PacsError:
        place = f"The PACS at {self.settings.root}"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return PacsRefused(
                f"{place} shows a certificate that is not trusted ({_distrust(error)}); give the file of its "
                "authority as pacs_ca_file, or correct the address."
            )
        reason = "cannot be reached"
        if isinstance(error, httpx.TimeoutException):
            reason = "gave no answer in time"
        elif isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
            reason = "broke off its answer"
        return PacsUnavailable(f"{place} {reason} ({path}).")


def _client_options(settings: PacsSettings) -> dict[str, Any]:
    # Credentials, TLS and time-outs.
    return {
        "auth": (settings.user, settings.password) if settings.user else None,
        "headers": {"Authorization": f"Bearer {settings.token}"} if settings.token else {},
        "verify": _tls(settings),
        "timeout": httpx.Timeout(settings.answer_s, connect=settings.connect_s),
        # A redirect could carry credentials and patients elsewhere; the settings name the address.
        "follow_redirects": False,
        "trust_env": False,
    }


def _tls(settings: PacsSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    except ssl.SSLError as error:
        raise ValueError(
            f"The file {settings.ca_file} for the PACS connection holds no certificate that can be read; "
            "give a PEM file, which begins with -----BEGIN CERTIFICATE-----."
        ) from error
    if settings.client_certificate is not None:
        key = str(settings.client_key) if settings.client_key else None
        try:
            context.load_cert_chain(str(settings.client_certificate), key)
        except ssl.SSLError as error:
            raise ValueError(
                f"The client certificate {settings.client_certificate} for the PACS connection cannot be "
                "used with its key; give PEM files of one pair, the key without a passphrase."
            ) from error
    return context


def _distrust(error: httpx.HTTPError) -> str:
    """Why a certificate is not trusted, in OpenSSL's words."""
    return str(error).rpartition("certificate verify failed: ")[2].partition(" (_ssl")[0].rstrip(".")


def _retry_after_s(value: str | None) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 without one."""
    if not value:
        return 0.0
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
