"""`ugmcl-assist serve`: check what was asked, tell the host, open the port, run until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from server import event_stream
from server.log_setup import log_config
from server.offline import load_app
from server.settings import ServerSettings, is_web_address
from server.stock_host import StartError, check_folders, check_not_in_use, configure

if TYPE_CHECKING:
    import uvicorn

GRACE_SECONDS = 10

OPEN_WARNING = """
  ######################################################################################
  #  WARNING: this server listens on {where}
  #
  #  There is NO AUTHENTICATION yet. Everyone who can reach that address can read the
  #  scans, submit and delete labels, and start training. Use it only on a network where
  #  everyone may do that, never with patient data on an open network.
  #  Only this machine: leave out --host (the default is 127.0.0.1).
  #  Clients are answered for the names: {names}
  ######################################################################################
"""


def serve(settings: ServerSettings) -> int:
    """Run the server until it is stopped.

    Returns:
        0 after a clean stop, 3 when the app failed while it started (the log says why).

    Raises:
        StartError: it cannot start as asked: a folder, the port, or a project already in use.
    """
    studies, workspace = check_folders(settings)
    check_not_in_use(workspace)
    listener = open_port(settings)
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    try:
        if not settings.is_loopback:
            sys.stderr.write(open_warning(settings))
        configure(settings, studies, workspace)
        (workspace / "logs").mkdir(exist_ok=True)
        return _run(settings, listener, log_config(workspace / "logs"))
    finally:
        listener.close()


def leave(status: int) -> NoReturn:
    """End this process once the server is shut down, without the interpreter's own teardown.

    The app's state is on disk by then. A daemon thread still inside native code (a measurement, an inference
    that outlived the grace period) would make that teardown abort the process or wait for minutes.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def open_port(settings: ServerSettings) -> socket.socket:
    """Bind the address before the slow start, so that a port in use is told at once.

    Raises:
        StartError: the address or port cannot be had.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise StartError(f"The address {settings.host} cannot be used: {error.strerror or error}.") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StartError(
            f"Port {settings.port} on {settings.host} cannot be opened ({error.strerror}); another program "
            f"may use it. Choose another with --port, as in --port {min(settings.port + 1, 65535)}."
        ) from None
    return listener


def open_warning(settings: ServerSettings) -> str:
    """The warning for an address that other machines can reach."""
    where = "every network interface of this machine" if settings.listens_everywhere else settings.host
    names = ", ".join(sorted(settings.host_names)) + (
        ", and the machine's own addresses" if settings.listens_everywhere else ""
    )
    return OPEN_WARNING.format(where=f"{where}, port {settings.port}.", names=names)


def ready_lines(address: str, counts: Mapping[str, Any], in_pacs: bool = False) -> str:
    """What a person who has just started the server needs to know.

    Args:
        address: Where it answers.
        counts: The datastore's `status()`.
        in_pacs: Whether the studies are a PACS rather than a folder.
    """
    total, aside = counts["total"], len(counts.get("quarantined", ()))
    lines = f"Ready: {total} scan{'' if total == 1 else 's'}, {counts['completed']} of them labeled"
    lines += f"; set aside: {aside}, {address}/info/ says why.\n" if aside else ".\n"
    if not total and not in_pacs:
        lines += (
            "No scan was found. Put .nii.gz, .nii or .nrrd files straight into the studies folder, not into "
            "folders inside it; they are found while the server runs.\n"
        )
    return lines + (
        f"In 3D Slicer give {address} as the MONAI Label server; in a browser it shows what can be asked of "
        "it. Training rounds are told of below.\n"
    )


def _server(config: uvicorn.Config, ready: Callable[[], str]) -> uvicorn.Server:
    """A server that says `ready()` when it is, and ends event streams when it is asked to stop."""
    import uvicorn
    from starlette.concurrency import run_in_threadpool

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                sys.stderr.write(await run_in_threadpool(ready))

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # It waits for open connections, and event streams would not end by themselves.
            event_stream.end_all()
            super().handle_exit(sig, frame)

    return Server(config)


def _run(settings: ServerSettings, listener: socket.socket, logging_config: dict[str, object]) -> int:
    import uvicorn

    from server.app import create_app
    from server.running_app import running_app

    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{shown}:{settings.port}"
    sys.stderr.write(f"Starting on {address} (Ctrl-C stops it) ...\n")
    config = uvicorn.Config(
        create_app(settings),
        log_config=logging_config,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    # Loaded here rather than by the running server: a refused setting is then a sentence, not a traceback.
    load_app()
    in_pacs = is_web_address(settings.studies)
    server = _server(config, lambda: ready_lines(address, running_app().datastore().status(), in_pacs))
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is shut down
        server.run(sockets=[listener])
    if not server.started:
        return 3
    sys.stderr.write("Stopped; the next start goes on from here.\n")
    return 0
