"""multipart: DICOM objects in `multipart/related` bodies (RFC 2387), written whole, read in pieces."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from email.message import Message

MAX_PART = 2 * 1024**3
"""Bytes; a larger object is taken for a broken answer."""
_MAX_HEADERS = 16 * 1024


class MultipartBroken(ValueError):
    """A body that is none, or ends before its closing boundary."""


def boundary_of(content_type: str) -> bytes:
    """The boundary of a `multipart/related` content type.

    Raises:
        MultipartBroken: For any other type.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_maintype() != "multipart" or not isinstance(boundary, str) or not boundary:
        raise MultipartBroken(f"the answer is {content_type[:80]!r}, not multipart/related")
    return boundary.encode("latin-1")


def read_parts(pieces: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    """The parts' contents one after the other; at most one part is in memory.

    Raises:
        MultipartBroken: If the body ends before its closing boundary, or a part is too large.
    """
    stream = iter(pieces)
    delimiter = b"\r\n--" + boundary
    buffer = bytearray(b"\r\n")  # the first boundary has no line end before it
    searched = 0
    opened = False
    while True:
        found = buffer.find(delimiter, searched)
        # What follows the boundary, two characters, tells whether it is the last.
        while found < 0 or len(buffer) < found + len(delimiter) + 2:
            searched = max(0, len(buffer) - len(delimiter)) if found < 0 else found
            piece = next(stream, None)
            if piece is None:
                raise MultipartBroken("the answer ends in the middle")
            buffer += piece
            if len(buffer) > MAX_PART:
                raise MultipartBroken("an object of the answer is too large")
            found = buffer.find(delimiter, searched)
        if opened:
            yield _content(bytes(buffer[:found]))
        after = found + len(delimiter)
        last = bytes(buffer[after : after + 2]) == b"--"
        del buffer[:after]
        searched, opened = 0, True
        if last:
            return


def _content(part: bytes) -> bytes:
    # The rest of the boundary's line (padding), header lines, an empty line, the content.
    line_end = part.find(b"\r\n")
    if part.startswith(b"\r\n\r\n", line_end):
        return part[line_end + 4 :]
    end = part.find(b"\r\n\r\n")
    if line_end < 0 or end < 0 or end > _MAX_HEADERS:
        raise MultipartBroken("a part of the answer has no headers")
    return part[end + 4 :]


def dicom_body(objects: Sequence[bytes]) -> tuple[bytes, str]:
    """A body with DICOM files as its parts, and its content type."""
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + content + b"\r\n" for content in objects) + f"--{boundary}--\r\n".encode()
    return body, f'multipart/related; type="application/dicom"; boundary={boundary}'
