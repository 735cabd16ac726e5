"""The parts of a `multipart/form-data` reply by their names."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser
from typing import NamedTuple

from .errors import ServerOutOfReach


class Part(NamedTuple):
    """One part of a reply.

    Attributes:
        filename: As the server names the file; empty for a part that is none.
        content: Its bytes.
    """

    filename: str
    content: bytes


def parts_by_name(content_type: str, body: bytes) -> dict[str, Part]:
    """Split a multipart reply.

    Args:
        content_type: The reply's header, which holds the boundary.
        body: The whole body.

    Raises:
        ServerOutOfReach: If it is not a multipart reply, or breaks off before its closing boundary.
    """
    boundary = _parameter(content_type, "boundary")
    if not boundary:
        raise ServerOutOfReach("The server's answer is not in parts; is this a server of ugmcl-assist?")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if not pieces[-1].startswith(b"--"):
        raise ServerOutOfReach("The server's answer broke off; try again.")
    found = {}
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        headers = BytesHeaderParser().parsebytes(head.lstrip(b"\r\n"))
        name = headers.get_param("name", "", "content-disposition")
        found[str(name)] = Part(headers.get_filename() or "", content)
    return found


def _parameter(header: str, name: str) -> str:
    message = Message()
    message["Content-Type"] = header
    return str(message.get_param(name, ""))
