"""A relay in front of a PACS that breaks connections off in the middle of what is stored, or speaks TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

PIECE = 512


class CuttingRelay:
    """Passes TCP connections on to a port of this machine.

    Attributes:
        url: Its address.
        cut_after: Bytes of a POST, its head included, after which the connection is broken off; None: never.
        on_cut: Called before that.
        cuts: How many connections were broken off.
    """

    def __init__(self, port: int, certificate: Path | None = None) -> None:
        """`certificate`: PEM with its key; then the relay is reached by HTTPS."""
        self.cut_after: int | None = None
        self.on_cut: Callable[[], None] = lambda: None
        self.cuts = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """End all connections and threads."""
        for one in (self._listener, *self._open):
            _end(one)
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                self._start(self._connect, client)

    def _connect(self, client: socket.socket) -> None:
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._open.append(client)
            server = socket.create_connection(("127.0.0.1", self._port))
        except OSError:  # the PACS is down, or the client does not trust the certificate
            _end(client)
            return
        self._open.append(server)
        self._start(self._downwards, server, client)
        self._upwards(client, server)

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        sent: int | None = None  # of a POST
        with contextlib.suppress(OSError):
            while data := client.recv(PIECE):
                if data.startswith((b"POST ", b"GET ")):
                    sent = 0 if data.startswith(b"POST ") else None
                server.sendall(data)
                if sent is not None:
                    sent += len(data)
                    if self.cut_after is not None and sent > self.cut_after:
                        self.cuts += 1
                        self.on_cut()
                        break
        _end(server)
        _end(client)

    def _downwards(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
        _end(client)
        _end(server)


@contextlib.contextmanager
def cutting_relay(port: int, certificate: Path | None = None) -> Iterator[CuttingRelay]:
    relay = CuttingRelay(port, certificate)
    try:
        yield relay
    finally:
        relay.close()


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in it
    one.close()
